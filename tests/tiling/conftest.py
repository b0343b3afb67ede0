from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.slides.slide import Slide, open_slide


@pytest.fixture(scope="session")
def slide_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of 611 x 457 px with a level of about a third, whose downsamples are not whole numbers."""
    path = tmp_path_factory.mktemp("slide") / "noise.tif"
    rng = np.random.default_rng(5)
    with tifffile.TiffWriter(path) as writer:
        options = {"tile": (64, 64), "photometric": "rgb", "resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
        writer.write(rng.integers(0, 255, (457, 611, 3), np.uint8), subifds=1, **options)
        writer.write(rng.integers(0, 255, (152, 203, 3), np.uint8), subfiletype=1, **options)
    return path


@pytest.fixture
def slide(slide_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slide]:
    """A slide that notes the size of every read in ``reads``."""
    with open_slide(slide_file) as opened:
        plain, reads = opened.read_grid, []

        def noted(to_level0: Affine2D, size: tuple[int, int]) -> np.ndarray:
            reads.append(size)
            return plain(to_level0, size)

        monkeypatch.setattr(opened, "read_grid", noted)
        opened.reads = reads
        yield opened
