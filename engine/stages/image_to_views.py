"""A framed subject -> pictures of it from all around, by the novel-view network (Zero-1-to-3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator

from engine.artifacts import Picture, Views, over_white
from engine.conventions import zero123
from engine.diffusion import framing, mattes, novel_view, pictures, sampling, two_rings, zero123plus
from engine.diffusion.prompt import DEFAULT_ELEVATION_DEG
from engine.errors import RunFailed
from engine.job import Job, Params, stage
from engine.space import OBJECT_LONGEST_SIDE, Cameras

BATCH = 16
WHITE = np.ones(3, np.float32)


class ImageToViews(Params):
    """Parameters of ``image_to_views``."""

    elevation_deg: float | None = Field(None, ge=-30, le=80, description="Elevation that the picture was taken from, "
                                        "-30 to 80 degrees; none: what the picture says, else 20.")
    rings: Literal["equal", "two"] = Field("equal", description="equal: a ring at each of elevations_deg; two: "
                                           "One-2-3-45's, one at the picture's elevation, one 30 degrees off it.")
    azimuths: int = Field(8, ge=2, le=72, description="Views in each ring, 2 to 72.")
    elevations_deg: tuple[float, ...] = Field((20.0, 50.0, -5.0), min_length=1, max_length=8,
                                              description="Elevation of each equal ring, -30 to 80 degrees.")
    near_deg: float = Field(0.0, ge=0, le=20, description="Of two rings: four more views beside each, so many degrees "
                            "off, 0 (none) to 20, drawn from the ring's view.")
    steps: int | None = Field(None, ge=1, le=250, description="Sampling steps, 1 to 250; 1 gives the mean of all views "
                              "that fit; none: the model's own number.")
    guidance: float | None = Field(None, ge=1, le=20, description="Classifier-free guidance, 1 (none) to 20; none: the "
                                   "model's own.")
    sampler: Literal["ddim", "dpm"] = Field("ddim", description="Update rule: ddim or dpm (DPM-Solver++ 2M).")
    matte: Literal["auto", "mean", "plain", "model"] = Field("auto", description=(
        "How views are cut out: mean, by their white background, a pale rim being mist; plain, the same with a sharp "
        "edge; model, by the matting network; auto: mean after one step, else plain."))
    size: int | None = Field(None, ge=64, le=1024, description="Side of the views, pixels; none: the network's own, "
                             "twice that when the picture is that large.")
    trust: float = Field(0.5, gt=0, le=1, description="Weight of a made view beside the picture's own 1.")

    QUALITY: ClassVar[dict[str, dict[str, Any]]] = {"draft": {"azimuths": 6, "elevations_deg": (20.0, 50.0)},
                                                    "high": {"azimuths": 12}}

    @field_validator("elevations_deg")
    @classmethod
    def _elevations(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(-30 <= v <= 80 for v in value):
            raise ValueError("every elevation must lie in -30 to 80 degrees")
        return value


@stage(version=3, roles=("novel_view", "matting"))
def image_to_views(picture: Picture, p: ImageToViews, job: Job) -> Views:
    """Draw rings of views around the subject; view 0 is the picture itself, moved to where its camera sees it. Near
    views are drawn from the ring's view that they stand beside; where that is empty, from the picture.

    picture : (s, s, 4), framed by ``cut_out``. The cameras are Zero-1-to-3's (field of view 49.1 degrees, the
    canonical distance), in field units, with the picture's own azimuth (0 when unknown) and elevation. Zero123++ draws
    its own six views, whatever rings are asked for.
    """
    model = job.model("novel_view")
    azimuth = picture.azimuth_deg or 0.0
    elevation = p.elevation_deg if p.elevation_deg is not None else picture.elevation_deg
    if elevation is None:
        elevation = DEFAULT_ELEVATION_DEG
        job.warn(f"the picture's elevation is not known: taken as {elevation:g} degrees; --elevation DEG sets it")
    if isinstance(model, zero123plus.SixViews):
        return _six_views(picture, elevation, model, p, job)
    # The first one repeats the picture's own camera: where it puts the subject tells where the picture belongs.
    places = (two_rings.two_rings(elevation, p.azimuths) if p.rings == "two" else
              [(0.0, elevation), *ring_places(p.azimuths, p.elevations_deg)])
    beside = [two_rings.near(place, p.near_deg) for place in places] if p.rings == "two" and p.near_deg > 0 else []
    share = len(places) / (len(places) + sum(map(len, beside)))
    own = (picture.image, elevation)
    made = _draw(model, [own], [(0, *place) for place in places], p, job, (0.0, share))

    size = p.size or (model.size if picture.image.shape[0] < 2 * model.size else 2 * model.size)
    matte = p.matte if p.matte != "auto" else ("mean" if steps_of(p, model) == 1 else "plain")
    cut = [_cut(image, matte, job) for image in made]
    if beside:
        shown = [own if k == 0 or not _solid(cut[k]) else (framing.frame_subject(cut[k], model.size)[0], place[1])
                 for k, place in enumerate(places)]
        turned = [0.0 if source is own else places[k][0] for k, source in enumerate(shown)]
        asked = [(k, a - turned[k], e) for k, four in enumerate(beside) for a, e in four]
        cut += [_cut(image, matte, job) for image in _draw(model, shown, asked, p, job, (share, 1.0), len(places))]
        places = places + [place for four in beside for place in four]
    if not any(_solid(view) for view in cut):
        raise RunFailed("the novel-view network drew nothing but background", "try another picture or --seed")
    reference = place_like(picture.image, cut[0], size)
    whole = framing.Square(0, 0, model.size)
    views = [reference] + [framing.crop_square(view, whole, size) for view in cut[1:]]
    weights = [1.0] + [p.trust if _solid(view) else 0.0 for view in cut[1:]]

    cameras = Cameras.orbit([azimuth + a for a, _ in places], [e for _, e in places],
                            zero123.field_distance(zero123.CANONICAL_RADIUS), zero123.FOV_DEG, size)
    job.metric("reference_iou", _iou(reference[..., 3], framing.crop_square(cut[0], whole, size)[..., 3]),
               against="made view")
    job.progress(1.0, over_white(views[0]))
    return Views(np.stack(views), cameras, np.zeros(len(views), bool), names=_names(azimuth, places), reference=0,
                 weights=np.asarray(weights, np.float32))


def _six_views(picture: Picture, elevation: float, model: zero123plus.SixViews, p: ImageToViews, job: Job) -> Views:
    """The picture and Zero123++'s six views, with the cameras that it was trained on."""
    azimuth, steps = picture.azimuth_deg or 0.0, p.steps or model.steps
    image = framing.crop_square(picture.image, framing.Square(0, 0, picture.image.shape[0]), model.size)
    seen = image[..., :3] * image[..., 3:] + zero123plus.GREY * (1 - image[..., 3:])
    made = pictures.images_of(zero123plus.draw(model, pictures.tensor_of(seen[None], job.device), job.generator(0),
                                               steps, p.guidance, lambda i: job.progress(0.9 * i / steps)))
    backgrounds = [mattes.border_colour(view)[0] for view in made]
    cut = [_cut(view, p.matte, job, ground) for view, ground in zip(made, backgrounds, strict=True)]
    if not any(_solid(view) for view in cut):
        raise RunFailed("the novel-view network drew nothing but background", "try another picture or --seed")
    size = p.size or (model.size if picture.image.shape[0] < 2 * model.size else 2 * model.size)
    # No view of them repeats the picture: its subject is put where one of the usual size would stand.
    half = 0.25 * OBJECT_LONGEST_SIDE / (zero123plus.DISTANCE * np.tan(np.radians(zero123plus.FOV_DEG / 2)))
    whole = framing.Square(0, 0, model.size)
    views = [place_like(picture.image, np.zeros((1, 1, 4), np.float32), size, half),
             *(framing.crop_square(view, whole, size) for view in cut)]
    places = [(0.0, elevation), *zip(zero123plus.AZIMUTHS_DEG, zero123plus.ELEVATIONS_DEG, strict=True)]
    cameras = Cameras.orbit([azimuth + a for a, _ in places], [e for _, e in places], zero123plus.DISTANCE,
                            zero123plus.FOV_DEG, size)
    weights = [1.0] + [p.trust if _solid(view) else 0.0 for view in cut]
    job.progress(1.0, over_white(views[0]))
    return Views(np.stack(views), cameras, np.zeros(len(views), bool), names=_names(azimuth, places), reference=0,
                 weights=np.asarray(weights, np.float32))


def _names(azimuth: float, places: Sequence[tuple[float, float]]) -> list[str]:
    return ["reference"] + [f"azimuth_{(azimuth + a) % 360:03.0f}_elevation_{e:+03.0f}" for a, e in places[1:]]


def steps_of(p: ImageToViews, model: Any) -> int:
    """Sampling steps: what was asked for, else the model's own."""
    return int(p.steps or model.defaults.steps)


def ring_places(azimuths: int, elevations_deg: Sequence[float]) -> list[tuple[float, float]]:
    """(azimuth step, elevation) of every view: equal rings, each turned half a step against the one before."""
    step = 360.0 / azimuths
    return [((i + (k % 2) / 2) * step, float(e)) for k, e in enumerate(elevations_deg) for i in range(azimuths)]


FLAT = 0.25 / (zero123.CANONICAL_RADIUS * math.tan(math.radians(zero123.FOV_DEG / 2)))
"""Half of the share of a view's side that a flat subject takes at the canonical distance."""


def place_like(rgba: np.ndarray, like: np.ndarray, size: int, half: float = FLAT) -> np.ndarray:
    """Move and scale a framed picture so that its bounding box sits where that of ``like`` does.

    rgba : (s, s, 4); like : (m, m, 4), the same subject as its camera sees it -> (size, size, 4). Where ``like`` is
    empty, the subject is centred, and ``half`` is half of the share of the side that it takes.
    """
    source = framing.bounding_box(rgba[..., 3])
    if (like[..., 3] >= framing.SOLID).any():
        left, top, right, bottom = (v / like.shape[0] for v in framing.bounding_box(like[..., 3]))
    else:
        left, top, right, bottom = 0.5 - half, 0.5 - half, 0.5 + half, 0.5 + half
    fill = max(right - left, bottom - top)
    square = framing.square_around(source, fill, ((left + right) / 2 - 0.5, (top + bottom) / 2 - 0.5))
    return framing.crop_square(rgba, square, size)


def _draw(model: Any, shown: Sequence[tuple[np.ndarray, float]], asked: Sequence[tuple[int, float, float]],
          p: ImageToViews, job: Job, span: tuple[float, float], first_seed: int = 0) -> np.ndarray:
    """Sample what is asked for -> (n, size, size, 3) over white; one generator a view, so that batches change no draw.

    shown : framed pictures (s, s, 4), each with the elevation it was taken from
    asked : number of the picture to draw from, azimuth step from it, elevation to look from
    span : shares of the stage's progress, from and to; first_seed : number of the first view's generator
    """
    device, done, steps = job.device, 0, steps_of(p, model)
    guidance = model.defaults.guidance if p.guidance is None else p.guidance
    framed = [framing.crop_square(image, framing.Square(0, 0, image.shape[0]), model.size) for image, _ in shown]
    total = -(-len(asked) // BATCH) * steps
    drawn = []
    with torch.inference_mode():
        seen = pictures.tensor_of(over_white(np.stack(framed)), device)
        embeddings = model.image_encoder(pictures.clip_input(seen, model.image_size))
        conditions = novel_view.condition_latents(model.vae, pictures.vae_input(seen))
        for first in range(0, len(asked), BATCH):
            part = asked[first:first + BATCH]
            rows = [k for k, _, _ in part]
            moves = torch.tensor([[shown[k][1], e, a, 0] for k, a, e in part], dtype=torch.float64)
            cameras = model.cameras(*moves.T).to(device, torch.float32)
            tokens, own = novel_view.context(model.cc_projection, embeddings[rows], cameras), conditions[rows]

            def predict(latents: torch.Tensor, t: torch.Tensor, conditional: torch.Tensor,
                        tokens: torch.Tensor = tokens, own: torch.Tensor = own) -> torch.Tensor:
                times = len(latents) // len(tokens)
                context, beside = novel_view.drop_conditions(tokens.repeat(times, 1, 1), own.repeat(times, 1, 1, 1),
                                                             ~conditional)
                return model.unet(novel_view.unet_input(latents, beside), t, encoder_hidden_states=context).sample

            def watch(step: int, guess: torch.Tensor) -> None:
                nonlocal done
                done += 1
                show = step % 5 == 0 and step < steps
                job.progress(0.9 * (span[0] + (span[1] - span[0]) * done / total),
                             pictures.images_of(pictures.decode(model.vae, guess[-1:]))[0] if show else None)

            noise = sampling.initial_noise([job.generator(first_seed + first + i) for i in range(len(part))],
                                           tuple(conditions.shape[1:]), device)  # type: ignore[arg-type]
            latents = sampling.sample(model.scheduler, sampling.guided(predict, guidance), noise, steps,
                                      p.sampler, watch)
            drawn.append(pictures.images_of(pictures.decode(model.vae, latents)))
    return np.concatenate(drawn)


def _solid(view: np.ndarray) -> bool:
    """Whether anything of a cut-out view is there."""
    return bool((view[..., 3] >= framing.SOLID).any())


def _cut(image: np.ndarray, matte: str, job: Job, ground: np.ndarray = WHITE) -> np.ndarray:
    """One made view over a plain ground -> straight RGBA; empty where nothing else was drawn."""
    if matte == "model":
        return mattes.freed_colour(image, mattes.model_alpha(job.model("matting"), image, job.device))
    cut = mattes.mean_edge if matte == "mean" else mattes.soft_edge
    return cut(image, mattes.plain_mask(image, ground), ground)


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two alphas, each cut at one half."""
    x, y = a >= framing.SOLID, b >= framing.SOLID
    return float((x & y).sum() / max((x | y).sum(), 1))
