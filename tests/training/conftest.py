"""Golden numbers of the published losses, the inputs they were recorded with, and small tiles to train on."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def weights() -> ModuleType:
    """The module that makes inputs from names."""
    path = TESTS / "models" / "deterministic_weights.py"
    spec = importlib.util.spec_from_file_location("deterministic_weights", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.check_streams()
    return module


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    with np.load(TESTS / "golden" / "parity" / "losses.npz") as stored:
        return dict(stored)


@dataclass(frozen=True, slots=True)
class Recorded:
    """Inputs of the recorded losses: one ellipse and its mirror image.

    Attributes:
        logits: (2, 1, 256, 256).
        target: (2, 1, 1024, 1024) float, 0 or 1.
        coarse, refined: (2, 1, 64, 64) logits.
        uncertainty: (2, 1, 64, 64) in [0, 1].
    """

    logits: Tensor
    target: Tensor
    coarse: Tensor
    refined: Tensor
    uncertainty: Tensor

    @property
    def predicted(self) -> Tensor:
        """(2, 1, 1024, 1024) bool."""
        return F.interpolate(self.logits, (1024, 1024), mode="bilinear", align_corners=False) > 0


@pytest.fixture(scope="session")
def recorded(weights: ModuleType) -> Recorded:
    ellipse = weights.blob_mask(1024)
    return Recorded(
        logits=F.interpolate(
            weights.normal_input("loss_logits", (2, 1, 32, 32), 4.0), (256, 256), mode="bilinear", align_corners=False
        ),
        target=torch.stack([ellipse, ellipse.flip(1)]).unsqueeze(1).float(),
        coarse=weights.normal_input("loss_coarse", (2, 1, 64, 64), 3.0),
        refined=weights.normal_input("loss_refined", (2, 1, 64, 64), 3.0),
        uncertainty=weights.normal_input("loss_uncertain", (2, 1, 64, 64), 2.0).sigmoid(),
    )


@pytest.fixture(scope="session")
def write_tiles() -> Callable[..., Path]:
    """Writes tiles of 256 px with one dark disc each."""
    return _write_tiles


def _write_tiles(folder: Path, splits: dict[str, str], group: str | None = None) -> Path:
    """Tiles of 256 px with one dark disc each, named after their patients."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:256, :256]
    rows = []
    for number, (patient, split) in enumerate(splits.items()):
        disc = (x - 120 - 8 * number) ** 2 + (y - 130) ** 2 < (50 + 6 * number) ** 2
        image = np.full((256, 256, 3), (228, 200, 215), np.uint8)
        image[disc] = (98, 66, 138)
        Image.fromarray(image).save(folder / f"{patient}.png")
        Image.fromarray(disc.astype(np.uint8)).save(folder / f"{patient}.mask.png")
        rows.append([f"{patient}.png", f"{patient}.mask.png", split, group or patient, "nucleus", "CC0-1.0"])
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "mask", "split", "group", "object_class", "licence"], *rows])
    return folder
