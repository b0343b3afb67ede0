"""Small synthetic slides; every builder returns the path and the level-0 pixels as they must be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr


@pytest.fixture(scope="session")
def cmu() -> Path:
    """A real Aperio slide, 2220 x 2967 px, 0.499 µm/px."""
    return Path(str(resources.files("wsi_pipeline") / "data" / "CMU-1-Small-Region.svs"))


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def halves(image: np.ndarray, levels: int) -> list[np.ndarray]:
    """Every second pixel, again and again."""
    return [image[:: 2**k, :: 2**k] for k in range(levels)]


@pytest.fixture
def pixels() -> Callable[..., np.ndarray]:
    return noise


@pytest.fixture
def pyramid_of() -> Callable[[np.ndarray, int], list[np.ndarray]]:
    return halves


@pytest.fixture
def ome_tiff(tmp_path: Path) -> Callable[..., Path]:
    """Writes levels as an OME-TIFF with a sub-IFD pyramid."""

    def write(
        levels: Sequence[np.ndarray], *, name: str = "slide.ome.tif", mpp: float | None = 0.5, **options: Any
    ) -> Path:
        path = tmp_path / name
        metadata: dict[str, Any] = {"axes": "YXS"}
        if mpp is not None:
            metadata |= {
                "PhysicalSizeX": mpp,
                "PhysicalSizeXUnit": "µm",
                "PhysicalSizeY": mpp,
                "PhysicalSizeYUnit": "µm",
            }
        options = {"tile": (64, 64), "photometric": "rgb", "compression": "zlib"} | options
        metadata |= options.pop("metadata", {})
        with tifffile.TiffWriter(path, ome=True) as tif:
            tif.write(levels[0], subifds=len(levels) - 1, metadata=metadata, **options)
            for level in levels[1:]:
                tif.write(level, subfiletype=1, **options)
        return path

    return write


@pytest.fixture
def tiff(tmp_path: Path) -> Callable[..., Path]:
    """Writes levels as pages of a plain TIFF, 0.5 µm/px unless told otherwise."""

    def write(
        levels: Sequence[np.ndarray], *, name: str = "slide.tif", mpp: float | None = 0.5, **options: Any
    ) -> Path:
        path = tmp_path / name
        options = {"tile": (64, 64), "photometric": "rgb", "metadata": None} | options
        if mpp is not None:
            options |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
        with tifffile.TiffWriter(path) as tif:
            for number, level in enumerate(levels):
                tif.write(level, subfiletype=int(number > 0), **options)
        return path

    return write


@pytest.fixture
def ngff(tmp_path: Path) -> Callable[..., Path]:
    """Writes (y, x, c) levels as OME-Zarr 0.4 or 0.5."""

    def write(
        levels: Sequence[np.ndarray],
        *,
        version: str = "0.5",
        axes: str = "cyx",
        mpp: float = 0.5,
        unit: str | None = "micrometer",
        under: str = "",
        shards: bool = False,
    ) -> Path:
        path = tmp_path / "slide.ome.zarr"
        zarr_format = 2 if version == "0.4" else 3
        root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
        group = root.create_group(under) if under else root
        datasets = []
        for number, level in enumerate(levels):
            data = np.transpose(level, [("yxc").index(a) for a in axes if a in "yxc"])
            data = data[tuple(slice(None) if a in "yxc" else np.newaxis for a in axes)]
            chunks = tuple({"y": 48, "x": 32}.get(a, 1) for a in axes)
            shard = (
                tuple({"y": 96, "x": 64}.get(a, n) for a, n in zip(axes, data.shape, strict=True)) if shards else None
            )
            array = group.create_array(
                str(number), shape=data.shape, chunks=chunks, shards=shard, dtype=data.dtype, fill_value=0
            )
            array[...] = data
            scale = [
                mpp * levels[0].shape["yx".index(a)] / level.shape["yx".index(a)] if a in "yx" else 1.0 for a in axes
            ]
            datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
        types = {"c": "channel", "t": "time"}
        described = [{"name": a, "type": types.get(a, "space")} for a in axes]
        for axis in described:
            if axis["type"] == "space" and unit is not None:
                axis["unit"] = unit
        ome = {"multiscales": [{"axes": described, "datasets": datasets, "version": version}]}
        group.attrs.update({"ome": ome | {"version": version}} if version == "0.5" else ome)
        if under:
            root.attrs["bioformats2raw.layout"] = 3
        return path

    return write
