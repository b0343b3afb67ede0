"""Which slides are meant by files, folders and globs."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slides.urls import file_name, is_remote

SLIDE_SUFFIXES = (
    ".ome.tiff", ".ome.tif", ".ome.btf", ".ome.zarr",
    ".svs", ".svslide", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".dcm",
    ".qptiff", ".tiff", ".tif", ".btf", ".zarr", ".png", ".jpg", ".jpeg",
)  # fmt: skip
"""Longest first where one ends with another."""

INDEX_SUFFIXES = (".vms", ".vmu")
"""Files that name those which hold the pixels."""

_ZARR_METADATA = ("zarr.json", ".zattrs", ".zgroup")


def slide_name(path: str | os.PathLike[str]) -> str:
    """The file name without its slide suffix (``a.ome.tif`` → ``a``); the default slide id. URLs have one, too."""
    if is_remote(str(path)):
        name = file_name(str(path)) or "slide"
    else:
        name = Path(path).name or Path(path).resolve().name
    for suffix in SLIDE_SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr hierarchy."""
    return any((path / name).is_file() for name in _ZARR_METADATA)


def dicom_files(path: Path) -> list[Path]:
    """The ``.dcm`` files of a folder, sorted."""
    return sorted(p for p in path.iterdir() if p.suffix.lower() == ".dcm" and p.is_file())


def find_slides(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Expand files, folders and globs to slides.

    A folder stands for the slides directly inside it; ``folder/**/*.svs`` goes deeper. A folder of DICOM files
    alone is one slide, an OME-Zarr folder is one slide, and the files that belong to an MRXS or VMS slide are
    none. A plain path is taken as it is, even if it does not exist, so that opening it says what is wrong.

    Returns:
        Sorted, each slide once.

    Raises:
        SlideError: a glob or folder without any slide, or a folder that cannot be listed.
    """
    found: dict[str, Path] = {}
    for given in paths:
        try:
            slides = _expand(str(given))
        except OSError as error:
            raise SlideError(f"cannot be listed ({error.strerror})", where=given, fix="Check its permissions") from None
        for path in slides:
            found.setdefault(os.path.abspath(path), path)
    return [found[key] for key in sorted(found)]


def _expand(given: str) -> list[Path]:
    path = Path(given)
    if path.exists() or not glob.has_magic(given):
        return _inside(path) if path.is_dir() and not (is_slide_folder(path) or _seems_a_slide(path)) else [path]
    slides = _slides_among(Path(p) for p in glob.glob(given, recursive=True))
    if not slides:
        raise SlideError("matches no slide", where=given, fix="Check the pattern")
    return slides


def _inside(folder: Path) -> list[Path]:
    slides = _slides_among(folder.iterdir())
    if not slides:
        raise SlideError(
            "holds no slide", where=folder, fix=f"Give slides, or look in sub-folders with '{folder}/**/*.svs'"
        )
    return slides


def is_slide_folder(path: Path) -> bool:
    """Whether a folder is one slide: OME-Zarr, or DICOM files and no other slides."""
    if not path.is_dir():
        return False
    if is_zarr(path):
        return True
    return bool(dicom_files(path)) and not any(is_slide_file_name(p.name) and p.is_file() for p in path.iterdir())


def _slides_among(paths: Iterable[Path]) -> list[Path]:
    candidates = [p for p in paths if not p.name.startswith(".") and not _inside_zarr(p)]
    # A DICOM file stands for its folder, which holds the other levels.
    candidates = [p.parent if p.suffix.lower() == ".dcm" else p for p in candidates]
    indices = [p for p in candidates if p.suffix.lower() in INDEX_SUFFIXES]
    companions = {p.parent / name for p in indices for name in named_in(p.read_text(encoding="latin-1"))}
    return sorted({p for p in candidates if is_slide_folder(p) or _seems_a_slide(p)} - companions)


def _seems_a_slide(path: Path) -> bool:
    """Whether it is called a slide: a link that leads nowhere and a folder are, too, as somebody may count on them."""
    return is_slide_file_name(path.name) or (path.suffix.lower() == ".zarr" and path.is_dir())


def is_slide_file_name(name: str) -> bool:
    """Whether a file of this name can be a whole slide (files ending in .zarr or .dcm are not)."""
    return name.lower().endswith(SLIDE_SUFFIXES) and not name.lower().endswith((".zarr", ".dcm"))


def _inside_zarr(path: Path) -> bool:
    return any(p.suffix.lower() == ".zarr" for p in path.parents)


def named_in(index: str) -> set[str]:
    """File names that the text of a Hamamatsu VMS index refers to."""
    return {line.partition("=")[2].strip() for line in index.splitlines() if "=" in line}
