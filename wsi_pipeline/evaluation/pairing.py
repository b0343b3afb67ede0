"""Which prediction belongs to which truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.errors import LabelsError
from wsi_pipeline.evaluation.reading import IMAGE_SUFFIXES, OUTLINE_SUFFIXES, PYRAMID_SUFFIX
from wsi_pipeline.manifest import file_of, read_manifest

_SUFFIXES = (*OUTLINE_SUFFIXES, *IMAGE_SUFFIXES, f".ome{PYRAMID_SUFFIX}", PYRAMID_SUFFIX)
_OF_A_RUN = "masks.ome.zarr"


@dataclass(frozen=True, slots=True)
class Truth:
    """One annotated image.

    Attributes:
        name: file name without its suffix; predictions are found by it.
        path: label image, mask pyramid or GeoJSON.
        group: images that are not independent (one patient, one slide) share it.
        mpp: µm per px, or None.
        image: what was annotated, or None.
        object_class: class of all objects that have none of their own, or None.
    """

    name: str
    path: Path
    group: str
    mpp: float | None = None
    image: Path | None = None
    object_class: str | None = None


def read_truths(path: Path, where: Mapping[str, str] | None = None, image: Path | None = None) -> list[Truth]:
    """One truth for a file; for a CSV manifest those of its rows that have all the values of ``where``.

    A manifest has a column ``mask`` and may have ``file`` (the image), ``group``, ``mpp`` and ``object_class``. Paths
    in it are relative to its folder or to the folder above.

    Raises:
        LabelsError: the manifest cannot be read, has no such column or row, or names one image twice; ``where`` comes
            without a manifest, or ``image`` with one.
    """
    is_manifest = path.suffix.lower() == ".csv"
    if (where and not is_manifest) or (image and is_manifest):
        raise LabelsError(
            f"is {'a' if is_manifest else 'no'} manifest", where=path, fix="Use --where with one, --image without"
        )
    if not is_manifest:
        return [Truth(stem(path), path, stem(path), image=image)]
    wanted = where or {}
    rows = [
        row
        for _, row in read_manifest(path, ("mask", *wanted), error=LabelsError)
        if all(row[key] == value for key, value in wanted.items())
    ]
    if not rows:
        raise LabelsError("has no row to evaluate", where=path, fix="Check --where and the manifest")
    truths = [_truth(row, path) for row in rows]
    names = [truth.name for truth in truths]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise LabelsError(f"names {twice} more than once", where=path, fix="Choose rows with --where, or rename files")
    return truths


def find_prediction(path: Path, name: str) -> Path:
    """The prediction of the image ``name``: the path itself, or what has that name in the folder.

    In the output folder of a run that is ``<name>/masks.ome.zarr``.

    Raises:
        LabelsError: there is none, or more than one.
    """
    if not path.is_dir() or path.name.endswith(PYRAMID_SUFFIX):
        return path
    candidates = [path / f"{name}{suffix}" for suffix in _SUFFIXES] + [path / name / _OF_A_RUN]
    found = [candidate for candidate in candidates if candidate.exists()]
    if not found:
        raise LabelsError(
            f"has no prediction for {name}", where=path, fix=f"Put {name}.png, .tif, .geojson or .ome.zarr there"
        )
    if len(found) > 1:
        raise LabelsError(
            f"has {len(found)} predictions for {name}: {', '.join(file.name for file in found)}",
            where=path,
            fix="Keep one of them",
        )
    return found[0]


def stem(path: Path) -> str:
    """File name without its suffix, also where that has two parts."""
    if path.name == _OF_A_RUN:
        return path.resolve().parent.name
    suffix = next((suffix for suffix in sorted(_SUFFIXES, key=len, reverse=True) if path.name.endswith(suffix)), "")
    return path.name.removesuffix(suffix) if suffix else path.stem


def _truth(row: Mapping[str, str], manifest: Path) -> Truth:
    image = file_of(manifest, row["file"]) if row.get("file") else None
    mask = file_of(manifest, row["mask"])
    name = stem(image or mask)
    try:
        mpp = float(row["mpp"]) if row.get("mpp") else None
    except ValueError:
        raise LabelsError(f"mpp {row['mpp']} of {name} is no number", where=manifest, fix="Correct it") from None
    return Truth(name, mask, row.get("group") or name, mpp, image, row.get("object_class") or None)
