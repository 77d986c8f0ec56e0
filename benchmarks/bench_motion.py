"""Motion modules and the MotionLoRA on a base they never saw: ``python -m benchmarks motion``, or this file by itself.

A character that no toybox figure looks like (a robot, magenta above and green below) is taught to the built-in text to
image by ``maquette train lora``'s own trainer, from eight pictures. Then clips are drawn of the base as it is and of
the base with that LoRA, with the motion modules, with the MotionLoRA on top, and with motion modules that do nothing.
Two things are asked: does the figure keep the look that was taught, and does it move as the untouched base's do?

- Look: overlap of the figure's colours with the taught pictures' (Bhattacharyya coefficient over hue and saturation,
  0 to 1), and whether CLIP finds a frame nearer to stills drawn with the LoRA or to stills of the base alone.
- Movement: ``engine.training.motion_figures``: how much changes from frame to frame, and the cosine with each motion's
  pattern, which is made here of true clips of the toybox. And whether the taught figure moves as the base's does from
  the same noise: the cosine of what changes in both, which says what carries over however well the base itself moves.

All that is drawn or trained lies in a store of its own under scratch/: stopped, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_models import Row, row

SCRATCH = Path(__file__).parents[1] / "scratch" / "bench_motion"
PICTURES, FRAMES, SIZE = 8, 16, 128
FIGURES = 4
"""True clips that a motion's pattern is the mean of."""
SEEDS = (1, 2)
PACE = 0.5
"""Share of the motion model's own number of steps."""
TOKEN, KIND, STEPS = "zorb", "robot", 240
UPPER, LOWER = (1.0, 0.1, 0.85), (0.35, 0.95, 0.1)
WHO = {"base": f"a blue {KIND}", "taught": f"a {TOKEN} {KIND}"}


# -- what is taught ----------------------------------------------------------------------------------------------------

def character(folder: Path | None = None) -> Path:
    """Write the pictures of the character, cut out: eight views of it standing."""
    from PIL import Image

    from engine.space import Cameras
    from engine.toybox import motions
    from engine.toybox.characters import CharacterSpec, build_character
    from engine.toybox.render import render
    folder = folder or SCRATCH / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(PICTURES):
        scene = build_character(CharacterSpec(KIND, "grey", seed=5), motions.pose("idle", k / PICTURES))
        rgba = render([scene], [Cameras.orbit(-35 + 10 * k, 5, 2.75, 40, SIZE)], SIZE).rgba[0]
        Image.fromarray(np.round(painted(np.asarray(rgba)) * 255).astype(np.uint8)).save(folder / f"{k}.png")
    return folder


def painted(rgba: np.ndarray) -> np.ndarray:
    """(h, w, 4) in [0, 1] -> the same figure, magenta above its middle row and green below, as light as it was."""
    rows = np.flatnonzero(rgba[..., 3].max(1) > 0.5)
    above = (np.arange(len(rgba)) < (rows[0] + rows[-1]) / 2)[:, None, None]
    light = 0.35 + 0.65 * rgba[..., :3].mean(-1, keepdims=True)
    return np.concatenate([np.where(above, UPPER, LOWER) * light, rgba[..., 3:]], -1)


def taught(steps: int = STEPS) -> Path:
    """The LoRA, trained once for these weights; a stopped training goes on."""
    from engine.models.sets import model_set
    from engine.training.lora_command import Training
    base = model_set("builtin").digest("text_to_image")
    out = SCRATCH / f"{TOKEN}_{steps}_{base[:12]}.safetensors"
    if not out.with_suffix(".json").exists():
        Training(character(), TOKEN, out, KIND, steps=steps, store=str(SCRATCH / "store"))()
    return out


# -- what is drawn -----------------------------------------------------------------------------------------------------

class Still:
    """A model set whose motion modules do nothing: every frame is drawn for itself."""

    def __init__(self, models: Any) -> None:
        self._models = models

    def __getattr__(self, name: str) -> Any:
        return getattr(self._models, name)

    def digest(self, role: str) -> str:
        return f"{self._models.digest(role)} still" if role == "motion" else self._models.digest(role)

    def load(self, role: str, device: str) -> Any:
        from engine.training.motion import fresh
        found = self._models.load(role, device)
        if role != "motion":
            return found
        unet = self._models.load("text_to_image", device).unet
        return replace(found, adapter=fresh(unet).to(next(unet.parameters()).device).eval())


class Drawn:
    """Clips and stills, kept by their keys."""

    def __init__(self, lora: Path) -> None:
        self.lora = str(lora)

    def clip(self, who: str, motion: str, seed: int, *, motion_lora: bool = False, still: bool = False) -> np.ndarray:
        """(f, h, w, 3) in [0, 1], a loop of one cycle."""
        from engine.stages.text_to_clip import text_to_clip
        words = {"prompt": f"{WHO[who]}, spin"} if motion == "spin" else {"prompt": WHO[who], "motion": motion}
        return self._frames(text_to_clip, still, seed, **words, frames=FRAMES, loop=True, pace=PACE,
                            motion_lora=motion_lora, **self._look(who))

    def stills(self, who: str) -> np.ndarray:
        """(n, h, w, 3): single frames, drawn without any motion."""
        from engine.stages.text_to_clip import text_to_clip
        return np.concatenate([self._frames(text_to_clip, True, 100 + seed, prompt=f"{WHO[who]}, standing", frames=1,
                                            pace=PACE, **self._look(who)) for seed in range(4)])

    def _look(self, who: str) -> dict[str, Any]:
        return {"lora": self.lora} if who == "taught" else {}

    def _frames(self, stage: Any, still: bool, seed: int, **told: Any) -> np.ndarray:
        from engine.models.sets import model_set
        from engine.runs.run import Run
        from engine.runs.store import Store
        models: Any = model_set("builtin")
        run = Run(Store(SCRATCH / "store"), Still(models) if still else models, seed=seed)
        frames = np.asarray(run.execute(run(stage, **told)).frames)[..., :3]
        print(f"{'still ' if still else ''}{told['prompt']}{', MotionLoRA' if told.get('motion_lora') else ''}, seed "
              f"{seed}", flush=True)
        return frames


def patterns(figures: int) -> dict[str, np.ndarray]:
    """Motion -> what changes over its cycle, of true clips; kept once they are made."""
    from engine.toybox.motions import MOTIONS
    from engine.training.clip_data import render_clip, sample_clip
    from engine.training.data import over
    from engine.training.motion_figures import changes, unit
    path = SCRATCH / f"patterns_{figures}.npz"
    if not path.exists():
        found: dict[str, Any] = {}
        for motion in MOTIONS:
            clips = [replace(sample_clip("train", 100 + i), motion=motion, speed=1, amplitude=1.0)
                     for i in range(figures)]
            found[motion] = unit(np.mean([changes(over(render_clip(c, FRAMES, SIZE)["rgba"])) for c in clips], 0))
            print(f"pattern of {motion}", flush=True)
        np.savez(path, **found)
    with np.load(path) as kept:
        return {name: kept[name] for name in kept}


# -- what is measured --------------------------------------------------------------------------------------------------

def hues(pictures: np.ndarray) -> np.ndarray:
    """(n, h, w, 3) over white -> (12 x 4,) shares of the figures' pixels by hue and saturation."""
    from PIL import Image
    figure = np.round(np.clip(pictures[pictures.min(-1) < 0.85], 0, 1) * 255).astype(np.uint8)
    hsv = np.asarray(Image.fromarray(figure[None]).convert("HSV"))[0]
    table, _, _ = np.histogram2d(hsv[:, 0], hsv[:, 1], bins=(12, 4), range=((0, 256), (0, 256)))
    shares: np.ndarray = table.ravel() / max(table.sum(), 1)
    return shares


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Bhattacharyya coefficient of two pictures' colours, 0 (none shared) to 1 (the same)."""
    return float(np.sqrt(hues(one) * hues(other)).sum())


def nearer(frames: np.ndarray, own: np.ndarray, others: np.ndarray) -> float:
    """Share of frames whose CLIP embedding is nearer to ``own``'s mean than to ``others``'."""
    from engine.models.sets import model_set
    from engine.stages.cut_out import clip_features
    model = model_set("builtin").load("image_text")

    def seen(pictures: np.ndarray) -> np.ndarray:
        features = np.stack([np.asarray(clip_features(model, p, "cpu"), np.float64) for p in pictures])
        return features / np.linalg.norm(features, axis=-1, keepdims=True)
    a, b = seen(own).mean(0), seen(others).mean(0)
    each = seen(frames)
    return float((each @ (a / np.linalg.norm(a)) > each @ (b / np.linalg.norm(b))).mean())


def together(ones: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """Mean cosine, -1 to 1, of what changes over time in pairs of clips."""
    from engine.training.motion_figures import changes, unit
    return float(np.mean([(unit(changes(a)) * unit(changes(b))).sum() for a, b in zip(ones, others, strict=True)]))


def rows(steps: int = STEPS, seeds: Sequence[int] = SEEDS) -> list[Row]:
    from engine.training.data import over
    SCRATCH.mkdir(parents=True, exist_ok=True)
    known, drawn = patterns(FIGURES), Drawn(taught(steps))
    from PIL import Image
    shown = over(np.stack([np.asarray(Image.open(p)) for p in sorted((SCRATCH / "pictures").glob("*.png"))]))
    stills = {who: drawn.stills(who) for who in WHO}
    clips: dict[str, list[np.ndarray]] = {}
    for who in WHO:
        for motion in ("walk", "wave"):
            clips[f"{who} {motion}"] = [drawn.clip(who, motion, seed) for seed in seeds]
        clips[f"{who} spin without"] = [drawn.clip(who, "spin", seed) for seed in seeds]
        clips[f"{who} spin with"] = [drawn.clip(who, "spin", seed, motion_lora=True) for seed in seeds]
        clips[f"{who} unmoved"] = [drawn.clip(who, "walk", seed, still=True) for seed in seeds]
    sheet(shown, stills, clips, SCRATCH / "sheet.png")
    return table(shown, stills, clips, known)


def table(shown: np.ndarray, stills: Mapping[str, np.ndarray], clips: Mapping[str, Sequence[np.ndarray]],
          known: Mapping[str, np.ndarray]) -> list[Row]:
    """The rows, from pictures alone: the taught ones, stills by who, clips by who and what."""
    from engine.training.motion_figures import figures

    def of(name: str, motion: str) -> dict[str, float]:
        return figures(clips[name], [motion] * len(clips[name]), known)

    def frames(who: str) -> np.ndarray:
        return np.concatenate([c for name, made in clips.items() if name.startswith(who) and "unmoved" not in name
                               for c in made])
    walks = {who: of(f"{who} walk", "walk") for who in WHO}
    waves = {who: of(f"{who} wave", "wave") for who in WHO}
    spins = {(who, how): of(f"{who} spin {how}", "spin") for who in WHO for how in ("without", "with")}
    unmoved = {who: of(f"{who} unmoved", "walk") for who in WHO}
    moves = {who: float(np.mean([walks[who]["magnitude"], waves[who]["magnitude"]])) for who in WHO}
    alike = {(a, b): together(clips[f"taught {a}"], clips[f"base {b}"]) for a, b in (
        ("walk", "walk"), ("wave", "wave"), ("unmoved", "unmoved"), ("spin with", "spin with"),
        ("spin with", "spin without"))}
    count = f"{len(clips['taught walk'])} clips each, {FRAMES} frames of {SIZE} px, pace {PACE}"
    return [
        row("a taught look in clips: colours shared with the taught pictures", overlap(frames("taught"), shown), "",
            None, None, f"0 to 1; stills with the LoRA {overlap(stills['taught'], shown):.3f}, clips of the base "
                        f"{overlap(frames('base'), shown):.3f}; {count}"),
        row("a taught look in clips: frames nearer to stills with the LoRA than to the base's",
            100 * nearer(frames("taught"), stills["taught"], stills["base"]), "% of frames", None, None,
            f"by CLIP; of clips of the base {100 * nearer(frames('base'), stills['taught'], stills['base']):.0f} %"),
        row("motion of a taught figure over the base's", moves["taught"] / moves["base"], "times", None, None,
            f"step from frame to frame where the figure is; walk and wave, {moves['taught']:.4f} and "
            f"{moves['base']:.4f} of 1; without motion modules, which is flicker, {unmoved['taught']['magnitude']:.4f}"
            ),
        row("a taught figure moves as the base's does from the same noise", alike["walk", "walk"], "cosine", None, None,
            f"of what changes, walking; waving {alike['wave', 'wave']:.3f}; without motion modules "
            f"{alike['unmoved', 'unmoved']:.3f}; with the MotionLoRA {alike['spin with', 'spin with']:.3f}, with it "
            f"and the base without {alike['spin with', 'spin without']:.3f}"),
        row("a taught figure goes along with walking", walks["taught"]["cosine"], "cosine", None, None,
            f"base {walks['base']['cosine']:.3f}; without motion modules {unmoved['taught']['cosine']:.3f} and "
            f"{unmoved['base']['cosine']:.3f}; waving {waves['taught']['cosine']:.3f}, base "
            f"{waves['base']['cosine']:.3f}"),
        row("MotionLoRA: a taught figure goes along with spinning", spins["taught", "with"]["cosine"], "cosine", None,
            None, f"without it {spins['taught', 'without']['cosine']:.3f}; base {spins['base', 'with']['cosine']:.3f}, "
                  f"without {spins['base', 'without']['cosine']:.3f}"),
        row("MotionLoRA: clips of a taught figure that spin", 100 * spins["taught", "with"]["shown"], "% of clips",
            None, None, f"nearest of twelve motions; without it {100 * spins['taught', 'without']['shown']:.0f} %; "
                        f"base {100 * spins['base', 'with']['shown']:.0f} %"),
        row("colours of a taught figure over time: drift", walks["taught"]["drift"], "of 1", None, None,
            f"base {walks['base']['drift']:.4f}; without motion modules {unmoved['taught']['drift']:.4f}")]


def sheet(shown: np.ndarray, stills: Mapping[str, np.ndarray], clips: Mapping[str, Sequence[np.ndarray]], path: Path
          ) -> None:
    """A row each: the taught pictures, the stills, every second frame of each first clip."""
    from PIL import Image

    from engine.training.denoise import grid
    listed = [shown, np.concatenate([stills["taught"], stills["base"]]), *(made[0][::2] for made in clips.values())]
    Image.fromarray(grid(np.concatenate([np.asarray(one[:8], np.float32) for one in listed]), 8)).save(path)
    path.with_suffix(".txt").write_text(json.dumps(["taught pictures", "stills: taught, base", *clips]) + "\n")


def main() -> None:
    from benchmarks.__main__ import table as written
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_motion", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS, help="of the LoRA's training")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    options = parser.parse_args()
    print(written(rows(options.steps, tuple(options.seeds))))


if __name__ == "__main__":
    main()
