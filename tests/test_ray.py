"""Ray's executor without Ray: what it asks of a cluster, and how it goes on when actors end, over a stand-in for Ray's
few words that runs the real workers in threads. On a real cluster: test_ray_cluster.py."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

import pytest

from engine.errors import BadInput
from engine.runs.batch.executor import AssetResult, AssetTask
from engine.runs.executors import ray as executor
from engine.runs.executors.ray import RayActors, demand, on_loopback, open_ray, room

DONE: dict[str, Any] = {"files": [], "stages": []}


class ActorDiedError(Exception):
    """By the name of Ray's own."""


class Actor:
    """A worker in threads; ``die`` is what kill -9 of its process looks like from the driver."""

    def __init__(self, worker: Any) -> None:
        self.worker, self.promises, self.dead = worker, [], False

    def __getattr__(self, name: str) -> Any:
        actor = self

        class Method:
            def remote(self, *given: Any) -> Future[Any]:
                promise: Future[Any] = Future()
                actor.promises.append(promise)
                if actor.dead:
                    actor.die()
                    return promise

                def call() -> None:
                    try:
                        value = getattr(actor.worker, name)(*given)
                    except SystemExit:
                        actor.die()
                        return
                    if not promise.done():
                        promise.set_result(value)
                threading.Thread(target=call, daemon=True).start()
                return promise
        return Method()

    def die(self) -> None:
        self.dead = True
        for promise in self.promises:
            if not promise.done():
                promise.set_exception(ActorDiedError("The actor died unexpectedly\nbefore it finished"))


class FakeRay:
    """remote, wait, get, kill. ``bears``: whether any machine takes an actor."""

    def __init__(self, bears: bool = True) -> None:
        self.bears, self.hired, self.options_told = bears, [], []

    def remote(self, kind: Any) -> Any:
        ray = self

        class Class:
            def options(self, **told: Any) -> Class:
                ray.options_told.append(told)
                return self

            def remote(self, *given: Any) -> Actor:
                actor = Actor(kind(*given))
                ray.hired.append(actor)
                if not ray.bears:
                    actor.worker.greet = lambda *a: time.sleep(3600)
                return actor
        return Class()

    def wait(self, promises: list[Future[Any]], num_returns: int = 1, timeout: float = 0
             ) -> tuple[list[Any], list[Any]]:
        done, rest = wait(promises, timeout, FIRST_COMPLETED)
        return [p for p in promises if p in done], list(rest)

    def get(self, promise: Future[Any]) -> Any:
        return promise.result(30)

    def kill(self, actor: Actor, no_restart: bool) -> None:
        assert no_restart
        actor.die()


def maker(task: AssetTask, said: Callable[[dict[str, Any]], None],
          stoppable: Callable[[Callable[[], None]], None]) -> tuple[str, dict[str, Any]]:
    """What a recipe orders."""
    stop = threading.Event()
    stoppable(stop.set)
    said({"kind": "started", "label": "draw"})
    match task.recipe["does"]:
        case "dies":
            raise SystemExit
        case "dies once" if task.attempt == 0:
            raise SystemExit
        case "fails":
            raise BadInput("a wrong word", "write another")
        case "hangs":
            time.sleep(30)
        case "waits":
            from engine.errors import Cancelled
            while not stop.is_set():
                time.sleep(0.02)
            raise Cancelled("stopped in draw")
    return "done", DONE


def tasks(tmp_path: Path, *does: str, **told: Any) -> list[AssetTask]:
    return [AssetTask(f"a{i}", {"does": one}, str(tmp_path / "store"), f"{tmp_path}/out/assets/a{i}",
                      maker=f"{__name__}:maker", **told) for i, one in enumerate(does)]


def actors(ray: FakeRay, told: Any = lambda id, event: None, workers: int = 2, **more: Any) -> RayActors:
    return RayActors(ray, workers, told, kind="cpu", needs={"CPU": 1.0}, **more)


def everything(hands: RayActors, given: list[AssetTask], again: bool = False) -> dict[str, list[AssetResult]]:
    found: dict[str, list[AssetResult]] = {}
    for task in given:
        hands.submit(task)
    for result in hands.results():
        found.setdefault(result.id, []).append(result)
        if again and result.status == "lost" and result.attempt == 0:
            hands.submit(dataclasses.replace(given[int(result.id[1:])], attempt=1))
    hands.close()
    return found


def test_every_task_is_answered_once_and_a_dead_actor_is_replaced(tmp_path: Path) -> None:
    ray, told = FakeRay(), []
    found = everything(actors(ray, lambda id, event: told.append((id, event["kind"]))),
                       tasks(tmp_path, "", "dies once", "fails", "dies", ""), again=True)
    assert {id: [one.status for one in results] for id, results in found.items()} == {
        "a0": ["done"], "a1": ["lost", "done"], "a2": ["failed"], "a3": ["lost", "lost"], "a4": ["done"]}
    assert found["a2"][0].error_class == "bad_input" and found["a2"][0].error == "a wrong word. write another"
    assert all(one.error_class == "worker" and "its worker died" in one.error and "\n" not in one.error
               for one in found["a3"])
    assert told[0][1] == "taken" and ("a0", "started") in told, "the first word is that a worker has begun"
    assert 4 <= len(ray.hired) <= 5, "three died; nobody is hired for no work"
    assert all(one["max_restarts"] == one["max_task_retries"] == 0 for one in ray.options_told)
    assert not list(tmp_path.rglob("*.probe")), "the probes were left behind"


def test_who_says_nothing_is_killed(tmp_path: Path) -> None:
    ray = FakeRay()
    found = everything(actors(ray), tasks(tmp_path, "hangs", "", stall_seconds=1.0))
    assert (found["a0"][0].status, found["a0"][0].error_class) == ("lost", "hung")
    assert "said nothing for" in found["a0"][0].error and found["a1"][0].status == "done"
    assert ray.hired[0].dead or ray.hired[1].dead


def test_stopping(tmp_path: Path) -> None:
    """What is under way stops at its next word, what waits is answered at once; a second time ends everything."""
    for times in (1, 2):
        hands = actors(FakeRay(), workers=1)
        given = tasks(tmp_path, "waits" if times == 1 else "hangs", "", "")
        threading.Timer(1.0, lambda hands=hands, times=times: [hands.cancel() for _ in range(times)]).start()
        found = everything(hands, given)
        assert {id: [one.status for one in results] for id, results in found.items()} == {
            "a0": ["stopped"], "a1": ["stopped"], "a2": ["stopped"]}


def test_no_machine_is_waited_for_without_end(tmp_path: Path) -> None:
    found = everything(actors(FakeRay(bears=False), patience=0.5), tasks(tmp_path, "", ""))
    assert all("no machine of the Ray cluster bore a worker (1 CPU)" in found[id][0].error for id in ("a0", "a1"))


@pytest.mark.parametrize(("lack", "words"), [("version", "has Maquette 0.0.0"), ("store", "cannot be seen there")])
def test_a_machine_that_cannot_do_the_work_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lack: str,
                                                        words: str) -> None:
    from engine.runs import remote
    from engine.runs.executors.ray_worker import Worker
    if lack == "version":
        monkeypatch.setattr(Worker, "greet", lambda *a: {"pid": 1, "host": "far", "version": "0.0.0", "lacks": []})
    else:
        monkeypatch.setattr(remote, "there", lambda probe: False)
    hands = actors(FakeRay())
    hands.submit(tasks(tmp_path, "")[0])
    with pytest.raises(BadInput, match=words) as caught:
        list(hands.results())
    assert "\n" not in str(caught.value)
    hands.close()


def test_what_a_worker_takes_and_how_many_there_are() -> None:
    assert demand("cpu", 0, {"CPU": 8}) == {"CPU": 1.0} and demand("cpu", 4, {}) == {"CPU": 4.0}
    assert demand("cuda", 2, {"GPU": 2}) == {"CPU": 2.0, "GPU": 1.0}
    marked = demand("cuda", 1, {"GPU": 2, "maquette_cuda": 3})
    assert marked == {"CPU": 1.0, "GPU": 1.0, "maquette_cuda": 1.0}
    assert room(marked, [{"CPU": 16, "GPU": 4, "maquette_cuda": 3}, {"CPU": 16, "GPU": 4}]) == 3
    assert room({"CPU": 4.0}, [{"CPU": 9}, {"CPU": 3}, {}]) == 2
    with pytest.raises(BadInput, match="maquette_mps"):
        demand("mps", 0, {"CPU": 8})


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(executor.importlib.util, "find_spec", lambda name: None if name == "ray" else find(name))
    with pytest.raises(BadInput, match=r"pip install 'maquette\[ray\]'"):
        open_ray(1, lambda id, event: None)


def test_the_client_port_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(BadInput, match="runs whatever it is sent"):
        open_ray(1, lambda id, event: None, address="ray://10.0.0.5:10001")


def test_our_own_cluster_is_on_the_loopback_and_behind_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", executor.LOOPBACK):
        monkeypatch.delenv(name, raising=False)
    with on_loopback():
        first = os.environ["RAY_AUTH_TOKEN"]
        assert os.environ["RAY_AUTH_MODE"] == "token" and len(first) == 64 and os.environ[executor.LOOPBACK] == "0"
    assert "RAY_AUTH_TOKEN" not in os.environ and executor.LOOPBACK not in os.environ
    with on_loopback():
        assert os.environ["RAY_AUTH_TOKEN"] != first, "a token lives as long as its run"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    with on_loopback():
        assert os.environ["RAY_AUTH_TOKEN"] == "mine"


def test_nothing_of_ray_is_imported_before_it_is_asked_for() -> None:
    import subprocess
    code = "import engine.runs.executors.ray, sys; print(sorted({'ray', 'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).parent.parent)
    assert done.stdout.strip() == "[]"
