"""Which reader a file or folder is for; decided by content, the name breaks ties."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slides.base import LevelReader
from wsi_pipeline.slides.find import dicom_files, is_zarr

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_IMAGE_MAGIC = (b"\x89PNG", b"\xff\xd8\xff")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_FORMATS = "Give a slide OpenSlide reads, a TIFF, an OME-Zarr folder, PNG or JPEG"


def open_reader(path: Path) -> LevelReader:
    """Open a slide file or folder with the reader it is for.

    OME-TIFF goes to tifffile, which knows sub-IFD pyramids; then whatever OpenSlide detects to OpenSlide; other
    TIFF to tifffile; folders with Zarr metadata to Zarr; PNG and JPEG to Pillow.

    Raises:
        SlideError: missing, empty, forbidden, damaged or of no known format.
    """
    try:
        if path.is_dir():
            return _open_folder(path)
        head = _head(path)
        return _open_file(path, head)
    except FileNotFoundError:
        raise SlideError("no such file", where=path, fix="Check the path") from None
    except PermissionError:
        raise SlideError("permission denied", where=path, fix="Make it readable for this user") from None
    except OSError as error:
        raise SlideError(f"cannot be read ({error.strerror or error})", where=path, fix="Check the file") from None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise SlideError("is an empty file", where=path, fix="Copy it again from its source")
    return head


def _open_file(path: Path, head: bytes) -> LevelReader:
    from wsi_pipeline.slides.openslide_reader import OpenSlideReader, detect_vendor

    is_tiff = head.startswith(_TIFF_MAGIC)
    if is_tiff:
        from wsi_pipeline.slides.tiff_reader import TiffReader, is_ome_tiff

        if is_ome_tiff(path):
            return TiffReader(path)
    vendor = detect_vendor(path)
    # Generic TIFF is read by tifffile, too, which keeps level pixels exact whatever the downsample, says what
    # 16-bit files are instead of passing them off as 8-bit, and knows more codecs.
    if vendor is not None and vendor != "generic-tiff":
        return OpenSlideReader(path)
    if is_tiff:
        return TiffReader(path)
    if head.startswith(_IMAGE_MAGIC) and path.suffix.lower() in _IMAGE_SUFFIXES:
        from wsi_pipeline.slides.image_reader import ImageReader

        return ImageReader(path)
    return _refuse_file(path, head)


def _refuse_file(path: Path, head: bytes) -> NoReturn:
    if path.suffix.lower() == ".mrxs":
        raise SlideError(
            "its data is missing", where=path, fix=f"Put the folder {path.stem} with Slidedat.ini beside it"
        )
    if head.startswith(_IMAGE_MAGIC):
        raise SlideError(f"is a PNG or JPEG image named {path.suffix}", where=path, fix="Name it .png or .jpg")
    raise SlideError("is no slide format known here, or is damaged at its start", where=path, fix=_FORMATS)


def _open_folder(path: Path) -> LevelReader:
    if is_zarr(path):
        from wsi_pipeline.slides.ngff_reader import NgffReader

        return NgffReader(path)
    files = dicom_files(path)
    if files:
        return _open_dicom(path, files)
    index = path.with_name(path.name + ".mrxs")
    if index.is_file():
        raise SlideError("is the data folder of an MRXS slide", where=path, fix=f"Give {index.name}")
    raise SlideError("is a folder and no slide", where=path, fix="Give an OME-Zarr folder, a DICOM folder or a file")


def _open_dicom(path: Path, files: list[Path]) -> LevelReader:
    from wsi_pipeline.slides.openslide_reader import OpenSlideReader, detect_vendor

    for file in files:
        if detect_vendor(file) == "dicom":
            # OpenSlide finds the other levels of the series by itself.
            return OpenSlideReader(file)
    raise SlideError("holds DICOM files and none of them is a slide", where=path, fix=_FORMATS)
