"""``python -m benchmarks.ten_prompts``: ten prompts, first try, as one contact sheet for the eye.

One row a prompt: the picture that was drawn, then the mesh from five sides. Nothing is picked by hand: the seed is 0
and the best candidate is the one that the pipeline itself chose.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PROMPTS = ("a red mug", "a red mushroom with white dots", "a green bottle", "a brown wooden barrel", "a purple chest",
           "a pink duck", "a yellow lamp", "a green tree", "a green cactus", "a blue umbrella")
AZIMUTHS = (0, 60, 130, 200, 290)


def sheet(prompts: tuple[str, ...], quality: str, store: str | None, size: int = 160) -> Image.Image:
    """Make every asset and draw the rows, two prompts beside each other."""
    import engine
    from engine.artifacts import over_white
    from engine.meshes.render import render, set_stage, turntable_cameras
    columns, label = len(AZIMUTHS) + 1, 22
    rows = -(-len(prompts) // 2)
    page = Image.new("RGB", (columns * size * 2 + 20, rows * (size + label)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for i, prompt in enumerate(prompts):
        asset = engine.make(prompt, quality=quality, store=store)
        x0, y0 = (i % 2) * (columns * size + 20), (i // 2) * (size + label)
        draw.text((x0 + 4, y0 + 3), prompt, fill="black", font=font)
        picture = over_white(asset.artifact("choose_candidate").image)
        stage = set_stage(asset.mesh)
        cameras = turntable_cameras(stage, np.array(AZIMUTHS, float), 20.0, size)
        turned = [render(stage, cameras[k]) for k in range(len(AZIMUTHS))]
        tiles = [np.round(picture * 255).astype(np.uint8), *turned]
        for k, tile in enumerate(tiles):
            small = Image.fromarray(tile).resize((size, size), Image.Resampling.LANCZOS)
            page.paste(small, (x0 + k * size, y0 + label))
        print(prompt, flush=True)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/assets/ten_prompts.png"))
    parser.add_argument("--quality", default="standard")
    parser.add_argument("--store")
    parser.add_argument("prompts", nargs="*", default=PROMPTS)
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(tuple(options.prompts), options.quality, options.store).quantize(200, dither=Image.Dither.NONE).save(
        options.out, optimize=True)
    print(options.out)


if __name__ == "__main__":
    main()
