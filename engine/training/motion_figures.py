"""How a drawn clip moves, beside how true ones do: how much, which way, and whether its figure stays one figure.

``python -m engine.training.motion_figures`` draws a clip of each motion with the built-in models and prints it all.

A motion's pattern is the mean, over true clips, of what changes in a coarse picture of the figure's ink: where there is
more or less of it than on average, at each of its moments. A clip is said to show the motion whose pattern it goes
along with best; true held-out clips give the figure that a perfect drawing would have.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.training.clip_latents import Clips
from engine.training.data import over

CELLS = 16
"""Of the coarse picture, a side: a limb is about one wide."""


def ink(frames: np.ndarray) -> np.ndarray:
    """(f, h, w, 3) in [0, 1], over white -> (f, CELLS, CELLS): how far each cell is from white, 0 to 1."""
    f, h, w, _ = frames.shape
    dark = 1 - frames.astype(np.float64).min(-1)
    return dark.reshape(f, CELLS, h // CELLS, CELLS, w // CELLS).mean((2, 4))


def changes(frames: np.ndarray) -> np.ndarray:
    """What changes of a clip's ink, (f, CELLS, CELLS): each cell less its own mean over time."""
    found = ink(frames)
    return found - found.mean(0)


def magnitude(frames: np.ndarray) -> float:
    """The mean difference of neighbouring frames where the figure is in either, 0 to 1; the loop is closed."""
    after = np.roll(frames, -1, 0)
    seen = np.minimum(frames.min(-1), after.min(-1)) < 0.9
    return float(np.abs(after - frames).mean(-1)[seen].mean()) if seen.any() else 0.0


def drift(frames: np.ndarray) -> float:
    """How the figure's mean colour wanders from frame to frame: the standard deviation over time, mean of channels."""
    means = [frame[frame.min(-1) < 0.9].mean(0) if (frame.min(-1) < 0.9).any() else np.ones(3) for frame in frames]
    return float(np.std(means, axis=0).mean())


def patterns(clips: Clips, most: int = 60) -> dict[str, np.ndarray]:
    """Motion -> its pattern (f, CELLS, CELLS) of length 1, of clips of one cycle."""
    found: dict[str, list[np.ndarray]] = {}
    for i, spec in enumerate(clips.specs):
        rows = found.setdefault(str(spec["motion"]), [])
        if spec["speed"] == 1 and len(rows) < most:
            rows.append(changes(over(clips.rgba(i))))
    return {name: unit(np.mean(rows, 0)) for name, rows in found.items() if rows}


def unit(x: np.ndarray) -> np.ndarray:
    return x / max(float(np.sqrt((x**2).sum())), 1e-12)


def along(frames: np.ndarray, known: Mapping[str, np.ndarray]) -> dict[str, float]:
    """How far a clip goes along with each motion's pattern: their cosine, -1 to 1."""
    mine = unit(changes(frames))
    return {name: float((mine * pattern).sum()) for name, pattern in known.items()}


def figures(clips: Sequence[np.ndarray], motions: Sequence[str], known: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Means over clips (f, h, w, 3) that were asked for these motions.

    shown : share whose motion is the one that the clip goes along with best; cosine : with the asked one's pattern
    magnitude, drift : see there
    """
    cosines = [along(clip, known) for clip in clips]
    return {"shown": float(np.mean([max(c, key=lambda k: c[k]) == name  # type: ignore[misc]
                                    for c, name in zip(cosines, motions, strict=True)])),
            "cosine": float(np.mean([c[name] for c, name in zip(cosines, motions, strict=True)])),
            "magnitude": float(np.mean([magnitude(clip) for clip in clips])),
            "drift": float(np.mean([drift(clip) for clip in clips]))}


def of_truth(clips: Clips, known: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The same of true held-out clips of one cycle."""
    rows = [i for i, spec in enumerate(clips.specs) if spec["speed"] == 1 and spec["motion"] in known]
    return figures([over(clips.rgba(i)) for i in rows], [str(clips.specs[i]["motion"]) for i in rows], known)


WHO = {"idle": "a princess in a pink dress", "walk": "a knight in red armour", "run": "a farmer in a green shirt",
       "wave": "a wizard in a purple robe", "jump": "an astronaut in a white suit", "dance": "a king in a red robe",
       "kick": "a ninja in a black suit", "punch": "an archer in a green cloak", "march": "a soldier in a green jacket",
       "cheer": "a viking in a brown tunic", "clap": "a villager in a yellow tunic", "spin": "a blue robot"}
"""Who shows each motion; the last is the motion LoRA's."""


def of_drawings(draw: Callable[[str, str, bool], np.ndarray], known: Mapping[str, np.ndarray]
                ) -> dict[str, dict[str, float]]:
    """The figures of one clip a motion, and of the motion LoRA's motion without and with it.

    draw : (prompt, motion, whether with the motion LoRA) -> (f, h, w, 3)
    """
    plain = [name for name in WHO if name != "spin"]
    told = {"motions": figures([draw(WHO[name], name, False) for name in plain], plain, known)}
    for with_lora in (False, True):
        told[f"spin {'with' if with_lora else 'without'} its LoRA"] = figures(
            [draw(f"{WHO['spin']}, spin", "", with_lora)], ["spin"], known)
    return told


def main(arguments: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(prog="python -m engine.training.motion_figures", description=__doc__)
    p.add_argument("--clips", type=Path, default=Path("scratch/characters"), help="folder of the character shards")
    p.add_argument("--work", type=Path, default=Path("scratch/training"), help="with their latents")
    p.add_argument("--store", type=Path, default=Path("scratch/motion_figures"), help="where what is drawn is kept")
    p.add_argument("--pace", type=float, default=0.6, help="share of the model's own number of steps")
    a = p.parse_args(arguments)
    from engine.models.sets import model_set
    from engine.runs.run import Run
    from engine.runs.store import Store
    from engine.stages.text_to_clip import text_to_clip
    train, held_out = Clips(a.clips, "train", a.work), Clips(a.clips, "held_out", a.work)
    known = patterns(train)
    run: Any = Run(Store(a.store), models=model_set("builtin"))
    count = iter(range(1000))

    def draw(prompt: str, motion: str, with_lora: bool) -> np.ndarray:
        handle = run(text_to_clip, prompt=prompt, motion=motion, motion_lora=with_lora, loop=True, pace=a.pace,
                     label=f"clip_{next(count)}")
        return np.asarray(run.execute(handle).frames[..., :3])

    print(json.dumps({**of_drawings(draw, known), "truth": of_truth(held_out, known)}, indent=1))


if __name__ == "__main__":
    main()
