"""Memory: what a model takes, what a device has left, and what follows from both.

Where a model does not fit beside its work, its parts take turns on the device, then the large ones are streamed block
by block; fewer samples go through in one call, and the VAE decodes in tiles. What was decided is said in one line, and
nothing but speed depends on it (tiles aside: they blend at their seams).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from engine.errors import RunFailed

MEGABYTE = 1 << 20
SPARE = 256 * MEGABYTE
"""Left free on an accelerator: workspaces of its libraries."""
SHARE = 0.95
"""Of the free memory that is counted on: it breaks into pieces that no tensor fits."""

Mode = Literal["whole", "parts", "blocks"]


# -- what is there -----------------------------------------------------------------------------------------------------

class Probe(Protocol):
    """Who knows a device's memory, bytes. None: it cannot be known, and nothing is limited."""

    def free(self, device: str) -> int | None:
        """What could be taken now."""

    def total(self, device: str) -> int | None:
        """All that the device has."""


class Machine:
    """The machine that this runs on."""

    def free(self, device: str) -> int | None:
        kind = torch.device(device).type
        if kind == "cuda":
            index = torch.device(device)
            held = torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)  # torch gives it out again
            return int(torch.cuda.mem_get_info(index)[0]) + held
        if kind == "mps":
            return int(torch.mps.recommended_max_memory()) - int(torch.mps.driver_allocated_memory())
        return _meminfo("MemAvailable")

    def total(self, device: str) -> int | None:
        kind = torch.device(device).type
        if kind == "cuda":
            return int(torch.cuda.mem_get_info(torch.device(device))[1])
        if kind == "mps":
            return int(torch.mps.recommended_max_memory())
        return _meminfo("MemTotal")


def _meminfo(name: str) -> int | None:
    if sys.platform != "linux":
        return None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


MACHINE: Probe = Machine()


# -- what is needed ----------------------------------------------------------------------------------------------------

def bytes_of(*modules: Any) -> int:
    """Of all parameters and buffers, shared ones once; what is no module (a tokenizer) takes nothing that counts."""
    tensors = {t.data_ptr() or id(t): t for m in modules if isinstance(m, nn.Module)
               for t in [*m.parameters(), *m.buffers()]}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def is_on(module: nn.Module, device: str) -> bool:
    """Whether a module's weights lie on a device ("cuda" is the current one)."""
    wanted, first = torch.device(device), next(module.parameters(), None)
    return first is not None and first.device.type == wanted.type and wanted.index in (None, first.device.index)


def largest_block(module: nn.Module) -> int:
    """Bytes of the largest of the pieces that a module is streamed in: entries of its module lists, and the rest."""
    blocks = {id(b): b for m in module.modules() if isinstance(m, nn.ModuleList) for b in m}
    inner = {id(x) for b in blocks.values() for x in b.modules() if x is not b}
    outermost = [bytes_of(b) for i, b in blocks.items() if i not in inner]
    return max([bytes_of(module) - sum(outermost), *outermost])


def row_bytes(model: Any, height: int, width: int) -> int:
    """About what one sample takes in one call of the network, beside the weights.

    Counted with fused attention: a U-Net holds 26 tensors of its first level's size at its peak (SDXL's 16, SD1.5's
    and 2.1's 26, whatever the picture's size), a transformer 14 of its tokens' size. Half as much again and more is
    left to the workspaces of convolutions.
    """
    config, item = model.unet.config, torch.empty((), dtype=model.dtype).element_size()
    patch = int(getattr(config, "patch_size", None) or 1)
    cells = (height // model.factor // patch) * (width // model.factor // patch)
    levels = getattr(config, "block_out_channels", None)
    if levels:
        return 40 * cells * int(levels[0]) * item
    return 24 * cells * int(config.num_attention_heads) * int(config.attention_head_dim) * item


def decode_bytes(model: Any, height: int, width: int) -> int:
    """About what it takes to decode one picture: twice the 6 tensors of its size, at the VAE's first width, that are
    held at its peak; 0 without a VAE."""
    if model.vae is None:
        return 0
    item = next(model.vae.parameters()).element_size()
    return 12 * height * width * int(model.vae.config.block_out_channels[0]) * item


def needs(model: Any, height: int, width: int) -> tuple[int, int]:
    """(row, decode) of the step of a cascade that takes most; of a model alone, its own."""
    _, h, w = model.shape(height, width)
    h, w, row, decode = h * model.factor, w * model.factor, 0, 0
    for step in (model, *model.upscalers):
        if step is not model:
            h, w = h * step.enlarges, w * step.enlarges
        row, decode = max(row, row_bytes(step, h, w)), max(decode, decode_bytes(step, h, w))
    return row, decode


# -- what follows ------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Arrangement:
    """mode : "whole", all parts stay on the device; "parts", one at a time; "blocks", ``streamed`` ones in pieces

    rows : samples a call of the network at most; None: all. pictures : decoded at a time at most; tiles : in tiles
    said : one line for the user; "" where there is nothing to say
    """

    mode: Mode = "whole"
    streamed: tuple[str, ...] = ()
    rows: int | None = None
    pictures: int | None = None
    tiles: bool = False
    said: str = ""


def arrange(parts: Mapping[str, int], blocks: Mapping[str, int], row: int, decode: int, device: str, *,
            tile: int | None = None, rows: int = 1, pictures: int = 1, probe: Probe | None = None, held: int = 0
            ) -> Arrangement:
    """How a model works in the memory that is free.

    parts : bytes of each part by name; blocks : of the largest block of each
    row, decode, tile : bytes beside the weights: of a sample in a call, of a picture decoded, of a tile of one
    rows, pictures : samples a call and pictures decoded at once that are wanted
    held : bytes of these parts that lie on the device already, and so are not in what is free
    Raises RunFailed where not even a block fits. On the CPU, where nothing can make room, it only limits the work.
    """
    known = (probe or MACHINE).free(device)
    kind = torch.device(device).type
    if known is None:
        return Arrangement()
    free = int(SHARE * (known + held)) - (SPARE if kind == "cuda" else 0)
    whole, largest = sum(parts.values()), max(parts.values(), default=0)
    least = max(row, decode if tile is None else min(decode, tile))
    work = (row, decode, rows, pictures)
    if kind == "cpu" or whole + least <= free:
        return _worked(Arrangement(), max(free - whole, least), *work, "")
    need = f"the model takes {_size(whole)} and {_size(max(free, 0))} of {device} are free"
    if largest + least <= free:
        return _worked(Arrangement("parts"), free - largest, *work,
                       f"{need}: its parts take turns there, which is slower")
    streamed = tuple(name for name, size in parts.items() if size + least > free)
    if all(blocks[name] + least <= free for name in streamed):
        there = [blocks[name] if name in streamed else size for name, size in parts.items()]
        return _worked(Arrangement("blocks", streamed), free - max(there), *work,
                       f"{need}: {' and '.join(streamed)} go through it block by block, which is much slower")
    raise RunFailed(f"{need}; its largest block does not fit beside {_size(least)} of work",
                    "close what else uses the device, give a smaller width and height, or use --device cpu")


def work(model: Any, height: int, width: int, pictures: int, halves: int = 2, probe: Probe | None = None
         ) -> Arrangement:
    """How a loaded model draws so many pictures of this size in what is free now. halves : 2 with guidance, else 1"""
    device = str(model.device)
    known = (probe or MACHINE).free(device)
    if known is None:
        return Arrangement()
    room = known
    if model.home is not None:  # what comes next makes the others go
        sizes = {name: bytes_of(part) for name, part in model.parts.items()}
        room += sum(sizes[name] for name, part in model.parts.items() if is_on(part, device))
        room -= max(sizes.values())
    row, decode = needs(model, height, width)
    return _worked(Arrangement(), int(SHARE * room) - (SPARE if torch.device(device).type == "cuda" else 0),
                   row, decode, pictures * halves, pictures, "")


def _worked(a: Arrangement, room: int, row: int, decode: int, rows: int, pictures: int, said: str) -> Arrangement:
    fitting, seen = max(1, room // max(row, 1)), max(1, room // max(decode, 1))
    also = []
    if fitting < rows:
        also.append(f"{fitting} of {rows} samples go through the network at a time")
    if decode > room:
        also.append("pictures are decoded in tiles")
    if also and not said:
        said = f"{_size(max(room, 0))} are free beside the weights"
    return replace(a, rows=fitting if fitting < rows else None, pictures=seen if seen < pictures else None,
                   tiles=decode > room, said="; ".join([said, *also]) if said else "")


def _size(n: int) -> str:
    return f"{n / (1 << 30):.1f} GB" if n >= 1 << 30 else f"{n / MEGABYTE:.0f} MB"


class Residency:
    """Parts that take turns on a device: ``bring`` one, and the others make room.

    parts : the modules by name; streamed : names of those that go through block by block, from now on for good
    away : where they wait
    """

    def __init__(self, device: str | torch.device, parts: Mapping[str, nn.Module], streamed: Iterable[str] = (),
                 away: str | torch.device = "cpu") -> None:
        self.device, self.away = torch.device(device), torch.device(away)
        self.parts, self._here = dict(parts), ""
        for name in streamed:
            self._stream(self.parts[name])

    def of(self, parts: Mapping[str, nn.Module]) -> Residency:
        """The same for other parts (twins with a LoRA in)."""
        return Residency(self.device, parts, away=self.away)

    def bring(self, part: Any) -> Any:
        """``part`` itself, on the device; a part that is not among these is moved there and stays."""
        name = next((n for n, p in self.parts.items() if p is part), "")
        if name and name == self._here:
            return part
        if name:
            for other, module in self.parts.items():
                if other != name and not streams(module):
                    module.to(self.away)
            self._here = name
        if not streams(part):
            part.to(self.device)
        return part

    def _stream(self, module: nn.Module) -> None:
        from diffusers.hooks import apply_group_offloading
        if not streams(module):
            module.to(self.away)
            apply_group_offloading(module, self.device, self.away, offload_type="block_level", num_blocks_per_group=1,
                                   use_stream=self.device.type == "cuda")
            module._goes_block_by_block = True  # type: ignore[assignment]


def streams(module: Any) -> bool:
    """Whether a part goes through its device block by block, and so must not be moved."""
    return bool(getattr(module, "_goes_block_by_block", False))


@contextmanager
def tiled(vae: Any, tiles: bool) -> Iterator[None]:
    """Within it the VAE works in tiles, where ``tiles`` says so."""
    if tiles:
        vae.enable_tiling()
    try:
        yield
    finally:
        if tiles:
            vae.disable_tiling()


# -- speed -------------------------------------------------------------------------------------------------------------

def precision(device: str, wanted: str = "auto") -> str:
    """What networks of real sizes compute in: "float32", "bfloat16" or "float16".

    auto : bfloat16 on a CUDA device that computes in it, else float16 there; float32 everywhere else
    """
    if wanted != "auto":
        return wanted
    if torch.device(device).type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.get_device_capability(torch.device(device)) >= (8, 0) else "float16"


def compile_blocks(network: Any, backend: str = "inductor") -> Any:
    """Compile what a network repeats (its transformer blocks) once for all of them: minutes less than compiling the
    whole, and nearly as quick. The network itself is returned, as it is where it repeats nothing or was compiled."""
    if getattr(network, "_repeated_blocks", None) and not getattr(network, "_blocks_are_compiled", False):
        network.compile_repeated_blocks(fullgraph=True, backend=backend)
        network._blocks_are_compiled = True
    return network
