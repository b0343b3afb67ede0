"""Many short sequences kept in one long array: sequence k is ``values[offset[k]:offset[k + 1]]``."""

from __future__ import annotations

import numpy as np


def offsets(counts: np.ndarray) -> np.ndarray:
    """(K,) lengths → (K + 1,) int64 offsets."""
    result = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=result[1:])
    return result


def spans(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The indices ``starts[k], starts[k] + 1, ...`` (``counts[k]`` of them) of every k, one after the other."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - counts), counts) + np.arange(total)


def owners(counts: np.ndarray) -> np.ndarray:
    """The number of the sequence each element belongs to."""
    return np.repeat(np.arange(len(counts)), counts)
