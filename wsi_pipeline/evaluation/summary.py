"""All numbers of a comparison as plain data, for JSON and for the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wsi_pipeline.evaluation import aggregate
from wsi_pipeline.evaluation.aggregate import Estimate, Statistics
from wsi_pipeline.evaluation.study import ImageResult, Options

Results = Mapping[str, Sequence[ImageResult]]


def summarise(results: Results, options: Options) -> dict[str, Any]:
    """The content of ``evaluation.json``.

    Every estimate is ``[value, low, high]`` with a 95 % interval; None stands for what cannot be computed: a mean in µm
    without mpp, the interval of a single group.

    Returns:
        ``runs`` → name → ``pooled``, ``mean`` (estimates by metric), ``classes`` (the same by class), ``sizes``; and
        ``differences`` → ``B - A`` for every run B after the first, A.
    """
    first = next(iter(results.values()))
    groups = [image.truth.group for image in first]
    weights = aggregate.bootstrap_weights(groups, options.replicates, options.seed)
    n_groups = len(set(groups))
    unit, areas = _unit(first)
    edges: Sequence[float] | None = options.size_edges
    if edges is None:
        edges = aggregate.size_terciles([image.whole for image in first], areas)
    statistics = {name: _statistics(images, weights) for name, images in results.items()}
    base, *others = statistics
    return {
        "format": 1,
        "images": len(first),
        "groups": n_groups,
        "class": options.class_name,
        "level": options.level,
        "boundary_width": options.boundary_width,
        "bootstrap": {"replicates": options.replicates, "seed": options.seed, "confidence": aggregate.CONFIDENCE},
        "size_unit": unit,
        "runs": {
            name: _plain(statistics[name], n_groups)
            | {
                "objects": _objects(images),
                "classes": _by_class(images, weights),
                "sizes": _by_size(images, areas, edges, weights, n_groups),
            }
            for name, images in results.items()
        },
        "differences": {
            f"{name} - {base}": {
                way: _rounded(aggregate.differences(statistics[base][way], statistics[name][way], n_groups))
                for way in statistics[name]
            }
            for name in others
        },
    }


def _statistics(images: Sequence[ImageResult], weights: np.ndarray, name: str | None = None) -> dict[str, Statistics]:
    scores = [image.whole if name is None else image.classes[name] for image in images]
    return {
        "pooled": aggregate.pooled(scores, weights),
        "mean": aggregate.mean_over_images([image.values(name) for image in images], weights),
    }


def _plain(statistics: Mapping[str, Statistics], n_groups: int) -> dict[str, Any]:
    return {way: _rounded(aggregate.estimates(values, n_groups)) for way, values in statistics.items()}


def _by_class(images: Sequence[ImageResult], weights: np.ndarray) -> dict[str, Any]:
    """Over the images that have the class in truth or prediction."""
    found = {}
    for name in sorted({name for image in images for name in image.classes}):
        chosen = [index for index, image in enumerate(images) if name in image.classes]
        having = [images[index] for index in chosen]
        n_groups = len({image.truth.group for image in having})
        found[name] = {"images": len(having)} | _plain(_statistics(having, weights[:, chosen], name), n_groups)
    return found


def _by_size(
    images: Sequence[ImageResult], areas: np.ndarray, edges: Sequence[float], weights: np.ndarray, n_groups: int
) -> list[dict[str, Any]]:
    bins = aggregate.per_size([image.whole for image in images], areas, edges, weights)
    bounds = [0.0, *edges, None]
    return [
        {"from": low, "to": high, "pooled": _rounded(aggregate.estimates(values, n_groups))}
        for low, high, values in zip(bounds, bounds[1:], bins, strict=False)
    ]


def _unit(images: Sequence[ImageResult]) -> tuple[str, np.ndarray]:
    """The unit of areas, and (N,) the area of a px of each image in it."""
    known = [image.mpp for image in images if image.mpp]
    if len(known) < len(images):
        return "px", np.ones(len(images))
    return "µm²", np.square(known)


def _objects(images: Sequence[ImageResult]) -> dict[str, int]:
    counts = [image.whole.counts for image in images]
    return {
        "truth": int(sum(c.truth_objects for c in counts)),
        "predicted": int(sum(c.predicted_objects for c in counts)),
        "matched": int(sum(c.matched_objects for c in counts)),
    }


def _rounded(found: Mapping[str, Estimate]) -> dict[str, list[float | None]]:
    return {name: [None if math.isnan(v) else round(v, 6) for v in estimate] for name, estimate in found.items()}
