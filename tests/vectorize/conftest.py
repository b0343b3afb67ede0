"""Random label images, and the three steps of vectorizing run chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.rasterise import rasterise
from wsi_pipeline.vectorize.assemble import assemble_chunk
from wsi_pipeline.vectorize.chunks import ChunkGrid, ChunkOutlines, trace_chunk
from wsi_pipeline.vectorize.plan import Objects, plan_assembly
from wsi_pipeline.vectorize.polygons import VectorObjects


def _random_labels(height: int, width: int, count: int, smooth: float, seed: int) -> np.ndarray:
    """(height, width) uint32 with labels up to ``count``: noise, or blobs of about ``smooth`` px."""
    rng = np.random.default_rng(seed)
    if smooth == 0:
        return rng.integers(0, count + 1, (height, width)).astype(np.uint32)
    fields = [ndimage.gaussian_filter(rng.random((height, width)), smooth) for _ in range(count + 1)]
    return np.argmax(fields, axis=0).astype(np.uint32)


def _in_chunks(
    labels: np.ndarray, size: int, objects: Objects = "label", tolerance: float = 0.0, **areas: float
) -> list[VectorObjects]:
    grid = ChunkGrid(labels.shape[1], labels.shape[0], size)
    outlines: list[ChunkOutlines] = []
    for index in range(len(grid)):
        x0, y0, x1, y1 = grid.read_bounds(index, tolerance)
        outlines.append(trace_chunk(labels[y0:y1, x0:x1], grid, index, tolerance))
    plan = plan_assembly((o.facts for o in outlines), objects)
    return [assemble_chunk(plan.task(i), outlines.__getitem__, **areas) for i in range(len(grid))]


@pytest.fixture(scope="session")
def random_labels() -> Callable[..., np.ndarray]:
    return _random_labels


@pytest.fixture(scope="session")
def in_chunks() -> Callable[..., list[VectorObjects]]:
    """``in_chunks(labels, size, objects, tolerance, min_area=, fill_holes=)`` → the objects of every chunk."""
    return _in_chunks


def _rasterised(polygons: np.ndarray, ids: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) uint32 image of polygons in its px, each painted with its id."""
    image = np.zeros(shape, np.uint32)
    for polygon, label in zip(polygons, ids, strict=True):
        image[rasterise(polygon, Affine2D(), shape[1], shape[0])] = label
    return image


@pytest.fixture(scope="session")
def rasterised() -> Callable[..., np.ndarray]:
    return _rasterised
