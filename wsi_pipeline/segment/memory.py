"""Work that does not fit in memory is done in halves; what fits is remembered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Fitting:
    """How many patch pairs fit in memory at once: None as long as it was never too many."""

    most: int | None = None


_fitting: ContextVar[Fitting] = ContextVar("fitting")


@contextmanager
def fitting(known: Fitting) -> Iterator[None]:
    """Let ``in_halves`` go by what is known, and add to it what it finds out."""
    token = _fitting.set(known)
    try:
        yield
    finally:
        _fitting.reset(token)


def in_halves(work: Callable[[Sequence[T]], list[R]], items: Sequence[T]) -> list[R]:
    """``work(items)``, or of each half of the items, and so on, when it runs out of memory.

    Raises:
        Exception: whatever ``work`` raises, and its error of memory when even one item does not fit.
    """
    known = _fitting.get(None)
    if known is not None and known.most is not None and len(items) > known.most:
        parts = (items[start : start + known.most] for start in range(0, len(items), known.most))
        return list(chain.from_iterable(in_halves(work, part) for part in parts))
    try:
        return work(items)
    except Exception as error:
        if len(items) < 2 or not _out_of_memory(error):
            raise
        logger.warning("out of memory with %d patch pairs at once; going on with half as many", len(items))
    # outside the except clause, where the failed attempt is no longer held by its traceback
    middle = len(items) // 2
    if known is not None:
        known.most = min(middle, known.most or middle)
    return in_halves(work, items[:middle]) + in_halves(work, items[middle:])


def _out_of_memory(error: Exception) -> bool:
    """Whether a host or a device has no memory left; by name, so that no framework is imported for it."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
