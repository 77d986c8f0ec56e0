"""Windows and noise of long clips, by hand."""

from __future__ import annotations

import pytest
import torch

from engine.diffusion.motion import mixed_noise
from engine.diffusion.motion_windows import TURN, averaged, in_phase, rescheduled, turned, windows


def test_windows_by_hand() -> None:
    assert windows(5, 8, 2) == [[0, 1, 2, 3, 4]]
    assert windows(8, 8, 2) == [list(range(8))]
    assert windows(9, 8, 2) == [list(range(8)), list(range(1, 9))]
    assert windows(24, 16, 4) == [list(range(16)), list(range(8, 24))]
    assert windows(10, 4, 1) == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert windows(6, 4, 0) == [[0, 1, 2, 3], [2, 3, 4, 5]]  # no window is short: the overlap grows
    assert windows(1, 16, 4) == windows(1, 16, 4, loop=True, step=5) == [[0]]


def test_loops_wrap_round() -> None:
    assert windows(32, 16, 4, loop=True) == [list(range(16)), list(range(11, 27)), [*range(21, 32), *range(5)]]
    assert windows(6, 4, 1, loop=True) == [[0, 1, 2, 3], [3, 4, 5, 0]]
    # the next steps begin elsewhere: 0.618 of 6 is 3, twice that is 1.2 loops: 0.236 of 6 is 1
    assert [turned(6, step) for step in range(4)] == [0, 3, 1, 5]
    assert windows(6, 4, 1, loop=True, step=1) == [[3, 4, 5, 0], [0, 1, 2, 3]]
    assert windows(4, 8, 2, loop=True, step=1) == [[2, 3, 0, 1]]
    assert windows(4, 8, 2, step=1) == [[0, 1, 2, 3]]
    assert round(TURN, 9) == 0.618033989


@pytest.mark.parametrize("loop", [False, True])
def test_every_frame_is_seen_and_neighbours_overlap(loop: bool) -> None:
    for frames in range(1, 60):
        for window, overlap in ((1, 0), (4, 0), (4, 3), (16, 4), (24, 4)):
            found = windows(frames, window, overlap, loop, step=3)
            assert {frame for one in found for frame in one} == set(range(frames))
            assert all(len(one) == min(frames, window) == len(set(one)) for one in found)
            pairs = list(zip(found, found[1:] + found[:1] if loop else found[1:], strict=False))
            if len(found) > 1:
                assert all(len(set(a) & set(b)) >= overlap for a, b in pairs)
            if not loop:
                assert all(one == list(range(one[0], one[0] + len(one))) for one in found)


def test_windows_are_averaged_where_they_overlap() -> None:
    """Each window answers with its own number: 1, 2, 3. Three frames are in two windows."""
    latents = torch.zeros(10, 1, 1, 1)
    asked: list[list[int]] = []

    def predict(part: torch.Tensor, frames: list[int]) -> torch.Tensor:
        asked.append(frames)
        return torch.full_like(part, len(asked)) + part

    found = averaged(predict, latents, windows(10, 4, 1)).flatten().tolist()
    assert found == [1, 1, 1, 1.5, 2, 2, 2.5, 3, 3, 3]
    assert asked == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]


def test_a_turned_window_answers_in_the_order_of_the_clip() -> None:
    latents = torch.arange(4.0).view(4, 1, 1, 1)
    assert averaged(lambda part, _: part * 10, latents, [[2, 3, 0, 1]]).flatten().tolist() == [0, 10, 20, 30]
    wide = averaged(lambda part, _: part.expand(-1, 2, -1, -1), latents, [[0, 1, 2], [1, 2, 3]])
    assert wide.shape == (4, 2, 1, 1) and torch.equal(wide[:, :1], latents)


def test_places_in_time_are_moments_of_a_cycle() -> None:
    """Windows of 4 over a cycle of 4: frame 3 is at the cycle's last moment in both that see it."""
    assert in_phase(windows(7, 4, 1), 4) == [[0, 1, 2, 3], [4, 5, 6, 3]]
    for step in range(5):
        for window in in_phase(windows(8, 4, 1, loop=True, step=step), 4):
            assert [frame % 4 for frame in window] == [0, 1, 2, 3]
        assert in_phase(windows(4, 8, 2, loop=True, step=step), 4) == [[0, 1, 2, 3]]
    assert in_phase([[2, 3, 4, 0]], 4) == [[2, 3, 4, 0]]  # a loop of 5: 0 and 4 are one moment
    assert in_phase([[5, 6]], 4) == [[5, 6]] and in_phase([[5, 6, 7, 8]], 0) == [[5, 6, 7, 8]]


def test_rescheduled_noise_is_the_window_in_other_orders() -> None:
    """FreeNoise: frames 4, 5, 6 are 0, 1, 2 shuffled; 7, 8, 9 are 3, 4, 5 of the clip so far, shuffled."""
    noise = torch.arange(4.0).view(4, 1, 1, 1)
    made = rescheduled(noise, 10, 4, 1, torch.Generator().manual_seed(0)).flatten().tolist()
    assert made[:4] == [0, 1, 2, 3]
    assert sorted(made[4:7]) == [0, 1, 2] and sorted(made[7:10]) == sorted(made[3:6])
    again = rescheduled(noise, 10, 4, 1, torch.Generator().manual_seed(0)).flatten().tolist()
    assert again == made
    assert rescheduled(noise, 3, 4, 1, torch.Generator()).flatten().tolist() == [0, 1, 2]
    orders = {tuple(rescheduled(noise, 7, 4, 1, torch.Generator().manual_seed(k)).flatten().tolist())
              for k in range(30)}
    assert len(orders) == 6  # every order of three


def test_mixed_noise_shares_as_much_as_it_says() -> None:
    g = torch.Generator().manual_seed(0)
    own, shared = torch.randn(2000, 2, 4, 4, 4, generator=g), torch.randn(2000, 1, 4, 4, 4, generator=g)
    made = mixed_noise(own, shared, 0.36).double()
    assert torch.allclose(made[:, 0], (0.8 * own[:, 0] + 0.6 * shared[:, 0]).double(), atol=1e-6)
    assert abs(float((made[:, 0] * made[:, 1]).mean()) - 0.36) < 0.01 and abs(float(made.var()) - 1) < 0.01
    assert torch.equal(mixed_noise(own, shared, 0.0), own)
