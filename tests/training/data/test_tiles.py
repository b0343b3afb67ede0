"""A manifest is read as it is, or refused with all that is wrong with it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wsi_pipeline.errors import DatasetError
from wsi_pipeline.training.data.tiles import open_tiles

GOLDEN = Path(__file__).parents[2] / "golden" / "tiles"


def test_tile_comes_with_its_labels_and_facts(tiles: Any, made: Any) -> None:
    labels = made.blocks(60, 80)
    tiles.add("a", labels, source_id="slide 7", mpp="0.25", split="val", object_class="gland")
    tiles.rows[0] |= {"mpp": "0.25"}
    sample = open_tiles(tiles.write())[0]
    present = np.unique(labels[labels > 0])
    assert sample.high.image.dtype == np.uint8
    assert sample.high.labels.dtype == np.int32
    np.testing.assert_array_equal(sample.high.image, made.painted(labels))
    np.testing.assert_array_equal(sample.high.labels > 0, labels > 0)
    assert sample.classes == ("gland",) * len(present)
    assert (sample.info.source_id, sample.info.mpp, sample.info.split) == ("slide 7", 0.25, "val")
    assert sample.low is None
    assert sample.high.known.all()


def test_labels_with_gaps_are_closed_up(tiles: Any) -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[:5], labels[10:15] = 7, 40000
    tiles.add("a", labels)
    sample = open_tiles(tiles.write())[0]
    assert sample.high.labels[0, 0] == 1
    assert sample.high.labels[12, 0] == 2
    assert len(sample.classes) == 2


def test_unknown_mpp_stays_unknown_and_the_file_name_serves_as_id(tiles: Any) -> None:
    tiles.add("a", mpp="")
    info = open_tiles(tiles.write()).infos[0]
    assert info.mpp is None
    assert info.source_id == "a"


def test_empty_mask_is_a_sample_without_objects(tiles: Any) -> None:
    tiles.add("a", np.zeros((20, 30), np.int32))
    sample = open_tiles(tiles.write())[0]
    assert sample.classes == ()
    assert sample.high.labels.shape == (20, 30)


def test_paths_may_start_at_the_folder_above(tiles: Any) -> None:
    tiles.add("a")
    tiles.rows[0] |= {name: f"{tiles.folder.name}/{tiles.rows[0][name]}" for name in ("file", "mask")}
    assert len(open_tiles(tiles.write() / "manifest.csv")) == 1


def test_grey_and_transparent_images_become_rgb(tiles: Any) -> None:
    tiles.add("grey", image=np.full((60, 80), 9, np.uint8))
    tiles.add("alpha", image=np.full((60, 80, 4), 9, np.uint8))
    source = open_tiles(tiles.write())
    assert [sample.high.image.shape for sample in source] == [(60, 80, 3)] * 2


def test_real_tiles_are_read(tiles: Any) -> None:
    for name in ("dsb_4193474b", "dsb_65c8527c_0"):
        with Image.open(GOLDEN / f"{name}.png") as image, Image.open(GOLDEN / f"{name}.mask.png") as mask:
            tiles.add(name, np.array(mask), np.array(image.convert("RGB")))
    source = open_tiles(tiles.write())
    assert [len(sample.classes) for sample in source] == [9, 259]


def test_source_travels_to_workers(tiles: Any) -> None:
    tiles.add("a")
    source = open_tiles(tiles.write())
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    np.testing.assert_array_equal(copy[0].high.labels, source[0].high.labels)


def no_image(tiles: Any) -> None:
    (tiles.folder / "b.png").unlink()


def no_mask(tiles: Any) -> None:
    (tiles.folder / "b.mask.png").unlink()


def text_image(tiles: Any) -> None:
    (tiles.folder / "b.png").write_text("no image")


def cut_mask(tiles: Any) -> None:
    path = tiles.folder / "b.mask.png"
    path.write_bytes(path.read_bytes()[:-30])


def small_mask(tiles: Any) -> None:
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(tiles.folder / "b.mask.png")


def coloured_mask(tiles: Any) -> None:
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(tiles.folder / "b.mask.png")


def deep_image(tiles: Any) -> None:
    Image.fromarray(np.zeros((60, 80), np.uint16)).save(tiles.folder / "b.png")


def cell(**cells: str) -> Callable[[Any], None]:
    def change(tiles: Any) -> None:
        tiles.rows[1] |= cells

    return change


WRONG = {
    "no image": (no_image, r"line 3: \S*b.png is missing"),
    "no mask": (no_mask, r"line 3: \S*b.mask.png is missing"),
    "text": (text_image, r"line 3: b.png cannot be read"),
    "cut": (cut_mask, r"line 3: b.mask.png cannot be read"),
    "size": (small_mask, r"line 3: b.mask.png is 8 x 6 px, its image 80 x 60"),
    "colour": (coloured_mask, r"line 3: b.mask.png has mode RGB and is not a label image"),
    "deep": (deep_image, r"line 3: b.png has mode I;16 and is not an 8-bit image"),
    "group": (cell(group=""), "line 3: group is empty"),
    "class": (cell(object_class=" "), "line 3: object_class is empty"),
    "licence": (cell(licence=""), "line 3: licence is empty"),
    "mpp text": (cell(mpp="fine"), "line 3: mpp 'fine' is no positive number"),
    "mpp": (cell(mpp="-1"), "line 3: mpp '-1' is no positive number"),
    "twice": (cell(file="a.png"), "a.png is listed 2 times"),
    "leak": (cell(group="patient a", split="val"), "split leak: group patient a is in train and val"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_said(tiles: Any, wrong: str) -> None:
    change, said = WRONG[wrong]
    tiles.add("a", mpp="")
    tiles.add("b", mpp="")
    change(tiles)
    with pytest.raises(DatasetError, match=said) as caught:
        open_tiles(tiles.write())
    assert str(caught.value).startswith(f"{tiles.folder / 'manifest.csv'}: 1 problem: ")
    assert "\n" not in str(caught.value)


def test_all_problems_are_named_at_once(tiles: Any) -> None:
    tiles.add("a")
    tiles.add("b")
    no_image(tiles)
    small_mask(tiles)
    tiles.rows[1] |= {"group": "patient a", "split": "val", "licence": ""}
    with pytest.raises(DatasetError, match=r"3 problems: .*licence.*b.png is missing.*split leak"):
        open_tiles(tiles.write())


def test_a_message_does_not_list_a_whole_folder(tiles: Any) -> None:
    for number in range(25):
        tiles.add("a", group=f"{number}")
        tiles.rows[-1] |= {"file": f"{number}.png"}
    with pytest.raises(DatasetError, match=r"25 problems: .*; and 5 more"):
        open_tiles(tiles.write())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,mask\n", "has no column split, group, object_class, licence"),
        ("", "has no column file"),
        ("file,mask,split,group,object_class,licence\n", "lists no tiles"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_manifest_that_is_none_is_refused(tmp_path: Path, text: str | bytes, said: str) -> None:
    (tmp_path / "manifest.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DatasetError, match=said):
        open_tiles(tmp_path)


def test_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"cannot be read.*Give a folder with a manifest\.csv"):
        open_tiles(tmp_path)


def test_file_that_goes_later_is_an_error_of_its_own(tiles: Any) -> None:
    tiles.add("b")
    source = open_tiles(tiles.write())
    no_mask(tiles)
    with pytest.raises(DatasetError, match=r"b\.png: cannot be read"):
        source[0]
