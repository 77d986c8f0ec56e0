"""The command: quick to start, one clear line for every mistake, honest exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.cli import _stoppable, main
from engine.errors import Cancelled
from engine.runs.events import Event
from engine.runs.run import Run
from engine.runs.store import Store
from tests.fake_stages import FakeModels, pipeline

HEAVY = ("torch", "warp", "diffusers", "transformers", "numpy", "PIL", "pydantic")


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip().splitlines()[-1]


def processor_seconds(code: str) -> float:
    """Processor time of the least of three processes: other work on the machine does not enter it."""
    resource = pytest.importorskip("resource", reason="not on Windows: no times of child processes")

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run_python(code)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return float(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(once() for _ in range(3))


def test_import_engine_loads_nothing_heavy() -> None:
    loaded = run_python(f"import engine, sys; print([m for m in {HEAVY} if m in sys.modules])")
    assert loaded == "[]"


def test_help_loads_nothing_heavy() -> None:
    loaded = run_python("import sys\nfrom engine.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit as e:\n"
                        f"    assert not e.code\nprint([m for m in {HEAVY} if m in sys.modules])")
    assert loaded == "[]"


def test_planning_modules_stay_light() -> None:
    heavy = ("torch", "warp", "diffusers", "transformers")
    loaded = run_python("import sys, engine.api, engine.pipelines, engine.export.folder, engine.models.sets\n"
                        f"print([m for m in {heavy} if m in sys.modules])")
    assert loaded == "[]"


def test_start_up_times() -> None:
    assert processor_seconds("import engine; print(1)") < 0.3
    assert processor_seconds("import sys; from engine.cli import main; main(['--help'])") < 0.5


def test_the_public_names_are_there() -> None:
    import engine
    from engine.api import make
    assert engine.make is make and set(engine.__all__) <= {*dir(engine), "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'mkae'"):
        engine.mkae


@pytest.mark.parametrize(("words", "code", "line"), [
    (["make", "", "--out", "x"], 2, "the prompt is empty"),
    (["make", "x" * 10_000, "--out", "x"], 2, "10,000 characters"),
    (["make", "mug", "--out", "x", "--quality", "hgih"], 2, "'draft', 'standard' or 'high'"),
    (["make", "mug", "--out", "x", "--models", "bultin"], 2, "builtin"),
    (["make", "mug", "--out", "x", "--set", "nonsense"], 2, "LABEL.parameter=VALUE"),
    (["make", "mug", "--out", "x", "--seed", "-1"], 2, "seed"),
    (["make", "mug", "--out", "x", "--height", "0"], 2, "height_m"),
    (["make", "mug", "--out", "x", "--device", "gpu"], 2, "device"),
    (["make", "mug", "--out", "x", "--store", "s3://bucket"], 2, "s3://bucket cannot be opened"),
    (["make", "--image", "none.png", "--out", "x"], 2, "none.png"),
    (["run", "none.toml", "--out", "x"], 2, "there is no recipe none.toml"),
    (["report", "."], 2, "report.json is missing"),
    (["fit", ".", "--out", "."], 2, "the folder of the pictures"),
])
def test_bad_input_is_one_line_and_exit_code_2(words: list[str], code: int, line: str, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(words)
    told = capsys.readouterr().err
    assert caught.value.code == code and line in told
    assert "Traceback" not in told and len(told.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    from engine.errors import BadInput
    with pytest.raises(BadInput):
        main(["make", "", "--out", str(tmp_path / "x"), "--debug"])


def test_a_defect_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("engine.doctor.examine", lambda *a: 1 / 0)
    with pytest.raises(SystemExit) as caught:
        main(["doctor"])
    assert caught.value.code == 1 and "ZeroDivisionError" in capsys.readouterr().err


def test_ctrl_c_stops_the_run_and_the_store_resumes(tmp_path: Path) -> None:
    run = Run(Store(tmp_path), FakeModels(), device="cpu")

    def interrupt(event: Event) -> None:
        if event.kind == "progress" and event.label == "count" and event.fraction >= 0.5:
            os.kill(os.getpid(), signal.SIGINT)

    run.listeners.append(interrupt)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Cancelled), _stoppable(run):
        run.execute(pipeline(run))
    assert signal.getsignal(signal.SIGINT) is before
    assert len(list(run.store.keys())) == 3
    again = Run(Store(tmp_path), FakeModels(), device="cpu")
    again.execute(pipeline(again))
    assert [o.accepted.cached for o in again.outcomes.values()] == [True, True, True, False]


def test_doctor_names_each_lack_with_what_mends_it(tmp_path: Path) -> None:
    from engine.doctor import examine
    findings = examine(str(tmp_path / "store"), "no such set")
    assert {f.what for f in findings} >= {"Python", "torch", "GPU", "memory", "store", "disk", "ffmpeg", "weights",
                                          "kernels"}
    assert all(f.mend for f in findings if f.state == "lack")
    assert [f.what for f in findings if f.state == "lack"] == ["weights"]


def test_doctor_sees_a_gpu_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from engine import doctor
    monkeypatch.setattr("engine.runs.devices.nvidia_present", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    (gpu,) = [f for f in doctor._torch() if f.what == "GPU"]
    assert (gpu.state, gpu.text) == ("note", "GPU present, CPU torch") and gpu.mend


def test_terminal_without_a_live_screen_prints_plain_lines(tmp_path: Path) -> None:
    import io

    from rich.console import Console

    from engine.runs.terminal import Terminal
    screen = io.StringIO()
    run = Run(Store(tmp_path), FakeModels(), device="cpu")
    with Terminal(Console(file=screen, width=100)) as terminal:
        run.listeners.append(terminal)
        run.execute(pipeline(run))
    lines = screen.getvalue().splitlines()
    assert lines[0] == "paint ..." and lines[1].startswith("paint done (") and "dim: dimmed" in lines


def test_terminal_live_shows_every_stage(tmp_path: Path) -> None:
    import io

    from rich.console import Console

    from engine.runs.terminal import Terminal
    screen = io.StringIO()
    run = Run(Store(tmp_path), FakeModels(), device="cpu")
    with Terminal(Console(file=screen, width=100, force_terminal=True, color_system=None)) as terminal:
        run.listeners.append(terminal)
        run.execute(pipeline(run))
    assert all(label in screen.getvalue() for label in ("paint", "pick", "dim", "count", "done"))


def test_the_log_is_json_lines(tmp_path: Path) -> None:
    from engine.runs.events import JsonLines
    log = JsonLines(tmp_path / "logs" / "x.jsonl")
    run = Run(Store(tmp_path), FakeModels(), device="cpu", listeners=[log])
    run.execute(pipeline(run))
    log.close()
    events = [json.loads(line) for line in (tmp_path / "logs" / "x.jsonl").read_text().splitlines()]
    assert {e["schema"] for e in events} == {1} and events[0]["labels"] == ["paint", "pick", "dim", "count"]
    assert [e["label"] for e in events if e["kind"] == "done"] == ["paint", "pick", "dim", "count"]
