"""Small made-up tiles, and images that show their own labels."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wsi_pipeline.training.data.samples import Picture, Sample, SampleInfo

LEVEL = 20
"""Grey levels between the colours of two labels."""


def painted(labels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 whose red says which label a px has."""
    image = np.full((*labels.shape, 3), 40, np.uint8)
    image[..., 0] = labels * LEVEL
    return image


def blocks(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W) int32: up to eleven rectangles and ovals of 24 to 80 px."""
    random = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.int32)
    y, x = np.mgrid[:height, :width]
    for number in range(1, 12):
        cx, cy = random.integers(0, width), random.integers(0, height)
        a, b = random.integers(12, 40, 2)
        oval = ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1
        labels[oval if number % 2 else (abs(x - cx) < a) & (abs(y - cy) < b)] = number
    return labels


def picture_of(labels: np.ndarray) -> Picture:
    return Picture(painted(labels), labels, np.ones(labels.shape, bool))


def sample_of(labels: np.ndarray, low: np.ndarray | None = None, mpp: float | None = None) -> Sample:
    info = SampleInfo("one", "patient", "train", ("nucleus",), "CC0-1.0", mpp)
    return Sample(info, picture_of(labels), ("nucleus",) * 12, None if low is None else picture_of(low))


@dataclass
class TileMaker:
    """Writes tiles and their manifest."""

    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, labels: np.ndarray | None = None, image: np.ndarray | None = None, **cells: Any) -> None:
        labels = blocks(60, 80, len(self.rows)) if labels is None else labels
        image = painted(labels) if image is None else image
        Image.fromarray(image).save(self.folder / f"{name}.png")
        Image.fromarray(labels.astype(np.uint16)).save(self.folder / f"{name}.mask.png")
        row = {"file": f"{name}.png", "mask": f"{name}.mask.png", "split": "train", "group": f"patient {name}"}
        self.rows.append(row | {"object_class": "nucleus", "licence": "CC0-1.0", "stain": "H&E"} | cells)

    def write(self) -> Path:
        with (self.folder / "manifest.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]), extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.rows)
        return self.folder


@dataclass(frozen=True)
class Made:
    """The helpers of this file."""

    painted: Callable[..., np.ndarray] = painted
    blocks: Callable[..., np.ndarray] = blocks
    sample_of: Callable[..., Sample] = sample_of
    level: int = LEVEL


@pytest.fixture(scope="session")
def made() -> Made:
    return Made()


@pytest.fixture
def tiles(tmp_path: Path) -> TileMaker:
    return TileMaker(tmp_path)
