"""Tiles with label images and a table of them: ``manifest.csv``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from wsi_pipeline.errors import DatasetError
from wsi_pipeline.manifest import file_of, read_manifest
from wsi_pipeline.training.data.samples import Picture, Sample, SampleInfo, renumbered
from wsi_pipeline.training.data.splits import split_leaks

MANIFEST = "manifest.csv"
COLUMNS = ("file", "mask", "split", "group", "object_class", "licence")
"""Columns there have to be; ``source_id`` and ``mpp`` are read where there are, all others are the user's own."""

IMAGE_MODES = ("RGB", "RGBA", "L", "P")
LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")


@dataclass(frozen=True, slots=True)
class TileFiles:
    """Where the pixels of one tile are."""

    image: Path
    mask: Path


class TileFolder:
    """Tiles of a manifest, read one by one.

    Args:
        infos: facts of the tiles.
        files: their files, in the same order.
    """

    def __init__(self, infos: Sequence[SampleInfo], files: Sequence[TileFiles]) -> None:
        self.infos, self._files = tuple(infos), tuple(files)

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, index: int) -> Sample:
        """Read one tile.

        Raises:
            DatasetError: its files have gone, or were damaged after they were checked.
        """
        info, files = self.infos[index], self._files[index]
        try:
            with Image.open(files.image) as image, Image.open(files.mask) as mask:
                pixels, ids = np.array(image.convert("RGB")), np.asarray(mask).astype(np.int64)
        except OSError as error:
            raise DatasetError(f"cannot be read ({error})", where=files.image, fix="Check it and its mask") from None
        (labels,), numbers = renumbered([ids])
        classes = info.class_names[:1] * len(numbers)
        return Sample(info, Picture(pixels, labels, np.ones(labels.shape, bool)), classes)


def open_tiles(path: Path | str) -> TileFolder:
    """Open a manifest and check every file it names.

    Args:
        path: ``manifest.csv`` or the folder it is in. Files are looked for beside the manifest, then beside its folder.

    Raises:
        DatasetError: names all that is wrong: missing columns or files, files that are damaged or of a form that is no
            image or no label image, masks of another size than their image, images listed twice, groups in two splits.
    """
    path = Path(path)
    manifest = path / MANIFEST if path.is_dir() else path
    rows = _rows(manifest)
    problems: list[str] = []
    infos, files = [], []
    for line, row in rows:
        at = f"line {line}"
        infos.append(_info(row, at, problems))
        files.append(TileFiles(file_of(manifest, row["file"]), file_of(manifest, row["mask"])))
        problems += [f"{at}: {said}" for said in _file_problems(files[-1])]
    listed = Counter(tile.image for tile in files)
    problems += [f"{image.name} is listed {count} times" for image, count in listed.items() if count > 1]
    problems += split_leaks(infos)
    if problems:
        raise DatasetError.of(problems, where=manifest, fix="Correct these lines, or take them out")
    return TileFolder(infos, files)


def _rows(manifest: Path) -> list[tuple[int, dict[str, str]]]:
    rows = read_manifest(manifest, COLUMNS, error=DatasetError)
    if not rows:
        raise DatasetError("lists no tiles", where=manifest, fix="Add a line for each tile")
    return rows


def _info(row: dict[str, str], at: str, problems: list[str]) -> SampleInfo:
    empty = [name for name in ("group", "object_class", "licence") if not row[name].strip()]
    problems += [f"{at}: {name} is empty" for name in empty]
    return SampleInfo(
        source_id=row.get("source_id") or Path(row["file"]).stem,
        group=row["group"].strip(),
        split=row["split"].strip(),
        class_names=(row["object_class"].strip(),),
        licence=row["licence"].strip(),
        mpp=_mpp(row.get("mpp", ""), at, problems),
    )


def _mpp(text: str, at: str, problems: list[str]) -> float | None:
    if not text.strip():
        return None
    try:
        mpp = float(text)
    except ValueError:
        mpp = 0.0
    if not 0 < mpp < np.inf:
        problems.append(f"{at}: mpp {text!r} is no positive number")
    return mpp


def _file_problems(files: TileFiles) -> list[str]:
    image, image_problem = _size(files.image, IMAGE_MODES, "an 8-bit image")
    mask, mask_problem = _size(files.mask, LABEL_MODES, "a label image of one channel")
    if image and mask and image != mask:
        mask_problem = f"{files.mask.name} is {mask[0]} x {mask[1]} px, its image {image[0]} x {image[1]}"
    return [problem for problem in (image_problem, mask_problem) if problem]


def _size(path: Path, modes: Sequence[str], wanted: str) -> tuple[tuple[int, int] | None, str | None]:
    """Width and height of a file that holds what is wanted, else what is wrong with it."""
    if not path.is_file():
        return None, f"{path} is missing"
    try:
        with Image.open(path) as image:
            size, mode = image.size, image.mode
            image.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return None, f"{path.name} cannot be read ({error})"
    return (size, None) if mode in modes else (None, f"{path.name} has mode {mode} and is not {wanted}")
