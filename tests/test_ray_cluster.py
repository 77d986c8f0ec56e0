"""A real Ray cluster of two raylets on this machine: a worker, a raylet and the driver are killed; what comes out is
what the local executor makes, byte for byte, and nothing that had finished runs twice. Slow: Ray takes its time."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_fakes import LABELS, FakeAsset, FakePlanner, order_for

from engine.runs import files
from engine.runs.batch.processes import Processes
from engine.runs.batch.runner import run_batch

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
              pytest.mark.skipif(sys.platform == "win32", reason="not on Windows: no kill -9")]


def free_port() -> int:
    import socket
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def patiently(start: Callable[[], Any]) -> Any:
    """A raylet gives its helpers fifteen seconds to start, which a busy machine does not always have."""
    for _ in range(4):
        try:
            return start()
        except Exception as error:
            last = error
    raise last


class TwoMachines:
    """Two raylets behind a token on the loopback. ``calls`` counts the stages that really ran, over all workers."""

    def __init__(self, folder: Path) -> None:
        self.calls, self.marks = folder / "calls", folder / "marks"
        self.marks.mkdir()
        os.environ.update({
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": "120", "MAQUETTE_TEST_CALLS": str(self.calls),
            "MAQUETTE_TEST_MARKS": str(self.marks), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"})
        from ray.cluster_utils import Cluster
        self._cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args={
            "include_dashboard": False, **self._node()}))
        self.second = self.add()

    def _node(self) -> dict[str, Any]:
        return {"num_cpus": 1, "node_ip_address": "127.0.0.1", "include_log_monitor": False,
                **{name: free_port() for name in ("metrics_agent_port", "metrics_export_port",
                                                  "dashboard_agent_listen_port", "runtime_env_agent_port")}}

    def add(self) -> Any:
        self.second = patiently(lambda: self._cluster.add_node(**self._node()))
        return self.second

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def kill_second(self) -> None:
        """kill -9 of the second machine's raylet; its workers go with it."""
        os.kill(self.second.all_processes["raylet"][0].process.pid, signal.SIGKILL)

    def start(self, root: Path, assets: list[dict[str, Any]], **told: Any) -> subprocess.Popen[str]:
        words = json.dumps({"folder": str(root / "out"), "store": str(root / "store"), "assets": assets,
                            "address": self.address, **told})
        return subprocess.Popen([sys.executable, str(ROOT / "tests" / "run_fake_ray.py"), words],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def ran(self) -> list[str]:
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        self.calls.unlink(missing_ok=True)
        return sorted(lines)

    def close(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoMachines]:
    before = dict(os.environ)
    made = TwoMachines(tmp_path_factory.mktemp("ray"))
    yield made
    made.close()
    os.environ.clear()
    os.environ.update(before)


def ended(running: subprocess.Popen[str]) -> dict[str, Any]:
    out, errors = running.communicate(timeout=400)
    assert running.returncode == 0, errors[-3000:]
    told: dict[str, Any] = json.loads(out.splitlines()[-1])
    return told


def made(root: Path) -> dict[str, str]:
    """Every file of every result and every finished file, by its bytes; what tells times is left out."""
    store = {path.relative_to(root).as_posix(): files.file_digest(path)
             for path in sorted((root / "store" / "artifacts").rglob("*"))
             if path.is_file() and path.name != "timing.json"}
    return store | {path.relative_to(root).as_posix(): files.file_digest(path)
                    for path in sorted((root / "out").glob("assets/*/asset.png"))}


def locally(root: Path, assets: list[dict[str, Any]]) -> dict[str, str]:
    """The same assets without their faults, by the local executor."""
    plain = [FakeAsset(**{**one, "fault": ""}) for one in assets]
    run_batch(plain, FakePlanner(root / "store"), order_for(root / "out", root / "store"),
              lambda told: Processes(1, told, threads=1))
    return made(root)


def busy(root: Path, workers: int) -> None:
    """Wait until so many workers have an asset under way at once: one on each machine, as each has one core."""
    path, deadline = root / "out" / "journal.jsonl", time.monotonic() + 200
    while time.monotonic() < deadline:
        under_way: dict[str, str] = {}
        for text in path.read_text().splitlines() if path.exists() else []:
            line = json.loads(text) if text.endswith("}") else {"event": ""}
            if line["event"] == "taken":
                under_way[line["id"]] = line["worker"]
            elif line["event"] == "ended":
                under_way.pop(line["id"], None)
        if len(set(under_way.values())) >= workers:
            return
        time.sleep(0.1)
    raise AssertionError(f"{workers} workers never worked at once in {path}")


def test_a_killed_worker_is_replaced_and_the_results_are_the_local_ones(machines: TwoMachines, tmp_path: Path) -> None:
    for name in ("ray", "local"):
        (tmp_path / name).mkdir()
    assets = [{"id": "plain"}, {"id": "unlucky", "fault": "once:kill"}, {"id": "poison", "fault": "kill"},
              {"id": "wrong", "fault": "error:a cog"}, {"id": "hungry", "fault": "memory_until:1"}, {"id": "last"}]
    told = ended(machines.start(tmp_path / "ray", assets, policy={"alike": 99, "lost_retries": 1}))
    assert told["counts"] == {"done": 4, "failed": 1, "lost": 1}
    assert told["attempts"] == {"plain": 1, "unlucky": 2, "poison": 2, "wrong": 1, "hungry": 2, "last": 1}
    assert "its worker" in told["errors"]["poison"] and "ValueError: a cog" in told["errors"]["wrong"]
    assert not any("\n" in line for line in told["errors"].values())
    machines.ran()
    good = [one for one in assets if one["id"] not in ("poison", "wrong")]
    expected = locally(tmp_path / "local", good)
    # What was never finished of the two others has no place in either store.
    assert {name: sha for name, sha in made(tmp_path / "ray").items() if "manifest" not in name} == {
        name: sha for name, sha in expected.items() if "manifest" not in name}
    machines.ran()
    again = ended(machines.start(tmp_path / "ray", good, folder=str(tmp_path / "again")))
    assert again["counts"] == {"cached": 4} and machines.ran() == [], "something that had finished ran twice"


def test_a_hung_worker_is_killed(machines: TwoMachines, tmp_path: Path) -> None:
    told = ended(machines.start(tmp_path, [{"id": "woken", "fault": "once:hang"}, {"id": "fine"}], stall=5.0))
    assert told["counts"] == {"done": 2} and told["attempts"] == {"woken": 2, "fine": 1}


def test_a_machine_that_goes_away(machines: TwoMachines, tmp_path: Path) -> None:
    """kill -9 of a raylet in the midst of the work: what its workers held is made by the others."""
    (tmp_path / "local").mkdir()
    assets = [{"id": f"a{i}", "fault": "slow:4"} for i in range(8)]
    running = machines.start(tmp_path, assets)
    busy(tmp_path, workers=2)
    machines.kill_second()
    told = ended(running)
    # "cached" is an asset whose last stage was kept in the moment in which its worker's machine went away.
    assert sum(told["counts"].values()) == 8 and set(told["counts"]) <= {"done", "cached"}
    assert told["retried"] >= 1 and not told["stopped"]
    assert made(tmp_path) == locally(tmp_path / "local", assets)
    machines.add()


def test_a_killed_driver_goes_on_where_it_was(machines: TwoMachines, tmp_path: Path) -> None:
    for name in ("ray", "local"):
        (tmp_path / name).mkdir()
    assets = [{"id": f"a{i}", "fault": "slow:1"} for i in range(6)]
    machines.ran()
    running = machines.start(tmp_path / "ray", assets)
    busy(tmp_path / "ray", workers=2)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    time.sleep(3)  # Ray ends the workers of a driver that is gone
    before = machines.ran()
    told = ended(machines.start(tmp_path / "ray", assets))
    assert sum(told["counts"].values()) == 6 and set(told["counts"]) <= {"done", "cached"}
    both = before + machines.ran()
    assert set(both) == {f"a a{i}|{label}" for i in range(6) for label in LABELS}
    assert len(both) - len(set(both)) <= 2, "more ran twice than the two stages that were under way"
    assert made(tmp_path / "ray") == locally(tmp_path / "local", assets)


def test_without_the_token_nobody_is_let_in(machines: TwoMachines, tmp_path: Path) -> None:
    before = os.environ["RAY_AUTH_TOKEN"]
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        told = ended(machines.start(tmp_path, [{"id": "a"}]))
    finally:
        os.environ["RAY_AUTH_TOKEN"] = before
    assert told["exit"] == 2 and "no Ray cluster answers" in told["error"] and "\n" not in told["error"]
