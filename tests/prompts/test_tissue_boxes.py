from __future__ import annotations

import uuid

import numpy as np
import pytest

from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.prompts.tissue_boxes import tissue_box_prompts
from wsi_pipeline.tissue.mask import TissueMask
from wsi_pipeline.workflow import TissueBoxPrompts


def mask_of(*pieces: tuple[int, int, int, int]) -> TissueMask:
    tissue = np.zeros((40, 60), bool)
    for x0, y0, x1, y1 in pieces:
        tissue[y0:y1, x0:x1] = True
    return TissueMask(PixelGrid(60, 40, Affine2D(16, 32, 100, 200), 8.0), tissue)


def prompts_of(mask: TissueMask, margin: str = "0 um", class_name: str | None = "Tissue"):
    settings = TissueBoxPrompts.model_validate({"source": "tissue-boxes", "margin": margin, "class": class_name})
    return tissue_box_prompts(mask, settings).prompts


def test_one_box_per_piece_from_top_to_bottom() -> None:
    prompts = prompts_of(mask_of((30, 20, 40, 30), (5, 2, 10, 8)))
    assert [p.box for p in prompts] == [(180, 264, 260, 456), (580, 840, 740, 1160)]
    assert {p.kind for p in prompts} == {"box"}
    assert {p.class_name for p in prompts} == {"Tissue"}


def test_pieces_that_touch_at_a_corner_are_one() -> None:
    assert len(prompts_of(mask_of((5, 5, 10, 10), (10, 10, 15, 15)))) == 1


def test_margin_is_in_microns_and_ends_with_the_mask() -> None:
    (inner,) = prompts_of(mask_of((10, 10, 20, 20)), "24 um")
    assert inner.box == (100 + 7 * 16, 200 + 7 * 32, 100 + 23 * 16, 200 + 23 * 32)
    (outer,) = prompts_of(mask_of((1, 1, 59, 39)), "1 mm")
    assert outer.box == pytest.approx(mask_of().grid.region.bounds)


def test_ids_are_uuids_that_follow_from_the_boxes() -> None:
    mask = mask_of((30, 20, 40, 30), (5, 2, 10, 8))
    first, again = ([p.id for p in prompts_of(mask)] for _ in range(2))
    assert first == again
    assert len({uuid.UUID(i) for i in first}) == 2
    assert first[1:] == [p.id for p in prompts_of(mask_of((30, 20, 40, 30)))]


def test_no_tissue_no_prompts() -> None:
    assert prompts_of(mask_of()) == []
