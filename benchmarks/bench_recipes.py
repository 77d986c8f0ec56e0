"""Recipes: plans of thousands, finished runs asked again, the mechanism's own cost, two workers against one, and a run
that is killed twenty times. Real commands and the real draft pipeline, no fakes.

    python -m benchmarks.bench_recipes --folder build/bench_recipes             # hours; stopped, the same goes on
    python -m benchmarks.bench_recipes --folder /tmp/small --small              # minutes: whether each part works
    python -m benchmarks.bench_recipes --folder build/bench_recipes kills       # one part

Each part's rows are kept in the folder (PART.json) and not measured again. A run that is timed begins anew when it was
broken off: half of a time is none.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench_pipeline import row

ROOT = Path(__file__).parents[1]
KINDS = ("mug", "chair", "table", "lamp", "barrel", "crate", "chest", "mushroom", "bottle", "rocket")
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "orange", "purple", "pink")
QUICK = "[stages.fit_field]\nsteps = 30\n[stages.render_turntable]\nframes = 8\n"
SMALLEST = ("[stages.text_to_image]\ncandidates = 1\nsteps = 2\n[stages.image_to_views]\nsteps = 2\n"
            "[stages.fit_field]\nsteps = 5\n[stages.extract_mesh]\nresolution = 32\ntriangles = 300\n"
            "[stages.texture_mesh]\ntexture_size = 64\n[stages.render_turntable]\nframes = 2\nsize = 64\n")


@dataclass(frozen=True)
class Sizes:
    """How much is measured: assets planned, run again, run for the mechanism's cost, by workers, and killed."""

    planned: int = 10_000
    again: int = 100
    direct: int = 50
    shared: int = 20
    killed: int = 6
    kills: int = 20
    small: bool = False


SMALL = Sizes(planned=200, again=2, direct=2, shared=2, killed=2, kills=3, small=True)


def recipe(path: Path, count: int, sizes: Sizes, quick: bool = True) -> Path:
    """A draft batch of ``count`` assets with prompts of their own. quick : fewer steps, for many assets"""
    steps = SMALLEST if sizes.small else QUICK if quick else ""
    assets = "".join(f'[[asset]]\nid = "a{i}"\nprompt = "a {COLOURS[i % 10]} {KINDS[i // 10 % 10]}"\n'
                     for i in range(count))
    path.write_text(f'format = 1\nname = "bench{count}"\npipeline = "text_to_mesh"\nquality = "draft"\nseed = 1\n'
                    f'{steps}{assets}')
    return path


def less(told: dict[str, Any]) -> dict[str, Any]:
    """A row whose bar is not to be passed."""
    return {**told, "less": True}


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


def fresh(root: Path, *names: str) -> None:
    """Nothing of a run that was broken off."""
    for name in names:
        shutil.rmtree(root / name, ignore_errors=True)


def plan_rows(root: Path, sizes: Sizes) -> list[dict[str, Any]]:
    """``maquette plan`` of 10,000 assets: the first time on a machine (the shape is learned), and later."""
    fresh(root, "plans")
    words = ["plan", str(recipe(root / "many.toml", sizes.planned, sizes)), "--store", str(root / "plans")]
    first = timed(words)
    again = min(timed(words) for _ in range(3))
    return [less(row(f"maquette plan of {sizes.planned:,} assets, whole command", again, "s", 2, None,
                     "shapes kept from before")),
            row("the same, first time (imports torch, learns the shape)", first, "s")]


def run_rows(root: Path, sizes: Sizes) -> list[dict[str, Any]]:
    """A run of 100 assets, then the same command with nothing left to do. It is the second that is timed, so that the
    first may go on where it was stopped."""
    path = recipe(root / "hundred.toml", sizes.again, sizes)
    words = ["run", str(path), "--store", str(root / "store"), "--out", str(root / "hundred")]
    timed(words)
    again = min(timed(words) for _ in range(3))
    return [less(row(f"maquette run of a finished recipe of {sizes.again} assets, whole command", again, "s", 2))]


def overhead_rows(root: Path, sizes: Sizes) -> list[dict[str, Any]]:
    """Draft assets by ``maquette run`` with one worker, against their stages called in one bare process; beside it what
    of the run itself was spent outside of the stages' functions, which no other run's luck disturbs."""
    fresh(root, "s50", "o50")
    path = recipe(root / "fifty.toml", sizes.direct, sizes, quick=False)
    ran = timed(["run", str(path), "--store", str(root / "s50"), "--out", str(root / "o50")])
    told = json.loads((root / "o50" / "manifest.json").read_text())
    inside = sum(stage["seconds"] for asset in told["assets"] for stage in asset["stages"])
    code = ("import sys\nfrom pathlib import Path\nfrom benchmarks.bench_recipes import straight\n"
            "straight(Path(sys.argv[1]))")
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=True,
                   env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    bare = time.perf_counter() - began
    return [less(row(f"cost of the mechanism over {sizes.direct} draft assets", 100 * (ran / bare - 1), "%", 2, None,
                     f"{ran:.1f} s by maquette run with one worker, {bare:.1f} s for the stages alone")),
            row("of the same run, outside of the stages (imports, keys, hashes, disk, gallery)",
                100 * (ran / inside - 1), "%", None, None, f"{ran - inside:.1f} s")]


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


def worker_rows(root: Path, sizes: Sizes) -> list[dict[str, Any]]:
    """One worker with one thread against two of them; beside it what two independent processes gain, which is what the
    machine itself allows."""
    count = sizes.shared
    fresh(root, *(f"{name}{i}" for name in ("w", "ow", "h", "oh") for i in range(3)))
    path = recipe(root / "twenty.toml", count, sizes, quick=False)
    one, two = (timed(["run", str(path), "--store", str(root / f"w{n}"), "--out", str(root / f"ow{n}"), "--workers",
                       str(n), "--threads", "1"]) for n in (1, 2))
    halves = [recipe(root / f"half{i}.toml", count // 2, sizes, quick=False) for i in range(2)]
    began = time.perf_counter()
    running = [subprocess.Popen(command(["run", str(half), "--store", str(root / f"h{i}"), "--out",
                                         str(root / f"oh{i}"), "--threads", "1"]), cwd=ROOT,
                                env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL) for i, half in enumerate(halves)]
    codes = [process.wait() for process in running]
    if any(codes):
        raise RuntimeError("one of two runs side by side failed")
    apart = time.perf_counter() - began
    return [row(f"throughput of two workers on {os.cpu_count()} cores over one's, {count} draft assets", one / two,
                "x", 1.6, None, f"{one:.0f} s and {two:.0f} s; two processes that share nothing: {one / apart:.2f} x")]


def kill_rows(root: Path, sizes: Sizes) -> list[dict[str, Any]]:
    """kill -9 at moments of chance, the same command again, until it is through: bytes against an undisturbed run's,
    results that were there before a kill and written again after it, and stages that were done twice. A run that is
    through before all kills fell is begun anew, so that every one strikes a run."""
    fresh(root, "straight", "straight-store")
    path = recipe(root / "killed.toml", sizes.killed, sizes)

    def words(name: str) -> list[str]:
        return ["run", str(path), "--store", str(root / f"{name}-store"), "--out", str(root / name), "--threads", "1"]
    whole = timed(words("straight"))
    told = json.loads((root / "straight" / "manifest.json").read_text())
    start = whole - sum(stage["seconds"] for asset in told["assets"] for stage in asset["stages"])
    longest = start + 2 * (whole - start) / (sizes.kills + 5)  # so that there is work left for the last kill
    straight, rng = _bytes(root / "straight-store", root / "straight"), random.Random(11)
    killed = rounds = differ = twice = 0
    while killed < sizes.kills:
        fresh(root, "killed", "killed-store")
        rounds += 1
        kept: dict[str, tuple[int, int]] = {}
        ended = False
        while not ended:
            process = subprocess.Popen(command(words("killed")), cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if killed < sizes.kills:
                try:
                    process.wait(rng.uniform(1.0, longest))
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    killed += 1
            ended = process.wait() == 0
            if process.returncode not in (0, -signal.SIGKILL):
                raise RuntimeError(f"the run that was killed before ended with exit code {process.returncode}")
            now = _stamps(root / "killed-store")
            twice += sum(now.get(key) != stamp for key, stamp in kept.items())
            kept = now
        if kept.keys() != _stamps(root / "straight-store").keys():
            raise RuntimeError("the two runs have other keys: weights or versions were changed in the meantime. Again")
        made = _bytes(root / "killed-store", root / "killed")
        differ += sum(straight.get(name) != made.get(name) for name in straight.keys() | made.keys())
        twice += _done_twice(root / "killed" / "events.jsonl")
    return [less(row("files that differ after kill -9 and resume", differ, "files", 0, None,
                     f"{len(straight)} files of results and assets; {killed} kills in {rounds} runs")),
            less(row("finished stages that ran twice", twice, "stages", 0, None,
                     f"of {len(kept)} of a run; by the results' files and by the events"))]


def _done_twice(events: Path) -> int:
    """How many stages said more than once that they were done."""
    done: Counter[tuple[str, str]] = Counter()
    for line in events.read_text().splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # torn by a kill
        if event.get("kind") == "done":
            done[event["asset"], event["label"]] += 1
    return sum(count - 1 for count in done.values())


def _stamps(store: Path) -> dict[str, tuple[int, int]]:
    """Result -> which file its manifest is and when it was written: another one was made again."""
    return {path.parent.name: (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in (store / "artifacts").glob("*/*/manifest.json")}


def _bytes(store: Path, out: Path) -> dict[str, str]:
    """Bytes of every result's files and of every finished file; papers that tell times are left out."""
    from engine.runs.files import file_digest
    told = {path.relative_to(store).as_posix(): file_digest(path) for path in (store / "artifacts").rglob("*")
            if path.is_file() and path.name != "timing.json"}
    return told | {path.relative_to(out).as_posix(): file_digest(path) for path in out.glob("assets/*/**/*")
                   if path.is_file() and path.name not in ("report.json", "report.html")}


def batched_rows(root: Path, sizes: Sizes) -> list[dict[str, Any]]:
    """Whether pictures of several assets are drawn faster together: passes of the network a second at the rows that one
    draft asset has (two candidates, each with and without its words) and at those of two, four and eight assets."""
    import torch

    from engine.models.sets import model_set
    device = "cuda" if torch.cuda.is_available() else "cpu"
    unet = model_set("builtin").load("text_to_image", device).unet
    size, channels, width = (unet.config[name] for name in ("sample_size", "in_channels", "cross_attention_dim"))
    batches = (4, 8, 16, 32)
    spent = {batch: float("inf") for batch in batches}
    with torch.inference_mode():
        for _ in range(2 if sizes.small else 10):
            for batch in batches:  # in turns: what else the machine does strikes them all
                noise = torch.zeros(batch, channels, size, size, device=device)
                words = torch.zeros(batch, 77, width, device=device)
                began = time.perf_counter()
                unet(noise, 500, encoder_hidden_states=words).sample.sum().item()
                spent[batch] = min(spent[batch], (time.perf_counter() - began) / batch)
    return [row(f"drawing four draft assets' pictures together, against one asset's, on {device}", spent[4] / spent[16],
                "x", None, None, ", ".join(f"{n} rows: {1 / one:.0f} rows a second" for n, one in spent.items()))]


PARTS: dict[str, Callable[[Path, Sizes], list[dict[str, Any]]]] = {
    "plan": plan_rows, "again": run_rows, "overhead": overhead_rows, "workers": worker_rows, "kills": kill_rows,
    "batched": batched_rows}


def part(name: str, folder: Path, sizes: Sizes) -> list[dict[str, Any]]:
    """A part's rows, as kept in ``folder`` or measured now."""
    kept = folder / f"{name}.json"
    if kept.exists():
        told: list[dict[str, Any]] = json.loads(kept.read_text())
        return told
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    told = PARTS[name](place, sizes)
    kept.write_text(json.dumps(told, indent=1) + "\n")
    return told


def rows(folder: Path | None = None, sizes: Sizes | None = None, parts: list[str] | None = None
         ) -> list[dict[str, Any]]:
    """folder : where parts that are measured are kept; None: a new one that goes afterwards"""
    with tempfile.TemporaryDirectory() as scratch:
        return [one for name in parts or PARTS for one in part(name, folder or Path(scratch), sizes or Sizes())]


def main() -> None:
    from benchmarks.__main__ import table
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_recipes", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; none: all")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="a few assets: whether each part works, no figures")
    options = parser.parse_args()
    if wrong := [name for name in options.parts if name not in PARTS]:
        parser.error(f"there is no part {wrong[0]}: one of {', '.join(PARTS)}")
    for name in options.parts or PARTS:
        print(table(rows(options.folder.absolute(), SMALL if options.small else Sizes(), [name])), flush=True)


if __name__ == "__main__":
    main()
