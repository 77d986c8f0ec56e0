"""Benchmarks of the kernels and of the fit: `python -m benchmarks.bench_fields [--device cuda] [--only NAME]`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from engine.artifacts import Views
from engine.kernels import hash_grid
from engine.kernels.hash_grid import HashGridShape

Row = dict[str, Any]
"""figure, value, unit, first_bar, aim; better is "less" or "more"."""
POINTS, LEVELS = 131_072, 12


def _row(figure: str, value: float | None, unit: str, first_bar: float | None, aim: float | None, better: str,
         note: str = "") -> Row:
    return {"figure": figure, "value": None if value is None else round(float(value), 4), "unit": unit,
            "first_bar": first_bar, "aim": aim, "better": better, "note": note}


def _best_ms(run: Callable[[], None], device: str, repeats: int = 7) -> float:
    """Least wall time of several runs after one for warming up, in milliseconds."""
    def once() -> float:
        start = time.perf_counter()
        run()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - start)

    once()
    return min(once() for _ in range(repeats))


def hash_grid_rows(device: str = "cpu", log2_table: int = 15) -> list[Row]:
    """Forward and backward of 131,072 random points through 12 levels x 2, beside torch.compile of the plain twin."""
    from tests import twins
    shape = HashGridShape(LEVELS, log2_table, 16, 512)
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(POINTS, 3, generator=generator).to(device)
    table = torch.randn(shape.rows, 2, generator=generator).to(device).requires_grad_()

    def run(function: Callable[[], torch.Tensor]) -> Callable[[], None]:
        def both() -> None:
            table.grad = None
            function().sum().backward()
        return both

    name = f"hash grid forward + backward, {POINTS // 1000}k points x {LEVELS} levels, tables of 2^{log2_table}"
    rows = [_row(name, _best_ms(run(lambda: hash_grid.encode(points, table, shape)), device), "ms", 150, 80, "less")]
    eager = _best_ms(run(lambda: twins.encode(points, table, shape)), device, repeats=1)
    try:
        compiled = torch.compile(lambda p, t: twins.encode(p, t, shape))
        value, note = _best_ms(run(lambda: compiled(points, table)), device, repeats=3), f"eager {eager:.0f} ms"
    except Exception as error:  # torch.compile needs a C++ compiler on the CPU; a bare machine has none
        value, note = eager, f"eager: torch.compile is not available here ({type(error).__name__})"
    rows.append(_row("the same by torch.compile of the plain twin", value, "ms", None, None, "less", note))
    return rows


class BenchJob:
    """The least that a stage needs, without a store."""

    label = "fit_field"

    def __init__(self, device: str = "cpu") -> None:
        self.device, self.metrics = device, {}  # type: ignore[var-annotated]

    def seed(self, candidate: int = 0) -> int:
        return candidate

    def generator(self, candidate: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(candidate)

    def model(self, role: str) -> Any:
        raise LookupError(role)

    def progress(self, fraction: float, preview: np.ndarray | None = None) -> None: ...

    def checkpoint(self, state: Callable[[], dict[str, Any]]) -> None: ...

    def resume(self) -> None: ...

    def warn(self, text: str) -> None: ...

    def metric(self, name: str, value: float, unit: str = "", against: str = "") -> None:
        self.metrics[name] = value


def toybox_views(kind: str = "mug", color: str = "red", pattern: str = "stripes") -> Views:
    """24 views of a toybox prop at 128 px, elevations of -10 to 60 degrees, and 6 held-out ones between them."""
    from engine.space import Cameras
    from engine.toybox.generate import build
    from engine.toybox.scene import Spec
    from engine.toybox.truth import true_views

    def ring(n: int, phase: float) -> tuple[np.ndarray, np.ndarray]:
        k = np.arange(n)
        return (k + phase) * 360 * 0.381966, -10 + 70 * ((k + 0.5) / n)  # the golden angle spreads them evenly

    (a, e), (b, f) = ring(24, 0.0), ring(6, 0.37)
    cameras = Cameras.orbit(np.r_[a, b], np.r_[e, f], 1.7 * 1.5, 49.1, 128)
    return true_views(build(Spec(kind=kind, color=color, pattern=pattern)), cameras, 128, held_out=6)


def fit_rows(views: Views | None = None, device: str = "cpu", name: str = "mug") -> list[Row]:
    """Fit 24 true views with the standard settings; the time is the fit's, from pictures to field, kernels warm."""
    from engine.fields.fit import fit
    from engine.stages.fit_field import FitField, score
    views = toybox_views(name) if views is None else views
    fit(views, FitField(steps=2), BenchJob(device))  # loads the kernels
    start = time.perf_counter()
    fitted = fit(views, FitField(), BenchJob(device))
    seconds = time.perf_counter() - start
    psnr, iou = score(fitted, views, np.flatnonzero(views.held_out))
    return [_row(f"fit of 24 true views of a {name}, 128 px", seconds, "s", 30, 10, "less"),
            _row(f"held-out views of that {name}: PSNR over white", psnr, "dB", 30, 35, "more"),
            _row(f"held-out views of that {name}: IoU of masks", iou, "", None, None, "more")]


def rows(device: str = "cpu") -> list[Row]:
    """All figures of this file."""
    result = [*hash_grid_rows(device), *hash_grid_rows(device, 19)[:1]]
    for name in ("mug", "chair", "bottle"):
        result += fit_rows(device=device, name=name)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=("hash", "fit"))
    given = parser.parse_args()
    chosen = {"hash": hash_grid_rows, "fit": lambda device: fit_rows(device=device), None: rows}[given.only]
    for row in chosen(given.device):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
