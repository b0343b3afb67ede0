"""The ``ome`` attributes of a mask pyramid, by the OME-Zarr 0.5 specification.

Coordinate transformations are in micrometer and, as OME-Zarr viewers take them, give the *centres* of pixels, with
the centre of the slide's level-0 pixel (0, 0) as the origin; so the pyramid lies on an OME-Zarr copy of the slide
that has no translation. Pixel 0 of a coarse label level is pixel 0 of level 0 and keeps its centre; the centre of
2^k averaged pixels is (2^k - 1) / 2 px farther.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

VERSION = "0.5"

RGB = tuple[int, int, int]
Method = Literal["mean", "nearest"]
"""How a level is made from the one before: averaged, or every second pixel along each side."""

_OMERO = {
    "channels": [
        {
            "label": "probability",
            "color": "FFFFFF",
            "active": True,
            "window": {"min": 0, "max": 255, "start": 0, "end": 255},
        }
    ],
    "rdefs": {"model": "greyscale"},
}


def image(n_levels: int, pixel_size: tuple[float, float], first_centre: tuple[float, float]) -> dict[str, Any]:
    """``ome`` of the probability image, axes (c, y, x).

    Args:
        n_levels: of the pyramid.
        pixel_size: µm per level-0 px of the pyramid along x and y.
        first_centre: (x, y) in µm of the centre of its pixel (0, 0).
    """
    axes = [{"name": "c", "type": "channel"}, *_space_axes()]
    scales = _multiscale("probability", axes, "mean", n_levels, pixel_size, first_centre)
    return {"version": VERSION, "multiscales": [scales], "omero": _OMERO}


def label_list(names: Sequence[str]) -> dict[str, Any]:
    """``ome`` of the group that holds the label images."""
    return {"version": VERSION, "labels": list(names)}


def label(
    name: str,
    n_levels: int,
    pixel_size: tuple[float, float],
    first_centre: tuple[float, float],
    classes: Sequence[tuple[str, RGB]],
) -> dict[str, Any]:
    """``ome`` of a label image, axes (y, x); names and colours of values 1, 2, … where the values are classes."""
    scales = _multiscale(name, _space_axes(), "nearest", n_levels, pixel_size, first_centre)
    facts: dict[str, Any] = {"version": VERSION, "source": {"image": "../../"}}
    if classes:
        facts["colors"] = [{"label-value": i, "rgba": [*c, 255]} for i, (_, c) in enumerate(classes, 1)]
        facts["properties"] = [{"label-value": i, "class": n} for i, (n, _) in enumerate(classes, 1)]
    return {"version": VERSION, "multiscales": [scales], "image-label": facts}


def _space_axes() -> list[dict[str, str]]:
    return [{"name": axis, "type": "space", "unit": "micrometer"} for axis in ("y", "x")]


def _multiscale(
    name: str,
    axes: list[dict[str, str]],
    method: Method,
    n_levels: int,
    pixel_size: tuple[float, float],
    first_centre: tuple[float, float],
) -> dict[str, Any]:
    channels = len(axes) - 2
    datasets = []
    for level in range(n_levels):
        step = 1 << level
        shift = (step - 1) / 2 if method == "mean" else 0.0
        y, x = (first_centre[axis] + shift * pixel_size[axis] for axis in (1, 0))
        scale = {"type": "scale", "scale": [1.0] * channels + [step * pixel_size[1], step * pixel_size[0]]}
        translation = {"type": "translation", "translation": [0.0] * channels + [y, x]}
        datasets.append({"path": str(level), "coordinateTransformations": [scale, translation]})
    return {"name": name, "type": method, "axes": axes, "datasets": datasets}
