"""Recipes: plans of thousands, finished runs asked again, the mechanism's own cost, two workers against one, and a run
that is killed twenty times. Real commands and the real draft pipeline, no fakes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.bench_pipeline import row

ROOT = Path(__file__).parents[1]
KINDS = ("mug", "chair", "table", "lamp", "barrel", "crate", "chest", "mushroom", "bottle", "rocket")
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "orange", "purple", "pink")


def recipe(path: Path, count: int, until_quick: bool = True) -> Path:
    """A draft batch of ``count`` assets with prompts of their own. until_quick : fewer steps, for many assets"""
    quick = "[stages.fit_field]\nsteps = 30\n[stages.render_turntable]\nframes = 8\n" if until_quick else ""
    assets = "".join(f'[[asset]]\nid = "a{i}"\nprompt = "a {COLOURS[i % 10]} {KINDS[i // 10 % 10]}"\n'
                     for i in range(count))
    path.write_text(f'format = 1\nname = "bench{count}"\npipeline = "text_to_mesh"\nquality = "draft"\nseed = 1\n'
                    f'{quick}{assets}')
    return path


def command(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "engine.cli", *words]


def timed(words: list[str], threads: int = 1) -> float:
    """Wall seconds of one command, start and imports included."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    began = time.perf_counter()
    done = subprocess.run(command(words), cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr[-2000:]}")
    return time.perf_counter() - began


def plan_rows(root: Path) -> list[dict[str, Any]]:
    """``maquette plan`` of 10,000 assets: the first time on a machine (the shape is learned), and later."""
    words = ["plan", str(recipe(root / "many.toml", 10_000)), "--store", str(root / "plans")]
    first = timed(words)
    again = min(timed(words) for _ in range(3))
    return [row("maquette plan of 10,000 assets, whole command", again, "s", 2, None, "shapes kept from before"),
            row("the same, first time (imports torch, learns the shape)", first, "s")]


def run_rows(root: Path) -> list[dict[str, Any]]:
    """A run of 100 assets, then the same command with nothing left to do."""
    path = recipe(root / "hundred.toml", 100)
    words = ["run", str(path), "--store", str(root / "store"), "--out", str(root / "hundred")]
    spent = timed(words)
    again = min(timed(words) for _ in range(3))
    return [row("maquette run of a finished recipe of 100 assets, whole command", again, "s", 2, None,
                f"the run itself took {spent:.0f} s")]


def overhead_rows(root: Path, count: int = 50) -> list[dict[str, Any]]:
    """``count`` draft assets by ``maquette run`` with one worker, against their stages called in one bare process."""
    path = recipe(root / "fifty.toml", count, until_quick=False)
    ran = timed(["run", str(path), "--store", str(root / "s50"), "--out", str(root / "o50")])
    code = ("import sys,time\nfrom pathlib import Path\nfrom benchmarks.bench_recipes import straight\n"
            "straight(Path(sys.argv[1]))")
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=True,
                   env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    bare = time.perf_counter() - began
    return [row(f"cost of the mechanism over {count} draft assets", 100 * (ran / bare - 1), "%", 2, None,
                f"{ran:.1f} s by maquette run with one worker, {bare:.1f} s for the stages alone")]


def straight(path: Path) -> None:
    """Every stage of every asset by plain calls: artifacts stay in memory, nothing is kept, nothing is written."""
    from engine.batch_api import plan_any
    from engine.recipes.batch import load_batch
    from engine.runs.job import StageJob
    from engine.runs.plan import refusals, remedied
    with tempfile.TemporaryDirectory() as folder:
        for asset in load_batch(path).assets:
            plan, goals = plan_any(asset.recipe, store=folder, device="cpu")
            run, made = plan.run, dict[str, Any]()
            for node in run.needed(goals):
                params = node.params
                for attempt in range(node.attempts):
                    job = StageJob(label=node.label, device="cpu", key="", seed=(run.seed, run.asset), attempt=attempt,
                                   roles=tuple(node.weights), models=run.models, emit=lambda event: None,
                                   cancelled=lambda: False, checkpoints=Path(folder) / "none", trash=Path(folder),
                                   checkpoint_seconds=1e9)
                    made[node.label] = node.function(*(made[h.label] if h else None for h in node.inputs), params, job)
                    refused = [gate for gate, _, ok in refusals(node.gates, job.metrics) if not ok]
                    if not refused:
                        break
                    params = remedied(params, node.label, refused)


def worker_rows(root: Path, count: int = 20) -> list[dict[str, Any]]:
    """One worker with one thread against two of them; beside it what two independent processes gain, which is what the
    machine itself allows."""
    path = recipe(root / "twenty.toml", count, until_quick=False)
    one, two = (timed(["run", str(path), "--store", str(root / f"w{n}"), "--out", str(root / f"ow{n}"), "--workers",
                       str(n), "--threads", "1"]) for n in (1, 2))
    halves = [recipe(root / f"half{i}.toml", count // 2, until_quick=False) for i in range(2)]
    began = time.perf_counter()
    running = [subprocess.Popen(command(["run", str(half), "--store", str(root / f"h{i}"), "--out",
                                         str(root / f"oh{i}"), "--threads", "1"]), cwd=ROOT,
                                env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL) for i, half in enumerate(halves)]
    for process in running:
        process.wait()
    apart = time.perf_counter() - began
    return [row(f"throughput of two workers on {os.cpu_count()} cores over one's, {count} draft assets", one / two,
                "x", 1.6, None, f"{one:.0f} s and {two:.0f} s; two processes that share nothing: {one / apart:.2f} x")]


def kill_rows(root: Path, kills: int = 20) -> list[dict[str, Any]]:
    """kill -9 at moments of chance, the same command again, until it is through: bytes against an undisturbed run's,
    and computations of stages that were finished before."""
    path = recipe(root / "killed.toml", 6)

    def words(name: str) -> list[str]:
        return ["run", str(path), "--store", str(root / f"{name}-store"), "--out", str(root / name), "--threads", "1"]
    whole = timed(words("straight"))
    rng, killed = random.Random(11), 0
    for _ in range(kills):
        process = subprocess.Popen(command(words("killed")), cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(1.0, max(2.0, whole / 3)))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    timed(words("killed"))
    told = [_bytes(root / f"{name}-store", root / name) for name in ("straight", "killed")]
    differ = sum(told[0].get(name) != told[1].get(name) for name in told[0].keys() | told[1].keys())
    done: Counter[tuple[str, str]] = Counter()
    for line in (root / "killed" / "events.jsonl").read_text().splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # torn by a kill
        if event.get("kind") == "done":
            done[event["asset"], event["label"]] += 1
    twice = sum(count - 1 for count in done.values())
    return [row("files that differ after kill -9 and resume", differ, "files", 0, None,
                f"{len(told[0])} files of results and assets; killed {killed} times of {kills}"),
            row("finished stages that ran twice", twice, "stages", 0)]


def _bytes(store: Path, out: Path) -> dict[str, str]:
    """Bytes of every result's files and of every finished file; papers that tell times are left out."""
    from engine.runs.files import file_digest
    told = {path.relative_to(store).as_posix(): file_digest(path) for path in (store / "artifacts").rglob("*")
            if path.is_file() and path.name not in ("timing.json", "manifest.json")}
    return told | {path.relative_to(out).as_posix(): file_digest(path) for path in out.glob("assets/*/**/*")
                   if path.is_file() and path.name not in ("report.json", "report.html")}


def batched_rows() -> list[dict[str, Any]]:
    """Whether pictures of several assets are drawn faster together: candidates a second at batches of 2, 4 and 8."""
    import torch

    from engine.models.sets import model_set
    model = model_set("builtin").load("text_to_image", "cpu")
    unet, size = model.unet, model.unet.config.sample_size
    channels, width = unet.config.in_channels, unet.config.cross_attention_dim
    rates = {}
    with torch.no_grad():
        for batch in (2, 4, 8):
            noise, words = torch.zeros(batch, channels, size, size), torch.zeros(batch, 77, width)
            best = float("inf")
            for _ in range(5):
                began = time.perf_counter()
                unet(noise, 500, encoder_hidden_states=words)
                best = min(best, time.perf_counter() - began)
            rates[batch] = batch / best
    return [row("drawing pictures of four assets together, against two candidates of one", rates[8] / rates[2], "x",
                None, None, ", ".join(f"batch {n}: {rate:.1f} passes a second" for n, rate in rates.items()))]


def rows() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        return [*plan_rows(root), *run_rows(root), *overhead_rows(root), *worker_rows(root), *kill_rows(root),
                *batched_rows()]
