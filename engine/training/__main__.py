"""``python -m engine.training PART [options]``: make a built-in model from the toybox's shards, one command each.

Order, as each stands on those before it: tokenizer, vae, clip, latents, text_to_image, novel_view; control_maps, then
control_edges, control_depth, control_pose, control_parts and image_prompt stand on text_to_image; matting, judge and
view_judge stand alone. Of the character clips (engine.training.clip_data): pose_estimation, clip_latents,
domain_adapter, motion, motion_lora; animate_frames, then animate_motion, which together are reference_animation;
drawn_alpha, which learns from what reference animation draws.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PARTS = ("tokenizer", "vae", "clip", "latents", "text_to_image", "novel_view", "matting", "judge", "view_judge",
         "control_maps", "control_edges", "control_depth", "control_pose", "control_parts", "image_prompt",
         "pose_estimation", "clip_latents", "domain_adapter", "motion", "motion_lora", "animate_frames",
         "animate_motion", "drawn_alpha")
CLIPS = ("pose_estimation", "domain_adapter", "motion", "motion_lora", "animate_frames", "animate_motion",
         "drawn_alpha")
"""Parts that learn from the character clips instead of the toybox's shards."""
DEFAULTS: dict[str, dict[str, Any]] = {
    "vae": {"minutes": 30, "lr": 2e-3, "batch": 16, "ema": 0.998},
    "clip": {"minutes": 15, "lr": 1e-3, "batch": 128, "ema": 0.995},
    "text_to_image": {"minutes": 45, "lr": 8e-4, "batch": 16, "ema": 0.998},
    "novel_view": {"minutes": 40, "lr": 8e-4, "batch": 16, "ema": 0.998},
    "matting": {"minutes": 10, "lr": 2e-3, "batch": 16, "ema": 0.995},
    "judge": {"minutes": 10, "lr": 3e-3, "batch": 32, "ema": 0.99},
    "view_judge": {"minutes": 8, "lr": 3e-3, "batch": 64, "ema": 0.995},
    "control_edges": {"minutes": 12, "lr": 3e-3, "batch": 8, "ema": 0.98, "warmup": 20, "optimiser": "muon"},
    "control_depth": {"minutes": 8, "lr": 3e-3, "batch": 8, "ema": 0.98, "warmup": 20, "optimiser": "muon"},
    "control_pose": {"minutes": 8, "lr": 3e-3, "batch": 8, "ema": 0.98, "warmup": 20, "optimiser": "muon"},
    "control_parts": {"minutes": 8, "lr": 3e-3, "batch": 8, "ema": 0.98, "warmup": 20, "optimiser": "muon"},
    "image_prompt": {"minutes": 8, "lr": 2e-3, "batch": 8, "ema": 0.98, "warmup": 20, "optimiser": "muon"},
    "pose_estimation": {"minutes": 10, "lr": 3e-3, "batch": 16, "ema": 0.997},
    "drawn_alpha": {"minutes": 15, "lr": 2e-3, "batch": 16, "ema": 0.995},
    "animate_frames": {"minutes": 50, "lr": 1.5e-3, "batch": 16, "ema": 0.995, "warmup": 50, "optimiser": "muon"},
    "animate_motion": {"minutes": 25, "lr": 2e-3, "batch": 32, "ema": 0.99, "warmup": 30, "optimiser": "muon"},
    "domain_adapter": {"minutes": 20, "lr": 3e-3, "batch": 16, "ema": 0.99, "warmup": 20, "optimiser": "muon"},
    "motion": {"minutes": 35, "lr": 3e-3, "batch": 1, "ema": 0.99, "warmup": 20, "optimiser": "muon"},
    "motion_lora": {"minutes": 6, "lr": 2e-3, "batch": 1, "ema": 0.98, "warmup": 20, "optimiser": "muon"},
}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m engine.training", description=__doc__)
    p.add_argument("part", choices=PARTS)
    p.add_argument("--data", type=Path, default=ROOT / "scratch" / "toybox", help="folder of the splits")
    p.add_argument("--work", type=Path, default=ROOT / "scratch" / "training", help="state, log, curve, caches")
    p.add_argument("--controls", type=Path, default=ROOT / "scratch" / "controls", help="control maps and figures")
    p.add_argument("--clips", type=Path, default=ROOT / "scratch" / "characters", help="folder of the character clips")
    p.add_argument("--map-shards", type=int, default=14, help="of control_maps: how many of the train split's shards")
    p.add_argument("--minutes", type=float, help="wall-clock budget; <work>/<part>/minutes overrides it live")
    p.add_argument("--steps", type=int, help="budget in steps instead (a repeatable run)")
    p.add_argument("--batch", type=int)
    p.add_argument("--lr", type=float)
    p.add_argument("--ema", type=float)
    p.add_argument("--warmup", type=int, help="steps until the rate is full")
    p.add_argument("--optimiser", choices=("adamw", "muon"))
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--device", default="cpu")
    p.add_argument("--nice", type=int, default=5)
    p.add_argument("--checkpoint-s", type=float, default=120)
    p.add_argument("--evaluate-s", type=float, default=300)
    p.add_argument("--groups", default="conditions,targets", help="of latents: conditions is all text_to_image needs")
    p.add_argument("--init", action="store_true", help="start from the committed weights")
    p.add_argument("--decoder-only", action="store_true", help="vae: train the committed decoder on, latents stay")
    p.add_argument("--fresh", action="store_true", help="forget the kept state and start anew")
    p.add_argument("--export-only", action="store_true", help="write the weights of the kept state, train nothing")
    p.add_argument("--evaluate-only", action="store_true", help="print the figures of the kept state")
    p.add_argument("--no-export", action="store_true")
    return p


def task_of(part: str, train: Any, held_out: Any, batch: int, work: Path, decoder_only: bool = False,
            controls: Path = ROOT / "scratch" / "controls", clips: Path = ROOT / "scratch" / "characters") -> Any:
    """The trainer of a part."""
    if part == "pose_estimation":
        from engine.training.pose_estimation import task
        return task(clips, batch, train)
    if part == "domain_adapter":
        from engine.training.domain_adapter import DomainAdapter
        return DomainAdapter(clips, batch, work)
    if part.startswith("animate_"):
        from engine.training import animate
        return (animate.AnimateFrames if part == "animate_frames" else animate.AnimateMotion)(clips, batch, work)
    if part == "drawn_alpha":
        from engine.training.drawn_alpha import DrawnAlpha
        return DrawnAlpha(clips, train, held_out, batch, work)
    if part == "motion":
        from engine.training.motion import Motion
        return Motion(clips, batch, work)
    if part == "motion_lora":
        from engine.training.motion_lora import MotionLora
        return MotionLora(clips, batch, work)
    if part.startswith("control_"):
        from engine.training.control import Control
        return Control(part.removeprefix("control_"), train, held_out, batch, work, controls)
    if part == "image_prompt":
        from engine.training.image_prompt import ImagePrompt
        return ImagePrompt(train, held_out, batch, work)
    if part == "vae":
        from engine.training.vae import Vae
        return Vae(train, held_out, batch, decoder_only=decoder_only)
    if part == "clip":
        from engine.training.clip import Clip
        return Clip(train, held_out, batch)
    if part == "text_to_image":
        from engine.training.text_to_image import TextToImage
        return TextToImage(train, held_out, batch, work)
    if part == "novel_view":
        from engine.training.novel_view import NovelView
        return NovelView(train, held_out, batch, work)
    if part == "matting":
        from engine.training.matting import Matting
        return Matting(train, held_out, batch)
    if part == "view_judge":
        from engine.training.view_judge import ViewJudge
        return ViewJudge(train, held_out, batch)
    from engine.training.judge import Judge
    return Judge(train, held_out, batch)


def main(arguments: list[str] | None = None) -> int:
    a = parser().parse_args(arguments)
    if hasattr(os, "nice"):
        os.nice(a.nice)
    import torch

    from engine.training.data import Shards
    if a.threads:
        torch.set_num_threads(a.threads)
    if a.part == "tokenizer":
        from engine.training.tokenizer import export_tokenizer
        print(export_tokenizer())
        return 0
    if a.part == "clip_latents":
        from engine.training.clip_latents import follow
        follow(a.clips, a.work, a.minutes or 0.0, a.device, lambda line: print(line, flush=True))
        return 0
    train, held_out = Shards(a.data / "train"), Shards(a.data / "held_out")
    if len(train) == 0 and a.part not in CLIPS:
        print(f"no shards under {a.data / 'train'}; make them with engine.toybox first", file=sys.stderr)
        return 2
    if a.part == "control_maps":
        from engine.training.control_data import write_all
        write_all(train, held_out, a.controls, a.work, a.map_shards, a.device, lambda line: print(line, flush=True))
        return 0
    if a.part == "latents":
        groups = tuple(a.groups.split(","))
        from engine.training.latents import update

        def report(line: str) -> None:
            print(line, flush=True)

        for split in (train, held_out):
            print(split.folder.name, update(split, a.work / "latents", a.device, groups, report=report))
        return 0

    from engine.training.export import BEFORE, remember
    from engine.training.loop import Settings, load_average
    from engine.training.loop import train as fit
    defaults = DEFAULTS[a.part]
    task = task_of(a.part, train, held_out, a.batch or defaults["batch"], a.work, a.decoder_only, a.controls,
                   a.clips)
    folder = a.work / (f"{a.part}_decoder" if a.decoder_only else a.part)
    if a.export_only or a.evaluate_only:
        state = load_average(task, folder)
        with torch.no_grad():  # kept figures may be of an earlier step
            state.metrics = task.evaluate(state.ema)
        print(json.dumps(state.metrics))
        if a.export_only:
            print(task.export(state, folder))
        return 0
    if a.fresh:
        for name in ("state.pt", "log.jsonl", "minutes", BEFORE):
            (folder / name).unlink(missing_ok=True)
    if a.init:
        task.load_committed()
        remember(folder, a.part)
    minutes = a.minutes if a.minutes is not None else (None if a.steps else defaults["minutes"])
    state = fit(task, Settings(
        folder, minutes, a.steps, a.lr or defaults["lr"], ema=a.ema or defaults["ema"],
        warmup=a.warmup or defaults.get("warmup", 100),
        optimiser=a.optimiser or defaults.get("optimiser", "adamw"), seed=a.seed, device=a.device,
        threads=a.threads, checkpoint_s=a.checkpoint_s, evaluate_s=a.evaluate_s))
    if not state.finished:
        print(f"stopped at step {state.step}; the same command goes on from there")
        return 130
    state.ema.cpu()
    if not a.no_export:
        print(task.export(state, folder))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
