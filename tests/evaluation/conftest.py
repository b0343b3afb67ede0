"""Files of every kind that hold the same objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsi_pipeline.geometry import Affine2D, PixelGrid, Region, Resolution
from wsi_pipeline.slides.info import SlideInfo
from wsi_pipeline.stitching.ngff import MaskPyramid

BOXES = {"Tumor": (4, 3, 20, 19), "Stroma": (30, 10, 50, 34), "Tumor ": (8, 30, 24, 44)}
"""``x0, y0, x1, y1`` px by class; blanks make a key, not a class."""
CLASSES = [("Tumor", (200, 0, 0)), ("Stroma", (150, 200, 150))]
CORNER = (100.0, 40.0)
"""Level-0 px where the scanned part of the slide begins."""


def labels() -> np.ndarray:
    image = np.zeros((48, 64), np.uint16)
    for number, (x0, y0, x1, y1) in enumerate(BOXES.values(), 1):
        image[y0:y1, x0:x1] = number
    return image


def write_image(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray(image).save(path)
    else:
        tifffile.imwrite(path, image)
    return path


def write_geojson(
    path: Path, *, scale: float = 1.0, shift: tuple[float, float] = (0, 0), origin: str | None = None
) -> Path:
    """The boxes, and a tissue outline and a TMA core that are no objects."""

    def feature(name: str, box: tuple[float, ...], kind: str) -> dict[str, Any]:
        x0, y0, x1, y1 = (scale * side + shift[axis % 2] for axis, side in enumerate(box))
        ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
        properties = {"objectType": kind, "classification": {"name": name.strip(), "color": [1, 2, 3]}}
        return {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": properties,
        }

    features = [feature(name, box, "detection") for name, box in BOXES.items()]
    features += [feature("Region*", (0, 0, 64, 48), "annotation"), feature("x", (0, 0, 9, 9), "tmaCore")]
    said = {"wsi_pipeline": {"origin": origin}} if origin else {}
    path.write_text(json.dumps({"type": "FeatureCollection"} | said | {"features": features}))
    return path


def write_pyramid(path: Path, image: np.ndarray | None = None) -> Path:
    """The boxes on a grid of 2 level-0 px at the corner of the scanned part."""
    instance = labels() if image is None else image
    info = SlideInfo(
        path="slide.svs",
        name="slide",
        width=400,
        height=300,
        resolution=Resolution(0.25, 0.25),
        mpp_source="property",
        bounds=Region(*CORNER, 200, 200),
        has_bounds=True,
        level_sizes=((400, 300),),
        reader="openslide",
        vendor="mirax",
        fingerprint="abc",
    )
    height, width = instance.shape
    grid = PixelGrid(width, height, Affine2D(2.0, 2.0, *CORNER), 0.5)
    pyramid = MaskPyramid.create(path, grid, chunk=64, shard=1024, classes=CLASSES, slide=info)
    class_ = np.array([0, 1, 2, 1], np.uint8)[np.minimum(instance, 3)]
    pyramid.write_shard(0, 0, instance.astype(np.uint32), class_, None)
    for level in range(1, pyramid.n_levels):
        pyramid.build_shard(level, 0, 0)
    return path


@dataclass(frozen=True)
class Files:
    labels: Callable[..., np.ndarray] = labels
    image: Callable[..., Path] = write_image
    geojson: Callable[..., Path] = write_geojson
    pyramid: Callable[..., Path] = write_pyramid


@pytest.fixture(scope="session")
def files() -> Files:
    return Files()
