"""A folder of DICOM files is one slide. The files are written here, element by element."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_pipeline.errors import SlideError
from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.slides.find import find_slides
from wsi_pipeline.slides.slide import open_slide

WSI = "1.2.840.10008.5.1.4.1.1.77.1.6"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
TILE = 64
_LONG = ("OB", "SQ", "UN")


def element(tag: int, vr: str, value: bytes, *, undefined: bool = False) -> bytes:
    """One explicit-VR little-endian element."""
    if len(value) % 2:
        value += b"\0" if vr in ("UI", "OB") else b" "
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    length = 0xFFFFFFFF if undefined else len(value)
    return head + (struct.pack("<HI", 0, length) if vr in _LONG else struct.pack("<H", length)) + value


def item(value: bytes) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value


def us(tag: int, value: int) -> bytes:
    return element(tag, "US", struct.pack("<H", value))


def ul(tag: int, value: int) -> bytes:
    return element(tag, "UL", struct.pack("<I", value))


def text(tag: int, vr: str, value: str) -> bytes:
    return element(tag, vr, value.encode())


def jpeg_tiles(image: np.ndarray) -> list[bytes]:
    tiles = []
    for y in range(0, image.shape[0], TILE):
        for x in range(0, image.shape[1], TILE):
            tile = np.zeros((TILE, TILE, 3), np.uint8)
            part = image[y : y + TILE, x : x + TILE]
            tile[: part.shape[0], : part.shape[1]] = part
            buffer = BytesIO()
            Image.fromarray(tile).save(buffer, "JPEG", quality=98, subsampling=0)
            tiles.append(buffer.getvalue() + b"\0" * (buffer.tell() % 2))
    return tiles


def dicom_level(image: np.ndarray, *, level: int, mpp: float) -> bytes:
    """A VL Whole Slide Microscopy instance, TILED_FULL, of (h, w, 3) uint8."""
    height, width = image.shape[:2]
    tiles = jpeg_tiles(image)
    uid = f"1.2.3.4.{level + 1}"
    spacing = item(text(0x00280030, "DS", f"{mpp / 1000}\\{mpp / 1000}"))
    measures = item(element(0x00289110, "SQ", spacing))
    kind = "ORIGINAL\\PRIMARY\\VOLUME\\NONE" if level == 0 else "DERIVED\\PRIMARY\\VOLUME\\RESAMPLED"
    body = b"".join(
        [
            text(0x00080008, "CS", kind),
            text(0x00080016, "UI", WSI),
            text(0x00080018, "UI", uid),
            text(0x00080060, "CS", "SM"),
            text(0x0020000D, "UI", "1.2.3.5"),
            text(0x0020000E, "UI", "1.2.3.6"),
            text(0x00200052, "UI", "1.2.3.7"),
            text(0x00209311, "CS", "TILED_FULL"),
            us(0x00280002, 3),
            text(0x00280004, "CS", "YBR_FULL_422"),
            us(0x00280006, 0),
            text(0x00280008, "IS", str(len(tiles))),
            us(0x00280010, TILE),
            us(0x00280011, TILE),
            us(0x00280100, 8),
            us(0x00280101, 8),
            us(0x00280102, 7),
            us(0x00280103, 0),
            ul(0x00480006, width),
            ul(0x00480007, height),
            ul(0x00480303, 1),
            element(0x52009229, "SQ", measures),
        ]
    )
    offsets = np.cumsum([0, *(len(t) + 8 for t in tiles[:-1])]).astype("<u4").tobytes()
    frames = item(offsets) + b"".join(item(t) for t in tiles) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    meta = b"".join(
        [
            element(0x00020001, "OB", b"\0\1"),
            text(0x00020002, "UI", WSI),
            text(0x00020003, "UI", uid),
            text(0x00020010, "UI", JPEG_BASELINE),
            text(0x00020012, "UI", "1.2.3.8"),
        ]
    )
    pixels = element(0x7FE00010, "OB", frames, undefined=True)
    return b"\0" * 128 + b"DICM" + ul(0x00020000, len(meta)) + meta + body + pixels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    y, x = np.mgrid[0:200, 0:256]
    image = np.stack([x, y, np.full_like(x, 90)], axis=2).astype(np.uint8)
    path = tmp_path / "case"
    path.mkdir()
    for level, step in enumerate((1, 2)):
        data = dicom_level(np.ascontiguousarray(image[::step, ::step]), level=level, mpp=0.5 * step)
        (path / f"{level}.dcm").write_bytes(data)
    return path


def test_folder_of_dicom_levels_is_one_slide(folder: Path) -> None:
    assert find_slides([folder.parent]) == [folder]
    slide = open_slide(folder)
    assert (slide.info.name, slide.info.vendor) == ("case", "dicom")
    assert slide.info.level_sizes == ((256, 200), (128, 100))
    assert slide.info.resolution.x == pytest.approx(0.5)
    got = slide.read_grid(Affine2D(1, 1, 30, 40), (100, 80)).astype(int)
    assert np.abs(got[..., 0] - np.arange(30, 130)).max() <= 4
    assert np.abs(got[..., 1] - np.arange(40, 120)[:, None]).max() <= 4
    coarse = slide.read_grid(Affine2D(2, 2, 0, 0), (128, 100)).astype(int)
    assert np.abs(coarse[..., 0] - 2 * np.arange(128)).max() <= 4


def test_fingerprint_of_a_dicom_folder_follows_its_files(folder: Path) -> None:
    before = open_slide(folder).info.fingerprint
    (folder / "1.dcm").unlink()
    assert open_slide(folder).info.fingerprint != before


def test_dicom_file_cut_short_fails_where_pixels_are_missing(folder: Path) -> None:
    path = folder / "0.dcm"
    path.write_bytes(path.read_bytes()[:-4000])
    slide = open_slide(folder)
    with pytest.raises(SlideError, match="cannot read the region x=0 y=0 w=256 h=200 of level 0") as caught:
        slide.read_grid(Affine2D(), (256, 200))
    assert "\n" not in str(caught.value)
    assert slide.read_grid(Affine2D(2, 2, 0, 0), (128, 100)).shape == (100, 128, 3)
