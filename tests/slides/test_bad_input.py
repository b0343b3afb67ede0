"""Files that are no slides: one clear line each."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slides.slide import open_slide, slide_handle

Writer = Callable[..., Path]
Pixels = Callable[..., np.ndarray]


def message_of(path: Path) -> str:
    with pytest.raises(SlideError) as caught:
        open_slide(path, mpp=0.5)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_missing_file(tmp_path: Path) -> None:
    assert "no such file" in message_of(tmp_path / "a.svs")
    with pytest.raises(SlideError, match="no such file"):
        slide_handle(tmp_path / "a.svs")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.svs").touch()
    assert "empty file" in message_of(tmp_path / "a.svs")


@pytest.mark.parametrize("name", ["a.svs", "a.tif", "a.png", "a.dcm", "a"])
def test_text_file_under_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("patient,slide\n1,2\n")
    assert "slide" in message_of(tmp_path / name)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.svs"
    path.write_bytes(b"II*\0")
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything

        def refuse(self: Path, *args: object, **options: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
    assert "permission denied" in message_of(path)


def test_mrxs_without_its_folder_is_not_taken_for_its_preview(tmp_path: Path, pixels: Pixels) -> None:
    Image.fromarray(pixels(20, 20)).save(tmp_path / "a.mrxs", format="JPEG")
    assert "Slidedat.ini" in message_of(tmp_path / "a.mrxs")


def test_image_under_a_slide_suffix(tmp_path: Path, pixels: Pixels) -> None:
    Image.fromarray(pixels(20, 20)).save(tmp_path / "a.svs", format="PNG")
    assert "Name it .png or .jpg" in message_of(tmp_path / "a.svs")


def test_plain_folder_and_companion_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert "is a folder and no slide" in message_of(tmp_path / "a")
    (tmp_path / "a.mrxs").touch()
    assert "Give a.mrxs" in message_of(tmp_path / "a")


def test_folder_of_dicom_files_that_are_no_slide(tmp_path: Path) -> None:
    (tmp_path / "scan.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 100)
    assert "none of them is a slide" in message_of(tmp_path)


def test_fingerprint_follows_the_pixels_and_not_the_place(ome_tiff: Writer, ngff: Writer, pixels: Pixels) -> None:
    path = ome_tiff([pixels(64, 64)])
    first = open_slide(path).info.fingerprint
    copy = path.with_name("copy.ome.tif")
    copy.write_bytes(path.read_bytes())
    assert open_slide(copy).info.fingerprint == first
    assert open_slide(ome_tiff([pixels(64, 64, seed=1)])).info.fingerprint != first
    folder = ngff([pixels(64, 64)])
    second = open_slide(folder).info.fingerprint
    ngff([pixels(64, 64, seed=1)])
    assert len({first, second, open_slide(folder).info.fingerprint}) == 3
