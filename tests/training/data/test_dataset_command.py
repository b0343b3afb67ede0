"""``dataset inspect`` counts, draws, and says what is wrong in one line."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from PIL import Image

from wsi_pipeline.training.data.samples import Picture
from wsi_pipeline.training.data.sheet import outlined


def filled(tiles: Any) -> Any:
    tiles.add("a")
    tiles.add("b", split="val", licence="CC-BY-4.0", object_class="gland")
    tiles.add("c", np.zeros((60, 80), np.int32))
    return tiles.write()


def test_inspect_counts_and_draws(tools: Any, tiles: Any) -> None:
    folder = filled(tiles)
    sheet = folder / "sheet.png"
    result = tools.call("dataset", "inspect", folder, "--output", sheet, "--augment", 2, "--size", 64)
    assert result.code == 0, result.err
    cells = [re.split(r" *[│|] *", line.strip("│| ")) for line in result.out.splitlines() if re.match("[│|]", line)]
    assert [row[:3] for row in cells] == [
        ["train", "nucleus", "CC0-1.0"],
        ["val", "gland", "CC-BY-4.0"],
        ["all", "", ""],
    ]
    assert [[row[3], row[4], row[6]] for row in cells] == [["2", "1", "2"], ["1", "0", "1"], ["3", "1", "3"]]
    assert f"sheet: {sheet}" in result.out
    with Image.open(sheet) as image:
        # three samples, each with two pairs beside it
        assert image.size == (5 * (240 + 6) + 6, 3 * (254 + 6) + 6)


def test_sheet_without_variants_is_a_grid(tools: Any, tiles: Any) -> None:
    folder = filled(tiles)
    result = tools.call_here("dataset", "inspect", folder, "-o", folder / "s.png", "--samples", 2)
    assert result.code == 0, result.err
    with Image.open(folder / "s.png") as image:
        assert image.size == (2 * (240 + 6) + 6, 254 + 6 + 6)


def test_errors_are_one_line_and_code_2(tools: Any, tiles: Any) -> None:
    folder = filled(tiles)
    (folder / "a.png").unlink()
    (folder / "b.mask.png").unlink()
    result = tools.call_here("dataset", "inspect", folder)
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert re.match(r"error: .*manifest\.csv: 2 problems: line 2: .*a\.png.*line 3: .*b\.mask\.png", result.err)
    assert tools.call_here("dataset", "inspect", folder / "nowhere").code == 2


def test_sheet_that_cannot_be_written_is_an_error(tools: Any, tiles: Any) -> None:
    folder = filled(tiles)
    result = tools.call_here("dataset", "inspect", folder, "-o", folder / "no" / "s.png")
    assert result.code == 2
    assert "cannot be written" in result.err


def test_touching_objects_have_outlines_of_different_colours() -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[10:30, 10:20], labels[10:30, 20:30] = 1, 2
    image = np.full((40, 40, 3), 100, np.uint8)
    known = np.ones((40, 40), bool)
    known[:, :5] = False
    drawn = np.asarray(outlined(Picture(image, labels, known), 40))
    assert (drawn[20, 19] != drawn[20, 20]).any()
    assert (drawn[20, 15] == 100).all()
    assert (drawn[20, 2] == 50).all()
