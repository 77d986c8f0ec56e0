"""Keys, handles, gates, attempts, seeds, events: the mechanism with small stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.artifacts import Candidates, Picture
from engine.errors import BadInput, Cancelled, GateRefused, RunFailed
from engine.runs import keys
from engine.runs.events import Event
from engine.runs.run import Run
from engine.runs.store import Store
from tests.fake_stages import CALLS, STOP_AT, FakeModels, count, dim, paint, pick, pipeline


@pytest.fixture
def store(tmp_path: Path) -> Store:
    CALLS.clear()
    STOP_AT.clear()
    return Store(tmp_path / "store")


def new_run(store: Store, **kwargs: Any) -> Run:
    return Run(store, kwargs.pop("models", FakeModels()), device="cpu", **kwargs)


def calls() -> list[str]:
    taken = list(CALLS)
    CALLS.clear()
    return taken


def test_a_plan_runs_nothing_and_is_the_same_every_time(store: Store) -> None:
    first, second = pipeline(new_run(store)), pipeline(new_run(store))
    assert first == second and len(first.key) == 64
    assert calls() == [] and list(store.keys()) == []


@pytest.mark.parametrize("change", [
    {"seed": 1}, {"asset": "a"}, {"quality": "high"}, {"models": FakeModels("2")}, {"precision": "float16"},
    {"backend": "tcnn"}, {"overrides": {"paint": {"prompt": "y"}}}, {"gates": {"dim": {"mean": {"minimum": 0.1}}}},
    {"gates": {"dim": {"attempts": 3}}},
])
def test_all_that_a_result_depends_on_is_in_its_key(store: Store, change: dict[str, Any]) -> None:
    assert pipeline(new_run(store)).key != pipeline(new_run(store, **change)).key


def test_paths_stay_out_of_keys(store: Store, tmp_path: Path) -> None:
    a, b = (new_run(store)(paint, source=tmp_path / name) for name in ("a", "b"))
    assert a.key == b.key


def test_only_what_changed_runs_again(store: Store) -> None:
    run = new_run(store)
    first = run.execute(pipeline(run))
    assert calls() == ["paint", "pick", "dim", "count"]
    run = new_run(store)
    again = run.execute(pipeline(run))
    assert calls() == [] and np.array_equal(first.image, again.image)
    assert all(o.accepted.cached for o in run.outcomes.values())
    run = new_run(store, overrides={"count": {"steps": 3}})
    run.execute(pipeline(run))
    assert calls() == ["count"]
    run = new_run(store)
    run.execute(pipeline(run, index=2))
    assert calls() == ["pick", "dim", "count"]


def test_what_is_handed_on_is_what_was_kept(store: Store) -> None:
    """A fresh run and a resumed one must see the same 8-bit pictures."""
    run = new_run(store)
    picture = run.execute(run(pick, run(paint)))
    assert np.array_equal(picture.image, np.round(picture.image * 255).astype(np.float32) / 255)


def test_seeds_follow_names_only() -> None:
    seeds = {keys.seed_of(r, a, name, c, t)
             for r in (0, 1) for a in ("", "a") for name in ("x", "y") for c in (0, 1) for t in (0, 1)}
    assert len(seeds) == 32 and all(0 <= s < 2**63 for s in seeds)
    # Frozen: assets that users keep are made again from these numbers.
    assert keys.seed_of(0, "", "text_to_image") == 4395446184487451093
    assert keys.digest({"b": 1, "a": [1.5, "é"]}) == keys.digest({"a": [1.5, "é"], "b": 1})
    with pytest.raises(ValueError):
        keys.digest(float("nan"))


def test_candidate_i_does_not_depend_on_how_many_there_are(store: Store) -> None:
    few, many = new_run(store), new_run(store)
    a = few.execute(few(paint, count=2))
    b = many.execute(many(paint, count=5))
    assert isinstance(a, Candidates) and np.array_equal(a.pictures[1].image, b.pictures[1].image)


def test_wrong_artifacts_and_labels_are_found_while_planning(store: Store) -> None:
    run = new_run(store)
    candidates = run(paint)
    with pytest.raises(TypeError, match="artifact 1 of dim is Picture, got Candidates of paint"):
        run(dim, candidates)
    with pytest.raises(TypeError, match="takes 1 artifacts, got 2"):
        run(pick, candidates, candidates)
    with pytest.raises(TypeError, match="used twice"):
        run(paint)
    with pytest.raises(TypeError, match="another run"):
        new_run(store)(pick, candidates)


@pytest.mark.parametrize(("kwargs", "words"), [
    ({"overrides": {"pain": {}}}, "unknown label 'pain' in --set or \\[stages.*Did you mean paint"),
    ({"gates": {"dimm": {}}}, "Did you mean dim"),
    ({"until": "dmi"}, "--until. Did you mean dim"),
    ({"overrides": {"paint": {"sise": 3}}}, "unknown parameter paint.sise. Did you mean size"),
    ({"overrides": {"paint": {"size": 0}}}, "paint.size: .*greater than or equal to 1.*got 0.*1 to 64"),
    ({"overrides": {"dim": {"factor": float("nan")}}}, "dim.factor"),
    ({"gates": {"dim": {"mean": {"minimun": 1}}}}, "Did you mean minimum"),
    ({"gates": {"dim": {"mean": {"remedy": {"factor": 7}}}}}, "dim.factor"),
    ({"gates": {"dim": {"attempts": 0}}}, "attempts"),
    ({"quality": "hi"}, "unknown quality 'hi'. Did you mean high"),
])
def test_bad_names_and_values_name_the_nearest_known(store: Store, kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        run = new_run(store, **kwargs)
        run.execute(pipeline(run))
    assert calls() == []


def test_a_gate_that_refuses_leads_to_the_next_attempt_with_its_remedy(store: Store) -> None:
    run = new_run(store, overrides={"dim": {"factor": 0.1}})
    run.execute(pipeline(run))
    attempts = run.outcomes["dim"].attempts
    assert [a.accepted for a in attempts] == [False, True]
    assert [a.params["factor"] for a in attempts] == [0.1, 0.9]
    assert attempts[0].key != attempts[1].key and attempts[0].seed != attempts[1].seed
    assert calls() == ["paint", "pick", "dim", "dim", "count"]
    again = new_run(store, overrides={"dim": {"factor": 0.1}})
    again.execute(pipeline(again))
    assert calls() == [] and [a.key for a in again.outcomes["dim"].attempts] == [a.key for a in attempts]


def test_loosening_a_gate_reuses_what_is_there(store: Store) -> None:
    strict = {"dim": {"mean": {"minimum": 0.99}}}
    run = new_run(store, gates=strict)
    with pytest.raises(GateRefused, match=r"dim was refused after 2 attempts: mean 0\.\d+ is below 0.99 \(too dark\)"):
        run.execute(pipeline(run))
    assert calls() == ["paint", "pick", "dim", "dim"]
    run = new_run(store)
    run.execute(pipeline(run))
    assert calls() == ["count"]  # dim's first attempt was refused then and is accepted now
    run = new_run(store, gates={"dim": {"mean": {"minimum": 0.0}}})
    run.execute(pipeline(run))
    assert calls() == []  # and what follows from an accepted artifact is not made again either
    run = new_run(store, gates={"dim": {"mean": False, "sharpness": {"minimum": 1}, "attempts": 1}})
    with pytest.raises(GateRefused, match=r"sharpness was not measured \(Known: mean\)"):
        run.execute(pipeline(run))


def test_until_stops_after_a_stage(store: Store) -> None:
    run = new_run(store, until="pick")
    goal = pipeline(run)
    outcomes = run.perform(goal)
    assert [o.node.label for o in outcomes] == ["paint", "pick"] and calls() == ["paint", "pick"]
    assert isinstance(run.load(run.planned["pick"].handle), Picture)
    with pytest.raises(LookupError):
        run.load(goal)


def test_a_failed_stage_resumes_from_its_checkpoint_with_equal_bytes(store: Store, tmp_path: Path) -> None:
    STOP_AT.append(6)
    run = new_run(store, checkpoint_seconds=0.0)
    with pytest.raises(RunFailed, match="count failed: RuntimeError: interrupted for the test"):
        run.execute(pipeline(run))
    key = next((store.root / "checkpoints").iterdir()).name
    resumed = new_run(store, checkpoint_seconds=0.0)
    seen: list[float] = []
    resumed.listeners.append(lambda e: seen.append(e.fraction) if e.kind == "progress" else None)
    a = resumed.execute(pipeline(resumed))
    assert seen == pytest.approx([0.7, 0.8, 0.9, 1.0])
    assert resumed.outcomes["count"].accepted.key == key and not (store.root / "checkpoints" / key).exists()
    straight = new_run(Store(tmp_path / "other"))
    assert np.array_equal(a.image, straight.execute(pipeline(straight)).image)


def test_cancel_keeps_a_checkpoint_and_the_finished_stages(store: Store) -> None:
    run = new_run(store)

    def stop(event: Event) -> None:
        if event.kind == "progress" and event.label == "count" and event.fraction >= 0.5:
            run.cancel()

    run.listeners.append(stop)
    with pytest.raises(Cancelled):
        run.execute(pipeline(run))
    assert len(list(store.keys())) == 3
    CALLS.clear()
    again = new_run(store)
    told: list[float] = []
    again.listeners.append(lambda e: told.append(e.fraction) if e.kind == "progress" else None)
    again.execute(pipeline(again))
    assert calls() == ["count"] and told[0] == pytest.approx(0.7)  # step 6 was kept when the run was stopped


def test_ctrl_c_inside_a_stage_is_a_cancelled_run(store: Store) -> None:
    run = new_run(store)

    def interrupt(event: Event) -> None:
        if event.kind == "progress" and event.label == "count":
            raise KeyboardInterrupt

    run.listeners.append(interrupt)
    with pytest.raises(Cancelled) as caught:
        run.execute(pipeline(run))
    assert caught.value.exit_code == 130 and len(list(store.keys())) == 3


def test_one_stream_of_events(store: Store) -> None:
    events: list[Event] = []
    run = new_run(store, listeners=[events.append])
    run.execute(pipeline(run))
    assert [(e.kind, e.label) for e in events if e.kind != "progress"] == [
        ("planned", ""), ("started", "paint"), ("done", "paint"), ("started", "pick"), ("done", "pick"),
        ("started", "dim"), ("warning", "dim"), ("done", "dim"), ("started", "count"), ("done", "count")]
    assert events[0].labels == ("paint", "pick", "dim", "count")
    assert all(e.to_json()["schema"] == 1 for e in events)
    again: list[Event] = []
    run = new_run(store, listeners=[again.append])
    run.execute(pipeline(run))
    assert [e.kind for e in again] == ["planned"] + ["cached"] * 4


def test_a_role_that_was_not_declared_is_refused(store: Store) -> None:
    spec = paint.spec  # type: ignore[attr-defined]
    assert spec.roles == ("painter",)
    object.__setattr__(spec, "roles", ())  # what a run plans with is what its job hands out
    try:
        run = new_run(store)
        handle = run(paint)
        assert run.planned["paint"].weights == {}
        with pytest.raises(RunFailed, match="did not declare"):
            run.execute(handle)
    finally:
        object.__setattr__(spec, "roles", ("painter",))


def test_quality_is_a_table_that_calls_and_overrides_win_over(store: Store) -> None:
    assert new_run(store, quality="draft")(paint).key == new_run(store)(paint, size=4).key
    assert new_run(store, quality="draft")(paint, size=8).key == new_run(store)(paint).key
    run = new_run(store, quality="draft", overrides={"paint": {"size": 8}})
    assert run(paint, size=5).key == new_run(store)(paint).key


def test_labels_let_a_stage_stand_twice(store: Store) -> None:
    run = new_run(store)
    once = run(dim, run(pick, run(paint)), factor=0.9)
    twice = run(dim, once, label="again", factor=0.9)
    assert run.execute(twice).image.mean() < run.execute(once).image.mean()
    assert run.needed([once])[-1].label == "dim" and run.needed([twice])[-1].label == "again"
    assert count.spec.output is Picture  # type: ignore[attr-defined]
