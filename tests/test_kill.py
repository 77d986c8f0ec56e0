"""kill -9 at every write point: no finished stage is lost, and nothing half-written is taken for finished."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ["paint", "pick", "dim", "count"]


def start(store: Path, fault: str = "") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if fault:
        env["MAQUETTE_FAULT"] = fault
    return subprocess.run([sys.executable, str(ROOT / "tests" / "run_fake_pipeline.py"), str(store)], env=env,
                          capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = start(tmp_path_factory.mktemp("undisturbed"))
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["calls"] == ORDER
    return told


@pytest.mark.skipif(sys.platform == "win32", reason="not on Windows: there is no kill -9")
@pytest.mark.parametrize(("fault", "finished"), [
    ("put:saved@1", 0), ("put:saved@3", 2), ("put:timing@2", 1), ("put:rename@4", 3), ("put:kept@2", 2),
    ("write_file:rename@1", 0), ("write_file:rename@5", 1), ("checkpoint:rename@3", 3), ("checkpoint:kept@4", 3),
])
def test_kill_at_a_write_point(tmp_path: Path, undisturbed: dict[str, Any], fault: str, finished: int) -> None:
    killed = start(tmp_path, fault)
    assert killed.returncode == -9 and not killed.stdout
    again = start(tmp_path)
    assert again.returncode == 0, again.stderr
    told = json.loads(again.stdout)
    assert told["calls"] == ORDER[finished:], "a finished stage was lost, or an unfinished one taken for finished"
    assert told["result"] == undisturbed["result"] and told["keys"] == undisturbed["keys"]
