"""Golden numbers of the published losses, and the inputs they were recorded with."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
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
