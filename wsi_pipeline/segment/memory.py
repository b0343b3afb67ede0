"""Work that does not fit in memory is done in halves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


def in_halves(work: Callable[[Sequence[T]], list[R]], items: Sequence[T]) -> list[R]:
    """``work(items)``, or of each half of the items, and so on, when it runs out of memory.

    Raises:
        Exception: whatever ``work`` raises, and its error of memory when even one item does not fit.
    """
    try:
        return work(items)
    except Exception as error:
        if len(items) < 2 or not _out_of_memory(error):
            raise
        logger.warning("out of memory with %d patch pairs at once; going on with half as many", len(items))
    # outside the except clause, where the failed attempt is no longer held by its traceback
    middle = len(items) // 2
    return in_halves(work, items[:middle]) + in_halves(work, items[middle:])


def _out_of_memory(error: Exception) -> bool:
    """Whether a host or a device has no memory left; by name, so that no framework is imported for it."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
