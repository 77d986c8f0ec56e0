"""Assets made on more than one machine, by Ray: one actor a worker, each with its own model pool.

Ray carries tasks and results, which are plain data; artifacts go through the store, which every machine reaches (a
shared folder, or a URL). Ray tries nothing again: the conductor does, by its own caps, and the journal is the truth.
Nothing of Ray listens beyond this machine unless the user started it so: its dashboard and its usage statistics are
off, a cluster of our own is on the loopback and takes no word without a token that lives as long as the run.

    executor = open_ray(workers=8, told=told, device="cuda", address="10.0.0.5:6379")
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import os
import secrets
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from engine.errors import BadInput, RunFailed
from engine.runs.batch.executor import AssetResult, AssetTask, Told
from engine.runs.executors.ray_worker import Worker

TICK_SECONDS = 0.25
NEWS_SECONDS = 0.5
START_SECONDS = 600.0
"""A worker that has not said its first word about an asset after so long has failed to start."""
PATIENCE_SECONDS = 120.0
"""So long a run waits for any machine that bears a worker, when there is none left."""
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's own switch that keeps a local cluster on 127.0.0.1; on by default on macOS and Windows only."""
HERE = ("127.0.0.1", "localhost", "[::1]")
NEEDED = "Install it on every machine: pip install 'maquette[ray]'"


def open_ray(workers: int, told: Told, *, device: str = "cpu", threads: int = 0, address: str = "") -> RayActors:
    """Connect to a cluster, or start one of this machine's own where ``address`` is "".

    workers : how many assets at once; 0: as many as the cluster bears
    device : a torch device string; its class is fixed here, before anything is planned, and decides which machines
        may be used: "cuda" asks Ray for a GPU a worker, "cpu" for ``threads`` cores
    address : "host:port" of a cluster's head, or "auto" for the one that runs on this machine

    BadInput: Ray is missing, nobody answers, or no machine of the cluster bears such a worker.
    """
    if importlib.util.find_spec("ray") is None:
        raise BadInput("--executor ray needs the package ray, which is not installed here", NEEDED)
    kind = device.partition(":")[0]
    if address.startswith("ray://"):
        raise BadInput(f"--address {address} is the port of Ray's client server, which runs whatever it is sent",
                       "Give the head's own address instead: --address HOST:6379, with RAY_AUTH_MODE=token")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with contextlib.ExitStack() as stack:
        if not address or address.rpartition(":")[0] in HERE:
            stack.enter_context(on_loopback(own=not address))  # before ray is imported: it reads its variables then
        import ray
        if not ray.is_initialized():  # else the program that calls us is connected already, and stays so
            stack.callback(ray.shutdown)
            _connect(ray, address, max(workers, 1) * max(threads, 1))
        needs = demand(kind, threads, ray.cluster_resources())
        bears = room(needs, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        if bears == 0:
            raise BadInput(f"no machine of the Ray cluster bears a worker ({_words(needs)})",
                           "Start one that does (ray start --address ...), or choose another --device")
        return RayActors(ray, workers or bears, told, kind=kind, needs=needs, threads=threads, leave=stack.pop_all())


def demand(kind: str, threads: int, cluster: dict[str, float]) -> dict[str, float]:
    """What one worker takes of a machine, by Ray's names.

    Where any machine offers the resource ``maquette_<class>``, each worker takes one of it: then only those machines
    are used that say so, and each bears as many workers as it says.
    """
    needs: dict[str, float] = {"CPU": float(max(threads, 1))}
    if kind == "cuda":
        needs["GPU"] = 1.0
    marked = f"maquette_{kind}"
    if cluster.get(marked):
        needs[marked] = 1.0
    elif kind == "mps":
        raise BadInput("Ray does not know Apple's GPUs by itself",
                       """Mark the machines that have one: ray start --resources '{"maquette_mps": 1}'""")
    return needs


def room(needs: dict[str, float], machines: list[dict[str, float]]) -> int:
    """How many workers the machines bear together."""
    return sum(int(min(machine.get(name, 0.0) // amount for name, amount in needs.items())) for machine in machines)


@dataclass
class _Hand:
    """One actor as the driver sees it. ``greeting`` is None once it has greeted."""

    actor: Any
    greeting: Any
    name: str = ""
    task: AssetTask | None = None
    job: Any = None
    heard: Any = None
    began: float = 0.0
    last_word: float = 0.0
    asked: float = 0.0
    spoke: bool = False
    memory: int = 0

    def spent(self) -> float:
        return round(time.monotonic() - self.began, 3)


class RayActors:
    """See ``executor.Executor``. Use :func:`open_ray`."""

    def __init__(self, ray: Any, workers: int, told: Told, *, kind: str, needs: dict[str, float], threads: int = 0,
                 leave: contextlib.ExitStack | None = None, patience: float = PATIENCE_SECONDS) -> None:
        self._ray, self._width, self._told, self._kind = ray, workers, told, kind
        self._needs, self._threads, self._leave, self._patience = needs, threads, leave, patience
        self._waiting: deque[AssetTask] = deque()
        self._hands: list[_Hand] = []
        self._probes: dict[str, str] = {}
        """place -> the file that the driver wrote there, for workers to see."""
        self._stopping = 0
        self._anybody = time.monotonic()
        self._useless = ""
        self.tick: Callable[[], None] = lambda: None

    @property
    def width(self) -> int:
        return self._width

    def submit(self, task: AssetTask) -> None:
        from engine.runs.remote import write_probe
        for place in (task.store, task.folder):
            root = place if place == task.store else place.rpartition("/")[0]
            if root and root not in self._probes:
                self._probes[root] = write_probe(root, f".ray-{uuid.uuid4().hex}.probe")
        # Which of a machine's devices: Ray shows each worker its own as the first.
        self._waiting.append(dataclasses.replace(task, device=self._kind))

    def results(self) -> Iterator[AssetResult]:
        ticked = time.monotonic()
        while self._waiting or any(hand.task for hand in self._hands):
            if self._stopping and self._waiting:
                yield _stopped(self._waiting.popleft())
                continue
            self._hire()
            yield from self._greeted()
            self._hand_out()
            yield from self._ended()
            yield from self._heard()
            if time.monotonic() - ticked >= TICK_SECONDS:
                ticked = time.monotonic()
                self.tick()

    def cancel(self) -> None:
        self._stopping += 1

    def memory(self) -> int:
        return sum(hand.memory for hand in self._hands)

    def close(self) -> None:
        from engine.runs.remote import remove_probe
        for hand in self._hands:
            self._dismiss(hand)
        self._hands.clear()
        for probe in self._probes.values():
            remove_probe(probe)
        self._probes.clear()
        if self._leave is not None:
            self._leave.close()

    # -- workers ----------------------------------------------------------------------------------------------------

    def _hire(self) -> None:
        """Actors up to what there is to do. Ray places them where their needs are met, now or when a machine comes."""
        wanted = min(self._width, len(self._waiting) + sum(hand.task is not None for hand in self._hands))
        while len(self._hands) < wanted and not self._stopping:
            others = {name: amount for name, amount in self._needs.items() if name not in ("CPU", "GPU")}
            actor = self._ray.remote(Worker).options(
                num_cpus=self._needs["CPU"], num_gpus=self._needs.get("GPU", 0), resources=others, max_restarts=0,
                max_task_retries=0, max_concurrency=2).remote(self._threads)
            self._hands.append(_Hand(actor, actor.greet.remote(self._kind, tuple(self._probes.values()))))

    def _greeted(self) -> Iterator[AssetResult]:
        """Take in those who are there. A machine that cannot do the work ends the run: its results would differ."""
        for hand in [hand for hand in self._hands if hand.greeting is not None]:
            if not self._ready(hand.greeting):
                continue
            try:
                about = self._ray.get(hand.greeting)
            except Exception as error:  # it died before it could speak
                self._hands.remove(hand)
                self._useless = _why(error)
                continue
            hand.greeting, hand.name = None, f"{about['host']}:{about['pid']}"
            self._anybody = time.monotonic()
            if complaint := _complaint(about):
                self.cancel()
                raise complaint
        if any(hand.greeting is None for hand in self._hands):
            self._anybody = time.monotonic()
        elif time.monotonic() - self._anybody > self._patience:
            said = f"for {self._patience:.0f} s no machine of the Ray cluster bore a worker ({_words(self._needs)})"
            why = f"{said}{'; the last one: ' + self._useless if self._useless else ''}"
            while self._waiting:
                task = self._waiting.popleft()
                yield AssetResult(task.id, "lost", "worker", why, attempt=task.attempt)

    def _hand_out(self) -> None:
        for hand in self._hands:
            if not self._waiting or self._stopping:
                return
            if hand.task is None and hand.greeting is None:
                hand.task, hand.began = self._waiting.popleft(), time.monotonic()
                hand.last_word = hand.began
                hand.job = hand.actor.make.remote(hand.task)
                self._told(hand.task.id, {"kind": "taken", "worker": hand.name})

    def _ended(self) -> Iterator[AssetResult]:
        """Results, and those of workers that are gone."""
        jobs = {hand.job: hand for hand in self._hands if hand.task is not None}
        if not jobs:
            time.sleep(TICK_SECONDS / 5)
            return
        ready, _ = self._ray.wait(list(jobs), num_returns=len(jobs), timeout=TICK_SECONDS)
        for job in ready:
            hand = jobs[job]
            task = hand.task
            assert task is not None
            try:
                result: AssetResult = self._ray.get(job)
                self._last_news(hand, task)
            except Exception as error:
                yield self._lost(hand, task, _class(error), _why(error))
                continue
            hand.task = hand.job = None
            yield dataclasses.replace(result, worker=hand.name)

    def _heard(self) -> Iterator[AssetResult]:
        """The news of all who work; who says nothing for too long is ended."""
        for hand in [hand for hand in self._hands if hand.task is not None]:
            task, now = hand.task, time.monotonic()
            assert task is not None
            if self._stopping > 1:
                yield self._lost(hand, task, "worker", "stopped at once")
                continue
            if hand.heard is None and now - hand.asked >= NEWS_SECONDS:
                hand.heard, hand.asked = hand.actor.news.remote(self._stopping > 0), now
            if hand.heard is not None and self._ready(hand.heard):
                self._listen(hand, task)
            silent = time.monotonic() - hand.last_word
            patience = task.stall_seconds if hand.spoke else max(START_SECONDS, task.stall_seconds or 0.0)
            if patience is not None and silent > patience:
                yield self._lost(hand, task, "hung", f"its worker said nothing for {silent:.0f} s and was killed")

    def _listen(self, hand: _Hand, task: AssetTask) -> None:
        with contextlib.suppress(Exception):  # a worker that is gone is found where its result is awaited
            events, hand.memory = self._ray.get(hand.heard)
            for event in events:
                hand.last_word, hand.spoke = time.monotonic(), True
                self._told(task.id, event)
        hand.heard = None

    def _last_news(self, hand: _Hand, task: AssetTask) -> None:
        """What it said between the last asking and its end."""
        if hand.heard is not None:
            self._listen(hand, task)
        hand.heard = hand.actor.news.remote(False)
        self._listen(hand, task)

    def _lost(self, hand: _Hand, task: AssetTask, kind: Any, why: str) -> AssetResult:
        self._dismiss(hand)
        self._hands.remove(hand)
        if self._stopping:
            return dataclasses.replace(_stopped(task), worker=hand.name, seconds=hand.spent())
        return AssetResult(task.id, "failed" if kind == "memory" else "lost", kind, why, seconds=hand.spent(),
                           attempt=task.attempt, worker=hand.name)

    def _dismiss(self, hand: _Hand) -> None:
        with contextlib.suppress(Exception):
            self._ray.kill(hand.actor, no_restart=True)

    def _ready(self, promise: Any) -> bool:
        return bool(self._ray.wait([promise], timeout=0)[0])


# -- Ray itself --------------------------------------------------------------------------------------------------------

def _connect(ray: Any, address: str, cpus: int) -> None:
    """Reach the cluster, or start one with so many cores at least."""
    told: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "namespace": "maquette"}
    if address:
        try:
            ray.init(address=address, **told)
        except Exception as error:
            raise BadInput(f"no Ray cluster answers at {address}: {_why(error)}",
                           "Start its head (ray start --head), and give the same RAY_AUTH_TOKEN here") from error
        return
    try:
        ray.init(num_cpus=max(cpus, os.cpu_count() or 1), include_dashboard=False, **told)
    except Exception as error:
        raise RunFailed(f"Ray could not be started on this machine: {_why(error)}",
                        "Try again when the machine is less busy, or leave --executor out") from error


@contextlib.contextmanager
def on_loopback(own: bool = True) -> Iterator[None]:
    """Whatever of Ray's starts or connects within is known as 127.0.0.1, and listens there only.

    own : it is a cluster of our own, which wants a token that its children inherit; a token or RAY_AUTH_MODE of the
        user's stays
    """
    changes = {LOOPBACK: "0"}
    if own:
        changes["RAY_AUTH_MODE"] = os.environ.get("RAY_AUTH_MODE", "token")
    if own and not any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        changes["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    _read_again(clusters=False)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _read_again(clusters=sys.platform not in ("darwin", "win32"))


def _read_again(clusters: bool) -> None:
    """Have Ray read its variables again, where it was imported before they were set. Its own words for it are private:
    a version without them has read them at its start or will refuse the token in one line."""
    if "ray" not in sys.modules:
        return
    with contextlib.suppress(ImportError, AttributeError):
        constants: Any = importlib.import_module("ray._private.ray_constants")
        constants.ENABLE_RAY_CLUSTER = clusters
        core: Any = importlib.import_module("ray._raylet")
        core.Config.initialize("")
        core.AuthenticationTokenLoader.instance().reset_cache()


def _complaint(about: dict[str, Any]) -> BadInput | None:
    from engine import __version__
    if about["version"] != __version__:
        return BadInput(f"{about['host']} has Maquette {about['version']}, this machine {__version__}",
                        "Install the same version on every machine of the cluster")
    if about["lacks"]:
        return BadInput(f"{about['host']} cannot make these assets: {'; '.join(about['lacks'])}",
                        "Put --store and --out on a file system that every machine mounts at the same path, or give "
                        "--store a URL; machines without the device must not offer it to Ray")
    return None


def _class(error: Exception) -> str:
    """What a retry is decided by. Ray's own guard kills a worker when its machine runs out of memory."""
    words = f"{type(error).__name__} {error}"
    return "memory" if "OutOfMemory" in words or "running low on memory" in words else "worker"


def _why(error: Exception) -> str:
    """Ray's many lines as one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    name = type(error).__name__
    if name in ("ActorDiedError", "RayActorError"):
        said = next((line for line in lines if "died" in line or "exit" in line.lower()), "")
        return f"its worker died ({' '.join(said.split())[:200]})" if said else "its worker died"
    return f"{name}: {' '.join(' '.join(lines).split())[:300]}"


def _words(needs: dict[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in needs.items())


def _stopped(task: AssetTask) -> AssetResult:
    return AssetResult(task.id, "stopped", "stopped", "stopped before it was finished", attempt=task.attempt)
