"""Clips by the built-in models against the toybox's truth: ``python -m benchmarks clips``, or this file by itself.

Figures are ``sample_character("held_out", FIRST + i)``, each in one of the twelve motions in turn, 16 frames of a whole
loop at 128 pixels. The pipeline gets one picture of the standing figure, from a camera of its own, and the true joints
of every frame; it runs whole: cut out, framed, animated, freed of its background. Truth is the rendered clip.

What is measured of each clip is printed and kept beside the trainings' scratch files at once, under the weights'
digest: stopped, the same command goes on, and the table says of how many clips it is.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_models import BenchJob, Row, row

FIRST = 7000
CHARACTERS, FRAMES, SIZE, FPS = 20, 16, 128, 12.0
LENGTHS = (16, 48, 120, 240)
MEASURES = 2
"""Raise it when what is measured changes: figures kept under another number are not taken."""
KEPT = Path(__file__).parents[1] / "scratch" / "bench_clips.json"
Figures = dict[str, float]


class ClipJob(BenchJob):
    """What a clip's stages need, and what they told."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self.metrics: Figures = {}

    def resume(self) -> None:
        return None

    def checkpoint(self, state: Any) -> None: ...

    def warn(self, text: str) -> None: ...

    def metric(self, name: str, value: float, unit: str = "", against: str = "") -> None:
        self.metrics[name] = float(value)


# -- one clip ----------------------------------------------------------------------------------------------------------

def clip_spec(i: int) -> Any:
    """The i-th clip: a held-out figure from cameras of its own, in the motion whose turn it is."""
    from engine.toybox.motions import MOTIONS
    from engine.training.clip_data import sample_clip
    motion = tuple(MOTIONS)[i % len(MOTIONS)]
    made = sample_clip("held_out", FIRST + i)
    return replace(made, motion=motion, figure=replace(made.figure, motion=motion), amplitude=1.0, speed=1)


def animated(references: np.ndarray, joints: np.ndarray, job: ClipJob) -> Any:
    """The pipeline, stage by stage. references : (h, w, 4) uint8; joints : (n, 18, 2) -> Clip with alpha"""
    from engine.artifacts import Picture
    from engine.clip_artifacts import Poses
    from engine.stages.animate_character import AnimateCharacter, animate_character
    from engine.stages.clip_alpha import ClipAlpha, clip_alpha
    from engine.stages.cut_out import CutOut, cut_out
    from engine.stages.frame_character import FrameCharacter, frame_character
    character = frame_character(cut_out(Picture(references.astype(np.float32) / 255), CutOut(), job),
                                FrameCharacter(), job)
    poses = Poses(joints, (SIZE, SIZE), FPS, True)
    return clip_alpha(animate_character(character, poses, AnimateCharacter(), job), ClipAlpha(), job)


def measure(i: int) -> Figures:
    """All figures of the i-th clip."""
    from engine.artifacts import over_white
    from engine.clips.measure import keypoint_error, measured
    from engine.runs import files
    from engine.training.clip_data import render_clip
    spec = clip_spec(i)
    truth = render_clip(spec, FRAMES, SIZE)
    rgba = truth["rgba"].astype(np.float32) / 255
    reference = truth["references"][0].astype(np.float32) / 255
    job = ClipJob(f"clip {i}")
    files.reset_peak_memory()
    began = time.perf_counter()
    made = np.asarray(animated(truth["references"][0], truth["joints"], job).frames)
    seconds = time.perf_counter() - began
    shown, true, still = over_white(made), over_white(rgba), np.broadcast_to(over_white(reference), rgba[..., :3].shape)
    union = (made[..., 3] >= 0.5) | (rgba[..., 3] >= 0.5) | (reference[..., 3] >= 0.5)
    masks = made[..., 3] >= 0.5, rgba[..., 3] >= 0.5
    own, wanted = measured(made, True), measured(rgba, True)
    height = float(np.ptp(np.nonzero(rgba[0, ..., 3] >= 0.5)[0]) + 1)
    floor = job.model("pose_estimation")(list(true))
    worn = clothes(spec)
    return {"psnr": _psnr(shown[union], true[union]), "frozen_psnr": _psnr(still[union], true[union]),
            "ssim": _ssim(shown, true), "frozen_ssim": _ssim(still, true),
            "colours": colours_kept(worn, shown, true, np.median),
            "mean_colours": colours_kept(worn, shown, true, np.mean),
            "keypoints": job.metrics["keypoint_error"],
            "keypoints_floor": keypoint_error(floor.joints, truth["joints"], height),
            "iou": float(np.mean([(a & b).sum() / max((a | b).sum(), 1) for a, b in zip(*masks, strict=True)])),
            "alpha_error": float(np.abs(made[..., 3] - rgba[..., 3]).sum() / rgba[..., 3].sum()),
            "alpha_flicker": own.alpha_flicker, "alpha_flicker_true": wanted.alpha_flicker,
            "colour_flicker": own.colour_flicker, "colour_flicker_true": wanted.colour_flicker,
            "seam": own.seam_over_step, "seam_true": wanted.seam_over_step, "seconds": seconds,
            "gigabytes": files.peak_memory() / 1e9}


def _psnr(shown: np.ndarray, true: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((shown - true) ** 2)))


def _ssim(shown: np.ndarray, true: np.ndarray) -> float:
    """Mean over frames, 11 x 11 windows (kornia)."""
    import torch
    from kornia.metrics import ssim
    pair = [torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))) for x in (shown, true)]
    return float(ssim(*pair, window_size=11).mean())


def colours_kept(worn: np.ndarray, shown: np.ndarray, true: np.ndarray, middle: Any) -> float:
    """Share of frames in which the clothes' colour has the name that it has in truth. NaN where none are seen.

    worn : (n, h, w) bool, the true clothes; middle : of their pixels, a channel at a time: the median says what most of
        them show, the mean also what soft edges mix in from beside them
    A name is that of the nearest of the toybox's twelve colours, in CIE Lab with lightness at half its weight, because
    light and shade are no other colour.
    """
    kept = []
    for k, mask in enumerate(worn):
        if mask.sum() >= 30:
            kept.append(colour_name(middle(shown[k][mask], axis=0)) == colour_name(middle(true[k][mask], axis=0)))
    return float(np.mean(kept)) if kept else float("nan")


def clothes(spec: Any) -> np.ndarray:
    """(n, h, w) bool: where the clip's figure shows parts whose faces mostly have its own colour."""
    from engine.toybox import motions
    from engine.toybox.characters import build_character
    from engine.toybox.render import render
    from engine.training.clip_data import camera_of
    camera, masks = camera_of(spec.cameras[0], SIZE), []
    for k in range(FRAMES):
        scene = build_character(spec.figure, motions.pose(spec.motion, k / FRAMES, spec.amplitude, spec.speed))
        own = [i for i in range(len(scene.part_names)) if (scene.slot[scene.part == i] < 2).mean() > 0.5]
        masks.append(np.isin(render([scene], [camera], SIZE).part[0], own))
    return np.stack(masks)


def colour_name(rgb: np.ndarray) -> str:
    """The nearest of the toybox's colours to one colour (3,)."""
    import torch
    from kornia.color import rgb_to_lab

    from engine.toybox.scene import RGB
    colours = torch.tensor(np.array([rgb, *RGB.values()]), dtype=torch.float32).T[None, :, None]
    lab = rgb_to_lab(colours)[0, :, 0].T.numpy() * (0.5, 1, 1)
    return list(RGB)[int(np.argmin(np.linalg.norm(lab[1:] - lab[0], axis=1)))]


# -- how long, how much memory -----------------------------------------------------------------------------------------

def length_figures(count: int) -> Figures:
    """Seconds and peak memory of one figure's loop of so many frames."""
    from engine.clip_artifacts import Poses  # noqa: F401  (loaded before the clock starts)
    from engine.runs import files
    from engine.training.clip_data import render_clip
    truth = render_clip(clip_spec(1), FRAMES, SIZE)
    joints = truth["joints"][np.arange(count) * FRAMES // count]
    files.reset_peak_memory()
    began = time.perf_counter()
    animated(truth["references"][0], joints, ClipJob(f"length {count}"))
    return {"seconds": time.perf_counter() - began, "gigabytes": files.peak_memory() / 1e9}


def export_figures() -> Figures:
    """Seconds that each format takes for 16 frames of truth, and the whole stage's."""
    import tempfile

    from engine.clip_artifacts import Clip
    from engine.clips import formats
    from engine.clips.formats import FORMATS, Clock, Look
    from engine.clips.sheet import Layout, write_sheet
    from engine.stages.export_clip import ExportClip, export_clip
    from engine.training.clip_data import render_clip
    frames = render_clip(clip_spec(0), FRAMES, SIZE)["rgba"]
    clock, found = Clock(FRAMES, Fraction(12), True), {}
    for name in FORMATS:
        taken = []
        for _ in range(3):
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                if name == "sheet":
                    write_sheet(Path(folder), lambda: frames, clock, Layout(), "x", {})
                else:
                    formats.write(name, Path(folder), lambda: frames, clock, Look())
                taken.append(time.perf_counter() - began)
        found[name] = min(taken)
    began = time.perf_counter()
    export_clip(Clip(frames.astype(np.float32) / 255, FPS, True), ExportClip(), ClipJob("export"))
    return {**found, "all": time.perf_counter() - began}


# -- the table ---------------------------------------------------------------------------------------------------------

class Kept:
    """Figures by name, on the disk as soon as they are known; those of other weights are dropped."""

    def __init__(self, path: Path = KEPT) -> None:
        from engine.models.sets import model_set
        models = model_set("builtin")
        self.path = path
        roles = ("reference_animation", "pose_estimation", "matting")
        self.weights = f"{MEASURES} " + "".join(models.digest(role)[:12] for role in roles)
        known = json.loads(path.read_text()) if path.exists() else {}
        self.found: dict[str, Figures] = known.get("found", {}) if known.get("weights") == self.weights else {}

    def __call__(self, name: str, work: Any, *arguments: Any) -> Figures:
        if name not in self.found:
            self.found[name] = work(*arguments)
            self.path.parent.mkdir(exist_ok=True)
            self.path.write_text(json.dumps({"weights": self.weights, "found": self.found}, indent=1))
            print(f"{name}: " + ", ".join(f"{k} {v:.4g}" for k, v in self.found[name].items()), flush=True)
        return self.found[name]


def rows(characters: int = CHARACTERS, lengths: tuple[int, ...] = LENGTHS) -> list[Row]:
    kept = Kept()
    try:
        for i in range(characters):
            kept(f"clip {i:02d} {clip_spec(i).motion}", measure, i)
        kept("export", export_figures)
        for count in lengths:
            kept(f"length {count}", length_figures, count)
    except KeyboardInterrupt:
        print("stopped: the table is of what is there; the same command goes on", flush=True)
    return table(kept.found)


def table(found: dict[str, Figures]) -> list[Row]:
    """The rows of what was measured so far."""
    clips = [figures for name, figures in found.items() if name.startswith("clip ")]
    made: list[Row] = []
    if clips:
        made += _quality(clips)
    if "export" in found:
        told = found["export"]
        made.append(row("export: 16 frames, every format", told["all"], "s", note=", ".join(
            f"{name} {seconds:.2f}" for name, seconds in told.items() if name != "all")))
    lengths = {int(name.split()[1]): figures for name, figures in found.items() if name.startswith("length ")}
    if len(lengths) > 1:
        made += _lengths(lengths)
    return made


def _quality(clips: list[Figures]) -> list[Row]:
    def mean(name: str) -> float:
        return float(np.nanmean([c[name] for c in clips]))

    how = f"{len(clips)} held-out figures and motions, {FRAMES} frames of {SIZE} px"
    gains = [c["psnr"] - c["frozen_psnr"] for c in clips]
    return [
        row("character_to_clip: over the frozen picture", float(np.mean(gains)), "dB", 3, 8,
            f"{how}; PSNR on the union of masks {mean('psnr'):.2f} dB, frozen {mean('frozen_psnr'):.2f} dB; worst clip "
            f"{min(gains):+.2f}, best {max(gains):+.2f}"),
        row("character_to_clip: SSIM", mean("ssim"), "", 0.8, None, f"frozen picture {mean('frozen_ssim'):.3f}"),
        row("character_to_clip: clothes' colour kept", 100 * mean("colours"), "% of frames", 90, None,
            f"their median colour's name; their mean's, which soft edges mix, in {100 * mean('mean_colours'):.1f} %"),
        row("character_to_clip: keypoint error", mean("keypoints"), "% of height", 5, 0,
            f"by the built-in estimator, which is {mean('keypoints_floor'):.2f} % off on true frames"),
        row("character_to_clip: alpha IoU", mean("iou"), "", 0.9, None,
            f"by the network that learned what is drawn; error {100 * mean('alpha_error'):.1f} % of the figure's area; "
            f"worst clip {min(c['iou'] for c in clips):.3f}"),
        row("character_to_clip: alpha flicker", mean("alpha_flicker"), "of the area", None, None,
            f"truth {mean('alpha_flicker_true'):.4f}"),
        row("character_to_clip: colour flicker", mean("colour_flicker"), "levels of 255", None, None,
            f"truth {mean('colour_flicker_true'):.2f}"),
        row("character_to_clip: loop's seam over the mean step", mean("seam"), "times", 1, 0,
            f"truth {mean('seam_true'):.3f}; worst clip {max(c['seam'] for c in clips):.3f}"),
        row("character_to_clip: 16 frames", float(np.median([c["seconds"] for c in clips])), "s", 90, 25,
            f"from the picture to frames with alpha, median; peak memory {max(c['gigabytes'] for c in clips):.2f} GB "
            "(bar 4)")]


def _lengths(lengths: dict[int, Figures]) -> list[Row]:
    """Linear: what a further frame costs between the shortest and the longest, over what it costs up to the middle."""
    counts = sorted(lengths)
    each = {n: lengths[n]["seconds"] / n for n in counts}
    growth = lengths[counts[-1]]["gigabytes"] - lengths[counts[0]]["gigabytes"]
    return [row(f"character_to_clip: {counts[-1]} frames, a frame's time over that of {counts[0]}",
                each[counts[-1]] / each[counts[0]], "times", None, None,
                ", ".join(f"{n}: {lengths[n]['seconds']:.1f} s" for n in counts)),
            row(f"character_to_clip: memory of {counts[-1]} frames over that of {counts[0]}", growth, "GB", None, None,
                ", ".join(f"{n}: {lengths[n]['gigabytes']:.2f} GB" for n in counts))]


def main() -> None:
    from benchmarks.__main__ import table as written
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_clips", description=__doc__)
    parser.add_argument("--characters", type=int, default=CHARACTERS)
    parser.add_argument("--lengths", type=int, nargs="*", default=list(LENGTHS))
    options = parser.parse_args()
    print(written(rows(options.characters, tuple(options.lengths))))


if __name__ == "__main__":
    main()
