"""How every Warp kernel of the house is launched: split over the cores on the CPU, on torch's stream on CUDA.

A Warp launch on the CPU runs on the calling thread and releases the GIL, so a small Python thread pool gives the
speed of OpenMP. Every kernel that goes through :func:`launch` takes ``first: int`` as its first argument and works
on item ``first + wp.tid()``, so a chunk of the items is an ordinary launch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import warp as wp


@contextmanager
def _no_driver_warning() -> Iterator[None]:
    """Warp's C++ part prints a line to stderr where there is no CUDA driver; on such a machine that is no news."""
    if torch.cuda.is_available():
        yield
        return
    sys.stderr.flush()
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)


wp.config.log_level = max(wp.config.log_level, 30)  # warnings and errors, as logging numbers them
with _no_driver_warning():
    wp.init()

MINIMUM_CHUNK = 256
"""Fewer items than this are not worth a hand-over to another thread (about 30 microseconds)."""

_loaded: set[tuple[int, str]] = set()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="kernels")


def in_parallel(tasks: Iterable[Callable[[], None]]) -> None:
    """Run the tasks on torch's number of threads, the caller's thread among them; the first error is raised."""
    todo = list(tasks)
    threads = min(torch.get_num_threads(), len(todo))
    if threads <= 1:
        for task in todo:
            task()
        return
    queue = iter(todo)  # next() on a list iterator is atomic under the GIL

    def work() -> None:
        for task in queue:
            task()

    futures = [_pool(torch.get_num_threads()).submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        for future in futures:
            future.result()


def array(tensor: torch.Tensor, dtype: Any = None) -> wp.array:
    """The same memory as a Warp array; ``tensor`` is contiguous. No copy, on the CPU and on CUDA."""
    return wp.from_torch(tensor.detach(), dtype=dtype)


def load(kernel: wp.Kernel, device: str) -> None:
    """Compile or load the kernel's module once, before several threads ask for it."""
    key = (id(kernel.module), device)
    if key not in _loaded:
        wp.load_module(kernel.module, device, block_dim=1 if device == "cpu" else 256)
        _loaded.add(key)


def launch(kernel: wp.Kernel, items: int, inputs: list[Any], device: torch.device | str,
           chunk: int | None = None) -> None:
    """Run ``kernel(first, *inputs)`` for items 0 <= i < ``items``.

    chunk : items a task on the CPU; default: two tasks a thread. Chunks may run at the same time, so a kernel that
        adds into shared memory must be given the whole of it at once (``chunk=items``): Warp's atomics are plain
        additions on the CPU.
    """
    if items == 0:
        return
    name = str(torch.device(device))
    load(kernel, name)
    if name != "cpu":
        stream = wp.stream_from_torch(torch.cuda.current_stream(torch.device(device)))
        wp.launch(kernel, dim=items, inputs=[0, *inputs], device=name, stream=stream)
        return
    if chunk is None:
        chunk = max(MINIMUM_CHUNK, -(-items // (2 * torch.get_num_threads())))
    if chunk >= items:
        wp.launch(kernel, dim=items, inputs=[0, *inputs], device="cpu")
        return

    def task(first: int) -> Callable[[], None]:
        return lambda: wp.launch(kernel, dim=min(chunk, items - first), inputs=[first, *inputs], device="cpu")

    in_parallel(task(first) for first in range(0, items, chunk))
