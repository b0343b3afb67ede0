"""The mask pyramid of one slide: an OME-Zarr 0.5 image with two label images.

::

    masks.ome.zarr/        probability  (c, y, x) uint8, 255 times the probability of being an object
      labels/instance/     (y, x) uint32, final object ids
      labels/class/        (y, x) uint8 (uint16 above 255 classes), 1-based index into the run's classes

Level k has half the pixels of level k - 1 along each side, rounded up. Labels keep every 2^k-th pixel of level 0;
the probability is the mean of the (up to) 2 x 2 px of the level before that exist, rounded half up.

Every shard of every level is written by one call and by one only, empty shards are not written, and nothing else
is written after ``create``: the bytes do not depend on who wrote what when.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from wsi_pipeline.errors import OutputError
from wsi_pipeline.files import is_passing, writing
from wsi_pipeline.geometry import Affine2D, PixelGrid, Resolution
from wsi_pipeline.slides.info import SlideInfo
from wsi_pipeline.stitching import ngff_metadata as metadata
from wsi_pipeline.stitching.ngff_metadata import RGB

COARSEST = 512
"""The longest side of the coarsest level is at most this many px."""

ZSTD_LEVEL = 3

LabelName = Literal["instance", "class"]

_LABELS: tuple[LabelName, ...] = ("instance", "class")


@dataclass(frozen=True)
class MaskPyramid:
    """An open mask pyramid; cheap to pickle, safe to use from many threads and processes.

    Attributes:
        path: the OME-Zarr folder.
        grid: the working grid, which is level 0.
        resolution: µm per level-0 px of the slide.
        chunk: side of a chunk, px.
        shard: largest side of a shard, px; a multiple of ``chunk``.
        classes: (name, colour) of classes 1, 2, …; 0 is background or unclassified.
    """

    path: Path
    grid: PixelGrid
    resolution: Resolution
    chunk: int
    shard: int
    classes: tuple[tuple[str, RGB], ...]

    @classmethod
    def create(
        cls,
        path: Path,
        grid: PixelGrid,
        *,
        chunk: int,
        shard: int,
        classes: Sequence[tuple[str, RGB]],
        slide: SlideInfo,
    ) -> MaskPyramid:
        """Make an empty pyramid; the folder appears under its name when it is whole.

        Raises:
            OutputError: there is something at ``path``, or it cannot be written.
        """
        if shard % chunk:
            raise ValueError(f"shard {shard} px must be a multiple of chunk {chunk} px")
        pyramid = cls(path, grid, slide.resolution, chunk, shard, tuple((name, color) for name, color in classes))
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        if path.exists():
            raise OutputError("exists already", where=path, fix="Open it, or remove it first")
        try:
            with writing(path):
                shutil.rmtree(partial, ignore_errors=True)
                pyramid._write_metadata(partial, slide)
                partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return pyramid

    @classmethod
    def open(cls, path: Path) -> MaskPyramid:
        """Open a pyramid that ``create`` made.

        Raises:
            OutputError: there is none at ``path``.
        """
        try:
            facts: Any = zarr.open_group(path, mode="r", zarr_format=3).attrs["wsi_pipeline"]
            grid = facts["grid"]
            return cls(
                path,
                PixelGrid(grid["width"], grid["height"], Affine2D(**grid["to_level0"]), grid["mpp"]),
                Resolution(**facts["slide"]["resolution"]),
                facts["chunk"],
                facts["shard"],
                tuple((c["name"], (c["color"][0], c["color"][1], c["color"][2])) for c in facts["classes"]),
            )
        except (OSError, KeyError, TypeError, ValueError) as error:
            if is_passing(error):
                raise
            raise OutputError(
                f"is no mask pyramid ({error})", where=path, fix="Give the masks.ome.zarr folder of a run"
            ) from None

    def __reduce__(self) -> tuple[Any, ...]:
        return MaskPyramid, tuple(getattr(self, field.name) for field in fields(self))

    @cached_property
    def n_levels(self) -> int:
        return 1 + ((max(self.grid.width, self.grid.height) - 1) // COARSEST).bit_length()

    def size(self, level: int) -> tuple[int, int]:
        """(width, height) of a level in px."""
        step = 1 << level
        return -(-self.grid.width // step), -(-self.grid.height // step)

    @property
    def pixel_size(self) -> tuple[float, float]:
        """µm per level-0 px of the pyramid along x and y."""
        return self.grid.to_level0.sx * self.resolution.x, self.grid.to_level0.sy * self.resolution.y

    @property
    def first_centre(self) -> tuple[float, float]:
        """(x, y) in µm of the centre of pixel (0, 0) from the centre of the slide's level-0 pixel (0, 0)."""
        affine = self.grid.to_level0
        return (
            (affine.tx + affine.sx / 2 - 0.5) * self.resolution.x,
            (affine.ty + affine.sy / 2 - 0.5) * self.resolution.y,
        )

    @property
    def class_dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8 if len(self.classes) <= 255 else np.uint16)

    def shards(self, level: int) -> list[tuple[int, int]]:
        """(row, col) of every shard of a level, row-major."""
        width, height = self.size(level)
        shard_width, shard_height = self._shard_size(level)
        rows, cols = -(-height // shard_height), -(-width // shard_width)
        return [(row, col) for row in range(rows) for col in range(cols)]

    def shard_region(self, level: int, row: int, col: int) -> tuple[int, int, int, int]:
        """``x0, y0, x1, y1`` (exclusive) of a shard, px of its level, cut to the image."""
        width, height = self.size(level)
        shard_width, shard_height = self._shard_size(level)
        x0, y0 = col * shard_width, row * shard_height
        return x0, y0, min(x0 + shard_width, width), min(y0 + shard_height, height)

    def write_shard(
        self, row: int, col: int, instance: np.ndarray, class_: np.ndarray, probability: np.ndarray | None
    ) -> None:
        """Write one shard of level 0.

        Args:
            row, col: of the shard.
            instance: (h, w) uint32 final ids, of the size of ``shard_region(0, row, col)``.
            class_: (h, w) unsigned int, 1-based class indices, 0 for none.
            probability: (h, w) uint8; None where there is none per pixel (prompted runs, where every object was asked
                for): it is then 255 inside every object.
        """
        if probability is None:
            probability = np.where(instance > 0, np.uint8(255), np.uint8(0))
        if int(class_.max()) > len(self.classes):
            raise ValueError(f"class {class_.max()} is none of the {len(self.classes)} classes")
        self._write(0, row, col, instance, class_, probability)

    def build_shard(self, level: int, row: int, col: int) -> None:
        """Write one shard of a level above 0 from the level before, which must be whole below this shard."""
        if not 0 < level < self.n_levels:
            raise ValueError(f"level {level} is not between 1 and {self.n_levels - 1}")
        x0, y0, x1, y1 = self.shard_region(level, row, col)
        instance = np.zeros((y1 - y0, x1 - x0), np.uint32)
        class_ = np.zeros(instance.shape, self.class_dtype)
        probability = np.zeros(instance.shape, np.uint8)
        width, height = self.size(level - 1)
        step = self.shard // 2  # a shard of the level before at a time
        for y in range(y0, y1, step):
            for x in range(x0, x1, step):
                right, bottom = min(x + step, x1), min(y + step, y1)
                below = 2 * x, 2 * y, min(2 * right, width), min(2 * bottom, height)
                if not any(self._holds(name, level - 1, *below) for name in self._arrays):
                    continue
                part = slice(y - y0, bottom - y0), slice(x - x0, right - x0)
                instance[part] = self.read_labels("instance", *below, level - 1)[::2, ::2]
                class_[part] = self.read_labels("class", *below, level - 1)[::2, ::2]
                probability[part] = halve_mean(self.read_probability(*below, level - 1))
        self._write(level, row, col, instance, class_, probability)

    def read_labels(self, name: LabelName, x0: int, y0: int, x1: int, y1: int, level: int = 0) -> np.ndarray:
        """(y1 - y0, x1 - x0) labels of a rectangle in px of a level; 0 where it reaches past the image."""
        return self._read(name, level, x0, y0, x1, y1)

    def read_probability(self, x0: int, y0: int, x1: int, y1: int, level: int = 0) -> np.ndarray:
        """(y1 - y0, x1 - x0) uint8 probability of a rectangle in px of a level; 0 where it reaches past the image."""
        return self._read("probability", level, x0, y0, x1, y1)

    def remove_partial_files(self) -> int:
        """Remove what a killed writer may have left beside the shards; returns how many files that were.

        To be called when nobody is writing.
        """
        partial = list(self.path.rglob("*.partial"))
        for file in partial:
            file.unlink(missing_ok=True)
        return len(partial)

    @cached_property
    def _arrays(self) -> dict[str, list[zarr.Array[Any]]]:
        root = zarr.open_group(self.path, mode="r+", zarr_format=3)
        return {
            name: [
                _array(root, (folder / str(level)).relative_to(self.path).as_posix()) for level in range(self.n_levels)
            ]
            for name, folder in self._folders.items()
        }

    @cached_property
    def _folders(self) -> dict[str, Path]:
        return {"probability": self.path, **{name: self.path / "labels" / name for name in _LABELS}}

    def _shard_size(self, level: int) -> tuple[int, int]:
        width, height = (min(self.shard, -(-side // self.chunk) * self.chunk) for side in self.size(level))
        return width, height

    def _write(
        self, level: int, row: int, col: int, instance: np.ndarray, class_: np.ndarray, probability: np.ndarray
    ) -> None:
        x0, y0, x1, y1 = self.shard_region(level, row, col)
        place = slice(y0, y1), slice(x0, x1)
        arrays = self._arrays
        for name, data in (("instance", instance), ("class", class_), ("probability", probability)):
            if data.shape != (y1 - y0, x1 - x0):
                raise ValueError(f"{name} is {data.shape}, but shard {row}, {col} is {(y1 - y0, x1 - x0)}")
            array = arrays[name][level]
            if not data.any() and not self._holds(name, level, x0, y0, x1, y1):
                continue  # Zarr would come to the same end, many times slower
            with writing(self._folders[name]):
                array[(0, *place) if name == "probability" else place] = data.astype(array.dtype, copy=False)

    def _holds(self, name: str, level: int, x0: int, y0: int, x1: int, y1: int) -> bool:
        """Whether a shard that meets a rectangle is stored; one that is not is all 0."""
        folder = self._folders[name] / str(level) / "c"
        folder = folder / "0" if name == "probability" else folder
        width, height = self._shard_size(level)
        rows, cols = range(max(y0, 0) // height, -(-y1 // height)), range(max(x0, 0) // width, -(-x1 // width))
        return any((folder / str(row) / str(col)).exists() for row in rows for col in cols)

    def _read(self, name: str, level: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        array = self._arrays[name][level]
        if not self._holds(name, level, x0, y0, x1, y1):
            return np.zeros((y1 - y0, x1 - x0), array.dtype)
        height, width = array.shape[-2:]
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        place = (slice(top, bottom), slice(left, right))
        if (left, top, right, bottom) == (x0, y0, x1, y1):
            return np.asarray(array[(0, *place) if array.ndim == 3 else place])
        result = np.zeros((y1 - y0, x1 - x0), array.dtype)
        if left < right and top < bottom:
            inner = array[(0, *place) if array.ndim == 3 else place]
            result[top - y0 : bottom - y0, left - x0 : right - x0] = inner
        return result

    def _write_metadata(self, path: Path, slide: SlideInfo) -> None:
        ome = metadata.image(self.n_levels, self.pixel_size, self.first_centre)
        root = zarr.create_group(path, zarr_format=3, attributes={"ome": ome, "wsi_pipeline": self._facts(slide)})
        self._create_arrays(root, "probability", np.dtype(np.uint8))
        labels = root.create_group("labels", attributes={"ome": metadata.label_list(_LABELS)})
        for name, dtype in zip(_LABELS, (np.dtype(np.uint32), self.class_dtype), strict=True):
            classes = self.classes if name == "class" else ()
            ome = metadata.label(name, self.n_levels, self.pixel_size, self.first_centre, classes)
            self._create_arrays(labels.create_group(name, attributes={"ome": ome}), name, dtype)

    def _create_arrays(self, group: zarr.Group, name: str, dtype: np.dtype[Any]) -> None:
        lead: tuple[int, ...] = (1,) if name == "probability" else ()
        for level in range(self.n_levels):
            group.create_array(
                str(level),
                shape=lead + self.size(level)[::-1],
                chunks=(*lead, self.chunk, self.chunk),
                shards=lead + self._shard_size(level)[::-1],
                dtype=dtype,
                compressors=[ZstdCodec(level=ZSTD_LEVEL)],
                fill_value=0,
                dimension_names=("c", "y", "x")[-2 - len(lead) :],
            )

    def _facts(self, slide: SlideInfo) -> dict[str, Any]:
        return {
            "format": 1,
            "grid": asdict(self.grid),
            "chunk": self.chunk,
            "shard": self.shard,
            "classes": [{"id": i, "name": n, "color": list(c)} for i, (n, c) in enumerate(self.classes, 1)],
            "slide": {
                "name": slide.name,
                "fingerprint": slide.fingerprint,
                "width": slide.width,
                "height": slide.height,
                "resolution": asdict(slide.resolution),
                "mpp_source": slide.mpp_source,
                "bounds": list(slide.bounds.bounds),
                "has_bounds": slide.has_bounds,
            },
        }


def halve_mean(image: np.ndarray) -> np.ndarray:
    """(h, w) uint8 → (ceil(h / 2), ceil(w / 2)) uint8, the mean of each 2 x 2 px that exist, rounded half up."""
    height, width = image.shape
    padded = np.pad(image, ((0, height % 2), (0, width % 2))).astype(np.uint16)
    total = padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2]
    count = np.full(total.shape, 4, np.uint16)
    if height % 2:
        count[-1] //= 2
    if width % 2:
        count[:, -1] //= 2
    return ((total + count // 2) // count).astype(np.uint8)


def _array(root: zarr.Group, path: str) -> zarr.Array[Any]:
    node = root[path]
    if not isinstance(node, zarr.Array):
        raise KeyError(f"{path} is not an array")
    return node
