"""How many things are computed at once where the number is only a matter of memory.

Such numbers are in no key. After a run out of memory an asset is made again with halved ones (``engine.runs.batch``);
what comes out agrees within the tolerance that holds between batch sizes.
"""

from __future__ import annotations

_halvings = 0
LEAST = 1024
"""Below this, chunks cost more time than they save memory."""


def at_once(usual: int) -> int:
    """``usual``, halved as often as :func:`halve` was told, but not below ``LEAST`` or a smaller ``usual``."""
    return max(usual >> _halvings, min(usual, LEAST))


def halve(times: int) -> None:
    """Set how often chunks are halved in this process, 0 or more."""
    global _halvings
    _halvings = max(0, times)
