"""A picture -> a larger one: by a diffusion model that invents detail, or by Lanczos' filter, which invents none."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator

from engine.artifacts import Picture, over_white
from engine.diffusion import giving, pictures, prompt, upscaling
from engine.diffusion.canvas import resize
from engine.errors import BadInput
from engine.job import Job, Params, stage

LARGEST = 16384


class Upscale(Params):
    """Parameters of ``upscale``."""

    method: Literal["lanczos", "model"] = Field("lanczos", description="lanczos: a classical filter, no detail is "
                                                "invented; model: the set's upscaler (role upscale).")
    factor: int = Field(4, ge=2, le=8, description="How many times larger, 2 to 8; a model has its own.")
    prompt: str = Field("", description="What the picture shows, at most 1,000 characters; helps a model.")
    negative: str = Field("", description="What it should not show, at most 1,000 characters.")
    steps: int | None = Field(None, ge=1, le=250, description="Sampling steps of a model, 1 to 250.")
    guidance: float | None = Field(None, ge=0, le=30, description="How much the words count with a model, 0 to 30.")
    noise_level: int | None = Field(None, ge=0, le=999, description="How much noise a model is shown the picture with, "
                                                                    "0 to 999; more invents more.")

    @field_validator("prompt", "negative")
    @classmethod
    def _words(cls, value: str) -> str:
        return prompt.check(value) if value.strip() else ""

    @model_validator(mode="after")
    def _words_need_a_model(self) -> Upscale:
        if self.method == "lanczos" and (self.prompt or self.negative):
            raise ValueError("words mean nothing to a filter: leave the prompt out, or choose a model set with an "
                             "upscaler")
        return self


def roles(p: Upscale) -> tuple[str, ...]:
    return ("upscale",) if p.method == "model" else ()


@stage(version=1, roles=roles)
def upscale(picture: Picture, p: Upscale, job: Job) -> Picture:
    """Enlarge ``picture`` by a whole factor. Alpha is kept by the filter, and drawn over white by a model.

    Metric ``consistency_db``: PSNR between the picture and the result brought back to its size. Raises BadInput for a
    factor that the model does not have, and for results beyond 16,384 pixels a side.
    """
    rows, columns = picture.image.shape[:2]
    if max(rows, columns) * p.factor > LARGEST:
        raise BadInput(f"{columns} x {rows} pixels times {p.factor} is more than {LARGEST:,} a side",
                       f"give a factor of {max(1, LARGEST // max(rows, columns))} or less, or a smaller picture")
    made = (resize(picture.image, rows * p.factor, columns * p.factor) if p.method == "lanczos"
            else _by_model(over_white(picture.image), p, job))
    made = (np.round(made * 255) / 255).astype(np.float32)
    job.progress(1.0)
    from engine.stages.image_to_image import psnr
    job.metric("consistency_db", psnr(resize(made, rows, columns), picture.image if made.shape[-1] ==
                                      picture.image.shape[-1] else over_white(picture.image)), "dB",
               against="the picture, the result brought back to its size")
    meta = {"method": p.method, "factor": p.factor, **({"seed": job.seed(0)} if p.method == "model" else {})}
    return Picture(made, picture.caption, picture.azimuth_deg, picture.elevation_deg, meta)


def _by_model(image: np.ndarray, p: Upscale, job: Job) -> np.ndarray:
    """(h, w, 3) -> (k h, k w, 3). The borders are carried on to sizes that the network takes, and cut off again."""
    model = job.model("upscale")
    if model.enlarges != p.factor:
        raise BadInput(f"{model.name} enlarges {model.enlarges} times, not {p.factor}",
                       f"give --factor {model.enlarges}, or --set upscale.method=lanczos")
    rows, columns = image.shape[:2]
    step = max(1, model.multiple // model.enlarges)
    padded = np.pad(image, [(0, -rows % step), (0, -columns % step), (0, 0)], mode="edge")
    steps = p.steps or model.defaults.steps

    def watch(done: int, guess: torch.Tensor) -> None:
        job.progress(0.95 * done / steps)

    with torch.inference_mode():
        wanted, unwanted = model.pair(p.prompt, p.negative)
        drawn = upscaling.enlarge(model, pictures.tensor_of(padded[None], model.device), wanted, unwanted,
                                  [job.generator(0)], steps=p.steps, guidance=p.guidance, noise_level=p.noise_level,
                                  watch=watch)
    return giving.image_of(drawn)[:rows * p.factor, :columns * p.factor]
