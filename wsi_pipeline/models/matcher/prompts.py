"""From matched patches to prompts: subsets of points, or boxes around what is similar (Matcher §3.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from scipy import ndimage

FEW = 8
"""Of so many points every subset is taken, of more some at random."""


def cluster(points: np.ndarray, clusters: int, random: np.random.Generator) -> np.ndarray:
    """(K, 2) float32 k-means centres of points (P, 2); the points themselves where they are no more."""
    if len(points) <= clusters:
        return points
    from sklearn.cluster import KMeans

    seed = int(random.integers(2**31))
    found = KMeans(clusters, n_init=1, random_state=seed).fit(np.asarray(points, np.float64))
    return np.asarray(found.cluster_centers_, np.float32)


def subsets(
    points: np.ndarray, sizes: tuple[int, int], draws: int, random: np.random.Generator
) -> Iterator[np.ndarray]:
    """(n, k, 2) subsets of k points for every size k, all of them or ``draws`` random ones.

    Args:
        points: (P, 2).
        sizes: the smallest and the largest k; no subset holds more points than there are.
        draws: subsets of each size where there are more than ``FEW`` points.
        random: what is drawn with.
    """
    count = len(points)
    smallest, largest = (min(size, count) for size in sizes)
    for size in range(max(smallest, 1), largest + 1):
        if count > FEW:
            chosen = np.stack([random.choice(count, size, replace=False) for _ in range(draws)])
        else:
            chosen = np.array(sorted(combinations(range(count), size), key=lambda numbers: numbers[::-1]))
        yield points[chosen]


def box_around(points: np.ndarray) -> np.ndarray:
    """(4,) box of points (P, 2)."""
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def boxes_from_components(similarity: np.ndarray, matched: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """(N, 4) int64 ``x0, y0, x1, y1`` (exclusive), cells: what is similar, at several levels, each box once.

    Args:
        similarity: (g, g) to the examples.
        matched: (g, g) bool, patches that match them; components without any are left out.
        levels: least similarity of a component's patches.
    """
    found: dict[tuple[int, int, int, int], None] = {}
    for level in levels:
        labels, _ = ndimage.label(similarity >= level)
        wanted = set(np.unique(labels[matched & (labels > 0)]).tolist())
        for number, place in enumerate(ndimage.find_objects(labels), start=1):
            if number in wanted:
                rows, columns = place
                found[columns.start, rows.start, columns.stop, rows.stop] = None
    return np.array(list(found), np.int64).reshape(-1, 4)
