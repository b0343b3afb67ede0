"""Which slides are meant by files, folders and globs."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slides.find import find_slides, slide_name


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for name in ("b.svs", "a.ome.tif", "C.NDPI", "notes.txt", ".hidden.svs", "m.mrxs", "fake.zarr", "deep/d.svs"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("m/Slidedat.ini", "m/Data0000.dat", "z.ome.zarr/zarr.json", "z.ome.zarr/0.png", "dicom/1.dcm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "dicom" / "2.DCM").touch()
    return tmp_path


def names(paths: list[Path], root: Path) -> list[str]:
    return [p.relative_to(root).as_posix() for p in paths]


def test_folder_stands_for_the_slides_in_it(archive: Path) -> None:
    found = names(find_slides([archive]), archive)
    assert found == ["C.NDPI", "a.ome.tif", "b.svs", "dicom", "m.mrxs", "z.ome.zarr"]


def test_folders_that_are_slides_are_one_slide(archive: Path) -> None:
    assert find_slides([archive / "dicom"]) == [archive / "dicom"]
    assert find_slides([archive / "z.ome.zarr"]) == [archive / "z.ome.zarr"]


def test_glob_goes_deep_but_not_into_slides(archive: Path) -> None:
    assert names(find_slides([f"{archive}/**/*.svs"]), archive) == ["b.svs", "deep/d.svs"]
    everything = names(find_slides([f"{archive}/**"]), archive)
    assert everything == ["C.NDPI", "a.ome.tif", "b.svs", "deep/d.svs", "dicom", "m.mrxs", "z.ome.zarr"]
    assert names(find_slides([f"{archive}/dicom/*.dcm"]), archive) == ["dicom"]


def test_slide_given_twice_comes_once(archive: Path) -> None:
    assert len(find_slides([archive / "b.svs", str(archive / "b.svs"), f"{archive}/b.*"])) == 1


def test_missing_file_is_left_to_whoever_opens_it(tmp_path: Path) -> None:
    assert find_slides([tmp_path / "gone.svs"]) == [tmp_path / "gone.svs"]


def test_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1].svs").touch()
    assert find_slides([tmp_path / "a[1].svs"]) == [tmp_path / "a[1].svs"]


def test_images_of_a_vms_slide_are_no_slides(tmp_path: Path) -> None:
    (tmp_path / "a.vms").write_text("[Virtual Microscope Specimen]\nImageFile=a.jpg\nMacroImage=a_macro.jpg\n")
    for name in ("a.jpg", "a_macro.jpg", "other.jpg"):
        (tmp_path / name).touch()
    assert names(find_slides([tmp_path]), tmp_path) == ["a.vms", "other.jpg"]


def test_dicom_file_lying_among_slides_does_not_make_the_folder_a_slide(tmp_path: Path) -> None:
    (tmp_path / "a.svs").touch()
    (tmp_path / "stray.dcm").touch()
    assert names(find_slides([tmp_path]), tmp_path) == ["a.svs"]


@pytest.mark.parametrize("given", ["", "*.svs"])
def test_nothing_found_is_an_error_that_names_what_was_given(tmp_path: Path, given: str) -> None:
    with pytest.raises(SlideError, match="no slide"):
        find_slides([f"{tmp_path}/{given}"])


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("x/a.svs", "a"),
        ("a.OME.TIFF", "a"),
        ("a.ome.zarr", "a"),
        ("a.b.tif", "a.b"),
        ("folder", "folder"),
        ("a.ome.tif/", "a"),
        ("archive/.svs", ".svs"),
    ],
)
def test_name_has_no_slide_suffix(path: str, name: str) -> None:
    assert slide_name(path) == name
