"""Some of many things, at equal distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def spread(items: Sequence[Item], most: int | None) -> list[Item]:
    """At most so many of the items, evenly spread over them from end to end; None for all."""
    if most is None or len(items) <= most:
        return list(items)
    return [items[number] for number in np.linspace(0, len(items) - 1, most).round().astype(int)]
