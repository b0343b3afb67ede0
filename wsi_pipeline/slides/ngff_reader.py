"""OME-Zarr 0.4 (Zarr v2) and 0.5 (Zarr v3)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slides.base import ReaderFacts, damaged
from wsi_pipeline.slides.chunks import new_owner, read_through, shared_cache
from wsi_pipeline.slides.pixels import check_samples, rgb_from_samples
from wsi_pipeline.slides.resolution import MppClaim, in_microns

if TYPE_CHECKING:
    from zarr import Group


IDENTITY_SIDE = 256
"""px: side of the window of the coarsest level that enters the fingerprint."""


class NgffReader:
    """A ``LevelReader`` on an OME-Zarr image: (…, y, x) or (…, c, y, x) with c = 1, 3 or 4 of 8 bits.

    A folder written by bioformats2raw is read by its first image. Where the metadata gives lengths no unit, they
    are no claim about the pixel size.
    """

    def __init__(self, path: Path) -> None:
        """Raises SlideError where the folder is no readable bright-field OME-Zarr image."""
        self._path = path
        self._owner = new_owner()
        try:
            group, ome = _image_group(path)
            multiscale = ome["multiscales"][0]
            axes = [str(axis["name"] if isinstance(axis, Mapping) else axis).lower() for axis in multiscale["axes"]]
            arrays = [group[dataset["path"]] for dataset in multiscale["datasets"]]
            self._levels = [_Level(array, axes, path) for array in arrays]
        except SlideError:
            raise
        except Exception as error:
            # Missing keys, broken JSON and missing arrays each surface as another exception.
            raise SlideError(
                f"is no readable OME-Zarr image ({type(error).__name__}: {error})",
                where=path,
                fix="Check its metadata with the OME-NGFF validator",
            ) from None
        version = str(ome.get("version") or multiscale.get("version") or "unknown")
        claim = _claim(multiscale, axes)
        self.facts = ReaderFacts(
            reader="ngff",
            vendor=f"ome-zarr {version}",
            level_sizes=tuple((level.width, level.height) for level in self._levels),
            claims=() if claim is None else (claim,),
            identity=self._look_of_coarsest(),
            warnings=self._levels[0].warnings(),
        )

    def _look_of_coarsest(self) -> str:
        """A hash of the middle of the coarsest level: chunks of noise are all of one size, whatever they show."""
        level = len(self._levels) - 1
        size = self._levels[level].width, self._levels[level].height
        (x, width), (y, height) = (((n - min(n, IDENTITY_SIDE)) // 2, min(n, IDENTITY_SIDE)) for n in size)
        try:
            return hashlib.sha256(self.read(level, x, y, width, height).tobytes()).hexdigest()
        except SlideError:
            # Damaged chunks fail when they are needed, not here.
            return "damaged"

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See ``LevelReader.read``."""
        source = self._levels[level]

        def chunk(row: int, col: int) -> np.ndarray:
            return shared_cache().get((self._owner, level, row, col), lambda: source.chunk(row, col))

        try:
            return read_through(source.chunk_size, (x, y, width, height), chunk)
        except Exception as error:
            # Each codec has an exception class of its own.
            raise damaged(self._path, level, x, y, width, height, error) from None

    def associated_image(self, name: str) -> np.ndarray:
        """There are none; see ``LevelReader.associated_image``."""
        raise SlideError(f"has no associated image {name}", where=self._path)

    def close(self) -> None:
        """See ``LevelReader.close``."""
        shared_cache().forget(self._owner)


class _Level:
    """One array of the pyramid, read by its own chunks with all channels together."""

    def __init__(self, array: Any, axes: list[str], where: Path) -> None:
        self._array, self._axes, self._where = array, axes, where
        shape = dict(zip(axes, array.shape, strict=True))
        chunks = dict(zip(axes, array.chunks, strict=True))
        self.width, self.height = shape["x"], shape["y"]
        self.chunk_size = chunks["x"], chunks["y"]
        self.channels = shape.get("c", 1)
        extra = {name: n for name, n in shape.items() if name not in ("c", "y", "x") and n > 1}
        if extra:
            raise SlideError(
                f"has several planes ({', '.join(f'{name} = {n}' for name, n in extra.items())})",
                where=where,
                fix="Give one bright-field plane: z-stacks and time series are not read",
            )
        # 16-bit channels of an OME-Zarr are as likely fluorescence as colours.
        check_samples(array.dtype, 1 if array.dtype == np.uint16 else self.channels, where=where)

    def chunk(self, row: int, col: int) -> np.ndarray:
        """(h, w, 3) uint8 of one chunk, cut at the level's end."""
        width, height = self.chunk_size
        window = {
            "y": slice(row * height, min((row + 1) * height, self.height)),
            "x": slice(col * width, min((col + 1) * width, self.width)),
            "c": slice(None),
        }
        block = np.asarray(self._array[tuple(window.get(axis, 0) for axis in self._axes)])
        kept = [axis for axis in self._axes if axis in window]
        if "c" not in kept:
            block, kept = block[..., np.newaxis], [*kept, "c"]
        return rgb_from_samples(block.transpose([kept.index(axis) for axis in "yxc"]), where=self._where)

    def warnings(self) -> tuple[str, ...]:
        if self.channels == 1:
            return ("the image is grey; its values are repeated as red, green and blue",)
        return ()


def _image_group(path: Path) -> tuple[Group, Mapping[str, Any]]:
    """The group that holds the multiscale image, and its OME metadata."""
    import zarr

    root = zarr.open_group(path, mode="r")
    for group in (root, root.get("0")):
        if isinstance(group, zarr.Group):
            ome = _ome_metadata(group)
            if ome.get("multiscales"):
                return group, ome
    raise SlideError("is a Zarr hierarchy without a multiscale image", where=path, fix="Give an OME-Zarr image")


def _ome_metadata(group: Group) -> Mapping[str, Any]:
    # 0.5 keeps everything under "ome", 0.4 at the top.
    attributes: Mapping[str, Any] = group.attrs.asdict()
    ome: Mapping[str, Any] = attributes.get("ome", attributes)
    return ome


def _claim(multiscale: Mapping[str, Any], axes: list[str]) -> MppClaim | None:
    """The scale of the finest level, including the scale common to all levels."""
    scale = np.ones(len(axes))
    for holder in (multiscale["datasets"][0], multiscale):
        for step in holder.get("coordinateTransformations", ()):
            if step.get("type") == "scale":
                scale = scale * np.asarray(step["scale"], float)
    units = [axis.get("unit", "") if isinstance(axis, Mapping) else "" for axis in multiscale["axes"]]
    x, y = (in_microns(float(scale[axes.index(a)]), str(units[axes.index(a)])) for a in "xy")
    if x is None or y is None:
        return None
    return MppClaim("ngff", x, y, f"OME-Zarr scale of {x:g} µm")
