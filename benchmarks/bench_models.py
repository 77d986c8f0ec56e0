"""The built-in models, measured on what they never saw: ``python -m benchmarks models``.

Everything held out is made here from the toybox's own splits (``sample_spec("held_out", index)``: new seeds, a third
of them kind-colour pairs that no training picture shows), so anyone can repeat the figures. Pictures are scored over
white in sRGB; a PSNR is the mean of the pictures' own PSNRs in dB.
"""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

Row = dict[str, Any]
SIZE = 128
PROMPTS = 200
NOVEL_OBJECTS = 24
AZIMUTHS = 8
NEIGHBOURS = 1080
"""Training objects among which the nearest is looked for."""
FIRST = {"vae": 0, "judge": 1000, "prompts": 2000, "novel": 3000, "matting": 4000}
"""Where each figure's held-out objects begin, so that no two figures share one."""


def row(figure: str, value: Any, unit: str, first_bar: Any = None, aim: Any = None, note: str = "") -> Row:
    return {"figure": figure, "value": round(float(value), 4), "unit": unit, "first_bar": first_bar, "aim": aim,
            "note": note}


class Made:
    """Held-out objects rendered now, with the interface of engine.training.data.Shards that the figures need.

    rgba : (n, 8, 128, 128, 4) uint8 under the training's own random cameras; specs : n dicts
    """

    def __init__(self, split: str, first: int, count: int) -> None:
        from engine.toybox.generate import join, views_of
        from engine.toybox.render import render
        from engine.toybox.scene import build, sample_spec
        pictures, self.specs = [], []
        for i in range(first, first + count):
            scene = build(sample_spec(split, i))
            cameras, _ = views_of(scene, split, i, SIZE)
            pictures.append(np.round(render([scene], [join(cameras)], SIZE).rgba * 255).astype(np.uint8))
            self.specs.append(scene.spec.to_json())
        self._rgba = np.stack(pictures)

    def __len__(self) -> int:
        return len(self._rgba)

    @property
    def views(self) -> int:
        return int(self._rgba.shape[1])

    def rgba(self, objects: Any, views: Any) -> np.ndarray:
        return self._rgba[np.asarray(objects), np.asarray(views)]


FOLDERS: list[TemporaryDirectory[str]] = []


class BenchJob:
    """The least a stage needs: seeds by label and number, the built-in models, silence."""

    device = "cpu"

    def __init__(self, label: str) -> None:
        self.label = label

    def seed(self, candidate: int = 0) -> int:
        from engine.toybox.scene import stable_hash
        return stable_hash("bench", self.label, candidate)

    def generator(self, candidate: int = 0) -> Any:
        import torch
        return torch.Generator().manual_seed(self.seed(candidate))

    def model(self, role: str) -> Any:
        from engine.models.sets import model_set
        return model_set("builtin").load(role, self.device)

    def folder(self) -> Path:
        """One for each time it is asked: it goes with this process, as what a clip's frames are read from must stay."""
        FOLDERS.append(TemporaryDirectory(prefix="maquette-bench-"))
        return Path(FOLDERS[-1].name)

    def progress(self, fraction: float, preview: Any = None) -> None: ...

    def checkpoint(self, state: Any) -> None: ...

    def resume(self) -> None: ...

    def warn(self, text: str) -> None: ...

    def metric(self, name: str, value: float, unit: str = "", against: str = "") -> None: ...


def vae_rows(objects: int = 48) -> list[Row]:
    """Held-out pictures there and back, each object from two of its eight views."""
    from engine.models.cards import verify
    from engine.models.loading import load_vae
    from engine.models.sets import BUILTIN_FOLDER
    from engine.training.vae import mask_psnr
    verify(BUILTIN_FOLDER / "vae")
    shards = Made("held_out", FIRST["vae"], objects)
    psnr = mask_psnr(load_vae(BUILTIN_FOLDER / "vae", "cpu"), shards, 2 * objects)  # type: ignore[arg-type]
    return [row("VAE, held-out, PSNR on the object's mask", np.mean(psnr), "dB", 27, 33,
                f"{len(psnr)} pictures, worst tenth below {np.quantile(psnr, 0.1):.1f} dB")]


def judge_rows(objects: int = 240) -> list[Row]:
    """The classifier itself, on true held-out renders from text-to-image views; of checks either colour is right."""
    from engine.training.data import over
    from engine.training.judge import load_judge, right, verdicts
    shards = Made("held_out", FIRST["judge"], objects)
    said = verdicts(load_judge(), over(shards.rgba(np.arange(objects), np.arange(objects) % 2)))
    shares = {name: np.mean([right(name, a, s) for a, s in zip(answers, shards.specs, strict=True)])
              for name, answers in said.items()}
    bars = {"kind": (0.97, 0.99), "color": (0.97, 0.99)}
    rows = []
    for name, share in shares.items():
        bar, aim = bars.get(name, (None, None))
        rows.append(row(f"judge on true renders, {name}", share, "", bar, aim, f"{objects} pictures"))
    return rows


def held_out_prompts(count: int = PROMPTS) -> list[tuple[str, dict[str, Any]]]:
    """(prompt, description) of held-out objects; the prompts say all that the captions might, but no view."""
    from engine.toybox.captions import caption
    from engine.toybox.scene import sample_spec
    rng = random.Random(0)
    specs = [sample_spec("held_out", FIRST["prompts"] + i).to_json() for i in range(count)]
    return [(caption(spec, 0.0, 20.0, rng, view_words=False), spec) for spec in specs]


def prompt_rows(prompts: int = PROMPTS) -> list[Row]:
    """Held-out prompts through the text_to_image stage as users have it; the judge says what the pictures show.

    An attribute counts only where the prompt names it: a material or a plain surface that is not asked for is free.
    """
    from engine.stages.text_to_image import TextToImage, text_to_image
    from engine.training.judge import HEADS, load_judge, right, verdicts
    judge = load_judge()
    first: dict[str, list[bool]] = {h: [] for h in HEADS}
    best: dict[str, list[bool]] = {h: [] for h in HEADS}
    for text, spec in held_out_prompts(prompts):
        made = text_to_image(TextToImage.model_validate({"prompt": text, "candidates": 4}), BenchJob(text))
        said = verdicts(judge, np.stack([p.image for p in made.pictures]))
        named = {"kind": True, "color": True, "material": spec["material"] in text.split(),
                 "pattern": spec["pattern"] != "plain"}
        for h in HEADS:
            if named[h]:
                first[h].append(right(h, said[h][0], spec))
                best[h].append(right(h, said[h][made.best], spec))
    bars = {"kind": (0.90, 0.99), "color": (0.95, 0.99)}
    out = []
    for which, answers in (("one candidate", first), ("best of four by CLIP", best)):
        for h in (h for h in HEADS if answers[h]):
            bar, aim = bars.get(h, (None, None))
            out.append(row(f"prompt fidelity, {h}, {which}", np.mean(answers[h]), "", bar, aim,
                           f"{len(answers[h])} held-out prompts that name it"))
    return out


def novel_rows(objects: int = NOVEL_OBJECTS) -> list[Row]:
    """A true picture from the front, 20 degrees up, through the image_to_views stage at 8 azimuths, 20 degrees up.

    Scored on the union of masks against the true views; beside it, what copying the input gives, and the true views of
    the training object whose front picture is nearest (least squared difference) among the first NEIGHBOURS.
    """
    from engine.artifacts import Picture, over_white
    from engine.conventions import zero123
    from engine.diffusion.framing import frame_subject
    from engine.space import Cameras
    from engine.stages.image_to_views import ImageToViews, image_to_views
    from engine.toybox.generate import framed
    from engine.toybox.render import render
    from engine.toybox.scene import Scene, build, sample_spec
    from engine.training.novel_view import union_psnr
    step = 360.0 / AZIMUTHS
    # What the network drew, not what the cut makes of it: mist stays the pale colour that it is in the mean.
    asked = ImageToViews.model_validate({"azimuths": AZIMUTHS, "elevations_deg": (20.0,), "size": SIZE,
                                         "matte": "plain"})
    ring = Cameras.orbit(np.arange(AZIMUTHS) * step, 20.0, zero123.field_distance(zero123.CANONICAL_RADIUS),
                         zero123.FOV_DEG, SIZE)

    def front(scene: Scene) -> np.ndarray:
        """(128, 128, 4): the framed condition picture."""
        return frame_subject(render([scene], [framed(scene, 0.0, 20.0, 40.0, 0.7, SIZE)], SIZE).rgba[0], SIZE)[0]

    neighbours = np.stack([np.round(over_white(front(build(sample_spec("train", i)))) * 255).astype(np.uint8)
                           for i in range(NEIGHBOURS)])
    ours, copied, nearest = [], [], []
    for i in range(objects):
        scene = build(sample_spec("held_out", FIRST["novel"] + i))
        shown = front(scene)
        true = np.round(render([scene], [ring], SIZE).rgba * 255).astype(np.uint8)
        views = image_to_views(Picture(shown, azimuth_deg=0.0, elevation_deg=20.0), asked, BenchJob(f"n{i}"))
        ours.append(union_psnr(over_white(views.images[1:]), true))
        flat = over_white(shown)
        copied.append(union_psnr(np.repeat(flat[None], AZIMUTHS, 0), true))
        distance = ((neighbours.astype(np.float32) / 255 - flat) ** 2).mean((1, 2, 3))
        other = build(sample_spec("train", int(distance.argmin())))
        nearest.append(union_psnr(over_white(render([other], [ring], SIZE).rgba), true))
    a, b, c = (float(np.mean(v)) for v in (ours, copied, nearest))
    by_azimuth = ", ".join(f"{v:.1f}" for v in np.mean(ours, 0))
    return [row("novel views, PSNR on the union of masks", a, "dB", 14.5, 20,
                f"{objects} held-out objects, azimuths 0, 45, ... 315: {by_azimuth}"),
            row("... over copying the input", a - b, "dB", 4, 9, f"copying {b:.2f} dB"),
            row("... over the nearest training object", a - c, "dB", None, None,
                f"nearest of {NEIGHBOURS} by its front picture {c:.2f} dB")]


def matting_rows(objects: int = 60) -> list[Row]:
    """The matting network on held-out objects over each kind of background, all drawn anew."""
    from engine.training.matting import background_iou
    shards = Made("held_out", FIRST["matting"], objects)
    by_kind = background_iou(BenchJob("matting").model("matting").unet, shards, 60, seed=11)  # type: ignore[arg-type]
    return [row("matting, held-out objects and backgrounds, IoU", np.mean(list(by_kind.values())), "", 0.90, 0.98,
                ", ".join(f"{k} {v:.3f}" for k, v in by_kind.items()))]


def rows() -> list[Row]:
    """Every figure of the built-in models."""
    return vae_rows() + judge_rows() + prompt_rows() + novel_rows() + matting_rows()
