"""Batches under faults that really happen: kill -9 of the run and of workers, hangs, lack of memory, a full disk, a
flipped bit, two runs in one folder, a recipe edited during its run."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from batch_fakes import LABELS, FakeAsset, FakePlanner, order_for

from engine.errors import BadInput, RunFailed
from engine.runs import files
from engine.runs.batch.conduct import Policy
from engine.runs.batch.journal import read_journal
from engine.runs.batch.processes import Processes
from engine.runs.batch.runner import Ended, run_batch
from engine.runs.store import Store

ROOT = Path(__file__).parent.parent
NO_KILL = pytest.mark.skipif(sys.platform == "win32", reason="not on Windows: there is no kill -9")


class Bench:
    """A store, a run's folder, and a count of the stages that really ran."""

    def __init__(self, root: Path) -> None:
        self.store, self.out, self.calls, self.marks = (root / n for n in ("store", "out", "calls", "marks"))
        self.marks.mkdir()

    def run(self, assets: list[FakeAsset], workers: int = 1, stall: float | None = None, digest: str = "d",
            changes: dict[str, Any] | None = None, **policy: Any) -> Ended:
        order = order_for(self.out, self.store, Policy(**policy), digest, stall, **(changes or {}))
        return run_batch(assets, FakePlanner(self.store), order, lambda told: Processes(workers, told, threads=1))

    def start(self, assets: list[dict[str, Any]], fault: str = "", **told: Any) -> subprocess.Popen[str]:
        env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
               "MAQUETTE_TEST_CALLS": str(self.calls), "MAQUETTE_TEST_MARKS": str(self.marks),
               **({"MAQUETTE_FAULT": fault} if fault else {})}
        words = json.dumps({"folder": str(self.out), "store": str(self.store), "assets": assets, **told})
        return subprocess.Popen([sys.executable, str(ROOT / "tests" / "run_fake_batch.py"), words], env=env,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def ran(self) -> Counter[str]:
        return Counter(self.calls.read_text().splitlines()) if self.calls.exists() else Counter()

    def artifacts(self) -> dict[str, str]:
        """Every file of every result, and every finished file, by its bytes; what tells times is left out."""
        store = {path.relative_to(self.store).as_posix(): files.file_digest(path)
                 for path in sorted((self.store / "artifacts").rglob("*"))
                 if path.is_file() and path.name != "timing.json"}
        return store | {path.relative_to(self.out).as_posix(): files.file_digest(path)
                        for path in sorted(self.out.glob("assets/*/asset.png"))}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path)
    monkeypatch.setenv("MAQUETTE_TEST_CALLS", str(made.calls))
    monkeypatch.setenv("MAQUETTE_TEST_MARKS", str(made.marks))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
    return made


def statuses(ended: Ended) -> dict[str, str]:
    return {asset["id"]: asset["status"] for asset in ended.manifest["assets"]}


def test_the_others_finish_whatever_one_does(bench: Bench) -> None:
    """One run with every kind of asset: what each becomes, how often each was tried, and what is kept of it."""
    faults = {"good": "", "poison": "kill", "ends": "exit", "broken": "error:a cog", "refused": "", "thirsty": "memory",
              "modest": "memory_until:2", "unlucky": "once:kill", "late": ""}
    assets = [FakeAsset(id, fault=fault, prompt="a dark thing" if id == "refused" else "") for id, fault in
              faults.items()]
    ended = bench.run(assets, workers=2, alike=99)
    assert statuses(ended) == {"good": "done", "poison": "lost", "ends": "lost", "broken": "failed",
                               "refused": "refused", "thirsty": "failed", "modest": "done", "unlucky": "done",
                               "late": "done"}
    told = {asset["id"]: asset for asset in ended.manifest["assets"]}
    assert {id: told[id]["attempts"] for id in faults} == {
        "good": 1, "poison": 3, "ends": 3, "broken": 1, "refused": 1, "thirsty": 3, "modest": 3, "unlucky": 2,
        "late": 1}
    assert "killed (SIGKILL)" in told["poison"]["error"] and "exit code 3" in told["ends"]["error"]
    assert told["broken"]["error"].startswith("draw failed: ValueError: a cog of a broken")
    assert "too dark" in told["refused"]["error"] and "ran out of memory" in told["thirsty"]["error"]
    assert len(ended.conducted.failures) == 5 and not ended.conducted.stopped
    assert [one["path"] for one in told["good"]["files"]] == ["asset.png"]
    bench.calls.unlink()
    again = bench.run(assets, workers=1, alike=99, lost_retries=0, memory_retries=0)
    assert [p.state for p in again.plan.assets] == [
        "finished" if s == "done" else "refused" if id == "refused" else "run" for id, s in statuses(ended).items()]
    assert bench.ran() == {}, "something that had finished ran twice"


def test_a_hung_worker_is_killed_and_the_asset_tried_again(bench: Bench) -> None:
    assets = [FakeAsset("stuck", fault="hang"), FakeAsset("woken", fault="once:hang"), FakeAsset("fine")]
    ended = bench.run(assets, workers=2, stall=4.0, lost_retries=1)
    assert statuses(ended) == {"stuck": "lost", "woken": "done", "fine": "done"}
    assert "said nothing for" in ended.manifest["assets"][0]["error"]


@NO_KILL
def test_kill_9_of_the_run_then_the_same_command(tmp_path: Path, bench: Bench) -> None:
    """At moments of chance and at each write point of the journal: equal bytes, and nothing that had finished ran
    twice. The workers of a killed run end with it."""
    assets = [{"id": f"a{i}", "fault": "slow:0.1"} for i in range(4)]
    (tmp_path / "straight").mkdir()
    straight = Bench(tmp_path / "straight")
    whole, _ = straight.start(assets).communicate(timeout=300)
    assert json.loads(whole)["counts"] == {"done": 4}
    rng = random.Random(5)
    for fault in ("journal:placed", "journal:taken", "journal:ended@2", "", ""):
        running = bench.start(assets, fault)
        if not fault:
            time.sleep(rng.uniform(2.0, 6.0))
            running.send_signal(signal.SIGKILL)
        running.communicate(timeout=300)
        assert running.returncode in (-9, 0)
    last = bench.start(assets)
    told, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors
    assert sum(json.loads(told)["counts"].values()) == 4 and json.loads(told)["state"] == "finished"
    assert bench.artifacts() == straight.artifacts()
    # A stage counts once for the result that was kept; one more where the kill fell between its end and its keeping.
    kept = {f"a a{i}|{label}" for i in range(4) for label in LABELS}
    assert set(bench.ran()) == kept and sum(bench.ran().values()) <= len(kept) + 5


@NO_KILL
def test_no_worker_outlives_a_killed_run(bench: Bench) -> None:
    running = bench.start([{"id": "slow", "fault": "slow:60"}])
    deadline = time.monotonic() + 120
    worker = 0
    while not worker and time.monotonic() < deadline:
        time.sleep(0.2)
        for line in (bench.out / "journal.jsonl").read_text().splitlines() if bench.out.exists() and (
                bench.out / "journal.jsonl").exists() else []:
            if line.startswith("{") and line.endswith("}") and json.loads(line)["event"] == "taken":
                worker = int(json.loads(line)["worker"])
    assert worker
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    while _alive(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(worker)


def _alive(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_two_runs_in_one_folder(bench: Bench) -> None:
    """The second is refused at once, with the first one's number; the first is not disturbed."""
    bench.out.mkdir()
    code = ("import sys; from pathlib import Path; from engine.runs.batch.journal import locked\n"
            "with locked(Path(sys.argv[1])):\n print('held', flush=True); sys.stdin.read()")
    holder = subprocess.Popen([sys.executable, "-c", code, str(bench.out)], cwd=ROOT, text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(BadInput, match=f"another run works in .* \\(process {holder.pid}\\)"):
        bench.run([FakeAsset("a")])
    holder.kill()
    holder.wait()
    ended = bench.run([FakeAsset("a")])
    assert statuses(ended) == {"a": "done"}
    assert f"process {holder.pid}) ended without a word" in ended.notes[0]


def test_a_folder_told_from_here_is_kept_without_its_place(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--out forest``: the journal and the manifest name folders within the run's, so that it may be moved."""
    monkeypatch.chdir(bench.out.parent)
    bench.out = Path("out")
    ended = bench.run([FakeAsset("a")])
    assert ended.manifest["assets"][0]["folder"] == "assets/a"
    bench.out = bench.out.rename("moved")
    again = bench.run([FakeAsset("a")])
    assert again.unchanged and [plan.state for plan in again.plan.assets] == ["finished"]


def test_a_flipped_bit_is_found_and_made_again(bench: Bench) -> None:
    first = bench.run([FakeAsset("a"), FakeAsset("b")])
    before = bench.artifacts()
    key = first.manifest["assets"][0]["keys"]["draw"]
    path = next((Store(bench.store).folder_of(key) / "files").glob("*.png"))
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    (bench.out / "assets" / "a" / "asset.png").write_bytes(b"no picture")
    (bench.out / "assets" / "b" / "asset.png").unlink()
    bench.calls.unlink()
    again = bench.run([FakeAsset("a"), FakeAsset("b")])
    assert [(p.state, p.why) for p in again.plan.assets] == [
        ("cached", "asset.png was changed in its folder"), ("cached", "asset.png is missing in its folder")]
    assert bench.ran() == {"a a|draw": 1}, "only the damaged one"
    # What somebody changed stays; what was missing is there again.
    assert (bench.out / "assets" / "a" / "asset.png").read_bytes() == b"no picture"
    assert (again.manifest["assets"][0]["folder"], again.manifest["assets"][1]["folder"]) == ("assets/a~2", "assets/b")
    assert {n: d for n, d in bench.artifacts().items() if "~2" not in n and "assets/a/" not in n} == {
        n: d for n, d in before.items() if "assets/a/" not in n}


def test_a_full_disk_stops_the_run_and_counts_nothing_half_written(bench: Bench, monkeypatch: pytest.MonkeyPatch
                                                                   ) -> None:
    ended = bench.run([FakeAsset("a"), FakeAsset("full", fault="full"), FakeAsset("b")])
    assert statuses(ended) == {"a": "done", "full": "failed", "b": "stopped"}
    assert ended.conducted.stopped.startswith("the disk is full")

    def no_space(handle: int) -> None:
        raise OSError(28, "No space left on device")
    with monkeypatch.context() as patch:  # now the journal itself
        patch.setattr("engine.runs.batch.journal.os.fsync", no_space)
        with pytest.raises(RunFailed, match="the disk is full while writing the journal"):
            bench.run([FakeAsset("a"), FakeAsset("b")])
    again = bench.run([FakeAsset("a"), FakeAsset("b")])
    assert statuses(again) == {"a": "done", "b": "done"}


def _small_disk() -> bool:
    """Whether this machine lets us have a disk of our own: as root, or in a user namespace."""
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", "mount -t tmpfs -o size=64k none /mnt"]
    return bool(shutil.which("unshare")) and not subprocess.run(words, capture_output=True, check=False).returncode


@pytest.mark.skipif(not _small_disk(), reason="no disk of our own here: unshare and mount are not allowed")
def test_a_small_disk_that_is_really_full(tmp_path: Path, bench: Bench) -> None:
    """A tmpfs of 300 kB runs full in the midst of a batch. Made larger, the same command makes the rest; what was kept
    before is whole, and all is what an undisturbed run makes."""
    assets = [{"id": f"a{i}", "size": 64} for i in range(6)]
    (tmp_path / "straight").mkdir()
    straight = Bench(tmp_path / "straight")
    straight.start(assets).communicate(timeout=300)
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    words = json.dumps({"folder": str(disk / "out"), "store": str(disk / "store"), "assets": assets})
    script = (f"mount -t tmpfs -o size=300k none {disk} && $RUN; mount -o remount,size=16m {disk}; "
              f"cp -r {disk}/store/artifacts {kept}; $RUN; cp -r {disk} {tmp_path}/whole")
    run = "'" + "' '".join([sys.executable, str(ROOT / "tests" / "run_fake_batch.py"), words]) + "'"
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script.replace("$RUN", run)],
                          env=env, capture_output=True, text=True, timeout=300, check=False)
    first, second = map(json.loads, done.stdout.splitlines())
    assert "the disk is full" in first.get("stopped", "") + first.get("error", ""), done.stderr
    assert second["state"] == "finished" and sum(second["counts"].values()) == 6
    before = {path.relative_to(kept).as_posix(): files.file_digest(path) for path in kept.rglob("*")
              if path.is_file() and path.name != "timing.json"}
    assert before, "something was kept before the disk was full"
    bench.store, bench.out = tmp_path / "whole" / "store", tmp_path / "whole" / "out"
    assert bench.artifacts() == straight.artifacts()
    after = {name.removeprefix("artifacts/"): sha for name, sha in straight.artifacts().items()}
    assert before.items() <= after.items()


def test_a_torn_line_is_skipped(bench: Bench) -> None:
    bench.run([FakeAsset("a"), FakeAsset("b")])
    with (bench.out / "journal.jsonl").open("ab") as file:
        file.write(b'{"schema": 1, "event": "ended", "id": "a", "sta')
    bench.calls.unlink()
    ended = bench.run([FakeAsset("a"), FakeAsset("b"), FakeAsset("c")], digest="e")
    assert ended.notes == ["1 torn line(s) in journal.jsonl were skipped"]
    assert bench.ran() == {f"a c|{label}": 1 for label in LABELS}
    known = read_journal(bench.out)
    assert known.torn == 1 and set(known.finished) == {"a", "b", "c"}


def test_a_recipe_edited_during_its_run(bench: Bench) -> None:
    ended = bench.run([FakeAsset("a")], changes={"digest_now": lambda: "another"})
    assert "was edited during the run" in ended.notes[0] and ended.manifest["recipe"]["digest"] == "d"


@pytest.mark.parametrize(("policy", "words"), [
    ({"seconds": 1.0}, "the budget of 1 s is spent"),
    ({"disk_bytes": 10}, "the disk budget of 10 bytes is spent"),
    ({"fail_fast": True}, "--fail-fast"),
    ({"max_failures": 2}, "stopped after 2 failures"),
    ({}, "the first 3 assets all failed alike: draw failed: ValueError: a cog"),
])
def test_what_stops_a_run(bench: Bench, policy: dict[str, Any], words: str) -> None:
    """The rest is left undone, and the same command goes on."""
    bad = "error:a cog" if "cog" in words or "fail" in words else "slow:0.5"
    assets = [FakeAsset(f"a{i}", fault=bad) for i in range(6)]
    ended = bench.run(assets, **policy)
    assert words in ended.conducted.stopped and ended.manifest["state"] == "stopped"
    assert "stopped" in statuses(ended).values()
    assert len(ended.conducted.failures) == {"--fail-fast": 1, "stopped after 2 failures": 2}.get(
        words, 3 if "cog" in words else 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what another process holds")
def test_a_memory_budget_stops_the_run(bench: Bench) -> None:
    ended = bench.run([FakeAsset("a"), FakeAsset("hog", fault="hog:900"), FakeAsset("b")], memory_bytes=700_000_000)
    assert statuses(ended) == {"a": "done", "hog": "stopped", "b": "stopped"}
    assert "bytes of memory, the budget is 700000000" in ended.conducted.stopped
