"""The built-in controls and the image prompt on what they never saw: ``python -m benchmarks controls``.

Objects are ``sample_spec("held_out", FIRST + i)`` and figures ``sample_character("held_out", FIRST + i)``, seen about
from the front, with their captions; maps are exact. Every figure stands beside that of the same prompts drawn without
the control, and, where there is one, beside the most that the VAE lets through.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.bench_models import BenchJob, Row, row

FIRST = 6000
PICTURES = 100
SIZE = 128
STEPS, GUIDANCE, BATCH = 20, 3.0, 16
PROBE_PICTURES, PROBE_STEPS = 480, 350
"""The depth probe: training pictures and steps."""


@dataclass
class Held:
    """rgba : (n, h, w, 4) uint8; captions and specs of n; maps : kind -> (n, h, w, 3); parts : (n, h, w) uint8, 255
    none; joints : (n, 18, 3) column, row, visible"""

    rgba: np.ndarray
    captions: list[str]
    specs: list[dict[str, Any]]
    maps: dict[str, np.ndarray]
    parts: np.ndarray
    joints: np.ndarray

    @property
    def true(self) -> np.ndarray:
        from engine.training.data import over
        return over(self.rgba)

    @property
    def mask(self) -> np.ndarray:
        return np.asarray(self.rgba[..., 3] > 127)


def held(split: str, count: int, first: int = FIRST) -> Held:
    """Objects or figures rendered now, from the first camera of the training's own kind."""
    from engine.toybox.characters import CharacterScene
    from engine.toybox.generate import scene_of, views_of
    from engine.toybox.render import render
    from engine.training import control_data
    from engine.training.clip import caption_of
    rgba, captions, specs, parts, joints = [], [], [], [], []
    maps: dict[str, list[np.ndarray]] = {"edges": [], "depth": [], "parts": [], "pose": []}
    for i in range(first, first + count):
        scene = scene_of(split, i)
        cameras, table = views_of(scene, split, i, SIZE)
        drawn = np.round(255 * render([scene], [cameras[0]], SIZE).rgba[0]).astype(np.uint8)
        names: list[str] = []
        stored = control_data.true_maps(scene, cameras[0], SIZE, names)
        maps["edges"].append(control_data.as_picture(control_data.edge_maps(drawn[None])[0], "edges"))
        for kind in ("depth", "parts"):
            maps[kind].append(control_data.as_picture(stored[kind][0], kind, names))
        if isinstance(scene, CharacterScene):
            pose, where = control_data.pose_maps(scene, cameras[0], SIZE)
            maps["pose"].append(control_data.as_picture(pose[0], "pose"))
            joints.append(where[0])
        rgba.append(drawn)
        parts.append(stored["parts"][0])
        specs.append(scene.spec.to_json())
        captions.append(caption_of(specs[-1], table[0], random.Random(i), True))
    return Held(np.stack(rgba), captions, specs, {k: np.stack(v) for k, v in maps.items() if v}, np.stack(parts),
                np.stack(joints) if joints else np.zeros((0, 18, 3)))


class Painter:
    """The built-in text to image, with a control or an image prompt or neither."""

    def __init__(self) -> None:
        self.model = BenchJob("controls").model("text_to_image")

    def context(self, texts: list[str]) -> torch.Tensor:
        from engine.diffusion.prompt import encode
        return encode(self.model.text_encoder, self.model.tokenizer, texts)

    @torch.no_grad()
    def draw(self, prompts: list[str], control: str = "", maps: np.ndarray | None = None,
             embeds: torch.Tensor | None = None) -> np.ndarray:
        """-> (n, h, w, 3) in [0, 1]; the same noise for the same number, whatever steers."""
        from engine.diffusion import control_lora, ip_adapter
        from engine.models.sets import BUILTIN_FOLDER
        from engine.training import denoise
        from engine.training.data import to_tensor
        from engine.training.image_prompt import _Tokens
        base, out = self.model.unet, []
        net = control_lora.load_control(BUILTIN_FOLDER / f"control_{control}", base) if control else None
        adapter = ip_adapter.read(BUILTIN_FOLDER / "image_prompt").adapter.float() if embeds is not None else None
        for i in range(0, len(prompts), BATCH):
            part = slice(i, i + BATCH)
            text, none = self.context(prompts[part]), self.context([""] * len(prompts[part]))
            unet: Any = base
            if net is not None and maps is not None:
                unet = control_lora.Controlled(base, [net], [to_tensor(maps[part], low=0.0)])
            if adapter is not None and embeds is not None:
                unet = _Tokens(ip_adapter.install(base, adapter), text.shape[1])
                text = torch.cat([text, adapter.tokens(embeds[part])], 1)
                none = torch.cat([none, adapter.tokens(torch.zeros_like(embeds[part]))], 1)
            out.append(denoise.sample(unet, text, none, FIRST + i, STEPS, GUIDANCE))
        return denoise.decode(self.model.vae, torch.cat(out))

    @torch.no_grad()
    def through_vae(self, pictures: np.ndarray) -> np.ndarray:
        """What is left of pictures (n, h, w, 3) after the VAE: no sampler can be nearer to its maps."""
        from engine.training import denoise
        from engine.training.data import to_tensor
        latents = [self.model.vae.encode(x).latent_dist.mean for x in to_tensor(pictures).split(BATCH)]
        return denoise.decode(self.model.vae, torch.cat(latents) * self.model.vae.config.scaling_factor)


class DepthProbe:
    """A small network that guesses a picture's depth map: trained here, on true renders of the training split, apart
    from everything that it judges. Its own error on held-out renders is stated beside what it says."""

    def __init__(self, pictures: int = PROBE_PICTURES, steps: int = PROBE_STEPS) -> None:
        from engine.training import matting
        from engine.training.data import to_tensor
        torch.manual_seed(0)
        data = held("train", pictures, 0)
        x, y = to_tensor(data.true), to_tensor(data.maps["depth"], low=0.0)[:, :1]
        self.net = matting.build()
        optimiser = torch.optim.AdamW(self.net.parameters(), lr=3e-3)
        generator = torch.Generator().manual_seed(1)
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = 3e-3 * (1 - step / steps)
            rows = torch.randint(len(x), (24,), generator=generator)
            # softened as sampled pictures are
            seen = torch.nn.functional.avg_pool2d(x[rows], 3, 1, 1) if step % 2 else x[rows]
            loss = (matting.logits(self.net, seen).sigmoid() - y[rows]).abs().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        self.net.eval()

    @torch.no_grad()
    def error(self, pictures: np.ndarray, maps: np.ndarray, mask: np.ndarray) -> float:
        """Mean difference from depth maps (n, h, w, 3) inside the masks, of the map's range of 0 to 1."""
        from engine.training import matting
        from engine.training.data import to_tensor
        guess = np.concatenate([matting.logits(self.net, x).sigmoid()[:, 0].numpy()
                                for x in to_tensor(pictures).split(32)])
        return float(np.mean([np.abs(g - m[..., 0])[k].mean() for g, m, k in zip(guess, maps, mask, strict=True)]))


def rows(pictures: int = PICTURES) -> list[Row]:
    """All rows of the group."""
    painter, props = Painter(), held("held_out", pictures)
    plain = painter.draw(props.captions)
    return [*weight_rows(), *edge_rows(painter, props, plain), *depth_rows(painter, props, plain),
            *part_rows(painter, props, plain), *pose_rows(painter, pictures), *prompt_rows(painter, props),
            *cost_rows(painter)]


def weight_rows() -> list[Row]:
    from engine.models.sets import BUILTIN_FOLDER
    files = [*BUILTIN_FOLDER.glob("control_*/*.safetensors"), *BUILTIN_FOLDER.glob("image_prompt/*.safetensors")]
    return [row("four controls and the image prompt", sum(f.stat().st_size for f in files) / 1e6, "MB", 5.0, 4.9,
                f"{len(files)} files of differences, a byte a number")]


def edge_rows(painter: Painter, props: Held, plain: np.ndarray) -> list[Row]:
    from engine.training.control_figures import edge_figures
    maps, n = props.maps["edges"], len(props.captions)
    made = edge_figures(painter.draw(props.captions, "edges", maps), maps)
    silent = edge_figures(painter.draw([""] * n, "edges", maps), maps)
    most, without = edge_figures(painter.through_vae(props.true), maps), edge_figures(plain, maps)
    return [row("edge control: F1 within 2 px", made["edge_f1_2px"], "", 0.7, 0.8,
                f"{n} held-out; {without['edge_f1_2px']:.2f} without the control, {most['edge_f1_2px']:.2f} of the "
                f"truth through the VAE; precision {made['precision_2px']:.2f}, recall {made['recall_2px']:.2f}"),
            row("edge control: F1 within 1 px", made["edge_f1_1px"], "", None, None,
                f"{without['edge_f1_1px']:.2f} without, {most['edge_f1_1px']:.2f} of the truth through the VAE"),
            row("edge control without words: F1 within 2 px", silent["edge_f1_2px"], "", None, None, "empty prompts")]


def depth_rows(painter: Painter, props: Held, plain: np.ndarray) -> list[Row]:
    from engine.training.control_figures import map_edges_found, mask_iou
    maps = props.maps["depth"]
    made, probe = painter.draw(props.captions, "depth", maps), DepthProbe()
    said = {name: probe.error(p, maps, props.mask) for name, p in (("made", made), ("true", props.true),
                                                                   ("plain", plain))}
    return [row("depth control: error", said["made"], "of the range", None, None,
                f"by a probe that errs by {said['true']:.3f} on true renders; {said['plain']:.3f} without the control"),
            row("depth control: silhouette", mask_iou(made, props.mask), "IoU", None, None,
                f"{mask_iou(plain, props.mask):.2f} without the control"),
            row("depth control: steps in depth found", map_edges_found(made, maps), "within 2 px", None, None,
                f"{map_edges_found(plain, maps):.2f} without, {map_edges_found(props.true, maps):.2f} in true renders")]


def part_rows(painter: Painter, props: Held, plain: np.ndarray) -> list[Row]:
    from engine.training.control_figures import map_edges_found, mask_iou, part_color_error
    maps = props.maps["parts"]
    made = painter.draw(props.captions, "parts", maps)
    return [row("parts control: silhouette", mask_iou(made, props.mask), "IoU", None, None,
                f"{mask_iou(plain, props.mask):.2f} without the control"),
            row("parts control: seams found", map_edges_found(made, maps), "within 2 px", None, None,
                f"{map_edges_found(plain, maps):.2f} without, {map_edges_found(props.true, maps):.2f} in true renders"),
            row("parts control: colour of the parts", part_color_error(made, props.true, props.parts), "of 0 to 1",
                None, None, f"mean error against the truth; {part_color_error(plain, props.true, props.parts):.3f} "
                "without the control")]


def pose_rows(painter: Painter, pictures: int) -> list[Row]:
    from engine.training.control_figures import ENDS, joints_clear, joints_shown, mask_iou
    figures = held("characters_held_out", pictures)
    maps = figures.maps["pose"]
    made, plain = painter.draw(figures.captions, "pose", maps), painter.draw(figures.captions)
    shown = [joints_shown(p, figures.joints, 1, ENDS) for p in (made, plain, figures.true)]
    others = joints_shown(made, np.roll(figures.joints, 5, 0), 1, ENDS)
    near = [joints_clear(p, figures.joints) for p in (made, plain, figures.true)]
    return [row("pose control: wrists and ankles shown", shown[0], "within 1 px", None, None,
                f"{pictures} held-out figures; {shown[1]:.2f} without the control, {shown[2]:.2f} in true renders, "
                f"{others:.2f} of another figure's"),
            row("pose control: drawn near the skeleton", near[0], "of pixels", None, None,
                f"within 12 px of a joint; {near[1]:.2f} without, {near[2]:.2f} in true renders"),
            row("pose control: silhouette", mask_iou(made, figures.mask), "IoU", None, None,
                f"{mask_iou(plain, figures.mask):.2f} without; the text to image never saw figures")]


def prompt_rows(painter: Painter, props: Held) -> list[Row]:
    from engine.training.clip import encode_pictures
    from engine.training.data import to_tensor
    from engine.training.image_prompt import colourless
    from engine.training.judge import load_judge, right, verdicts
    clip, judge, n = BenchJob("controls").model("image_text").clip, load_judge(), len(props.specs)
    with torch.no_grad():
        embeds = torch.cat([encode_pictures(clip, x) for x in to_tensor(props.true, low=0.0).split(BATCH)])
    front = np.array([0.0, 20.0, 1.9, 40.0])
    kinds = [str(s["kind"]) for s in props.specs]
    own = [colourless(k, front) for k in kinds]
    other = [colourless(k, front) for k in kinds[1:] + kinds[:1]]

    def kept(pictures: np.ndarray, head: str) -> float:
        return float(np.mean([right(head, a, s)
                              for a, s in zip(verdicts(judge, pictures)[head], props.specs, strict=True)]))

    made = painter.draw(own, embeds=embeds)
    crossed = painter.draw(other, embeds=embeds)
    of_other = [{"kind": k} for k in kinds[1:] + kinds[:1]]
    named = float(np.mean([right("kind", a, s) for a, s in zip(verdicts(judge, crossed)["kind"], of_other,
                                                              strict=True)]))
    return [row("image prompt: colour kept", kept(made, "color"), "of pictures", 0.8, 0.9,
                f"{n} held-out, prompts that name the kind alone; {kept(painter.draw(own), 'color'):.2f} without the "
                f"picture, {kept(props.true, 'color'):.2f} of true renders, by the judge"),
            row("image prompt: colour kept on another kind", kept(crossed, "color"), "of pictures", None, None,
                f"the words name another kind; it is drawn in {named:.2f} of them")]


def cost_rows(painter: Painter, repeats: int = 10) -> list[Row]:
    """What a control costs, per call of the network on 8 latents."""
    from engine.diffusion import control_lora
    from engine.models.sets import BUILTIN_FOLDER
    base = painter.model.unet
    net = control_lora.load_control(BUILTIN_FOLDER / "control_edges", base)
    x, t, c = torch.randn(8, 4, 16, 16), torch.tensor(500), painter.context(["a red mug"] * 8)
    under = control_lora.Controlled(base, [net], [torch.rand(8, 3, SIZE, SIZE)])
    seconds = []
    for unet in (base, under):
        with torch.no_grad():
            unet(x, t, c)
            began = time.perf_counter()
            for _ in range(repeats):
                unet(x, t, c)
        seconds.append((time.perf_counter() - began) / repeats)
    return [row("edge control: cost of a step", seconds[1] / seconds[0], "x the bare step", None, None,
                "batch of 8, 128 px")]
