"""Masks that are drawn, and compared, in windows around boxes only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.spread import spread
from wsi_pipeline.training.batches import View, windows_around
from wsi_pipeline.training.epochs import chunks
from wsi_pipeline.training.prompt_simulation import KindWeights, PromptRecipe, PromptSimulator

NOTHING = EncoderOutput(torch.zeros(1), torch.zeros(1))


@st.composite
def boxes(draw: st.DrawFn) -> torch.Tensor:
    """(B, P, 4) boxes within 256 px."""
    count = draw(st.integers(1, 4))
    corners = [sorted(draw(st.tuples(st.integers(0, 255), st.integers(1, 256)))) for _ in range(2 * 2 * count)]
    box = [[x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)] for (x0, x1), (y0, y1) in zip(*[iter(corners)] * 2, strict=True)]
    return torch.tensor(box, dtype=torch.float32).view(2, count, 4)


@given(boxes(), st.floats(0, 1))
def test_windows_of_one_side_hold_their_boxes_and_margins(boxes: torch.Tensor, margin: float) -> None:
    windows = windows_around(boxes, margin, 256)
    for cells, axis in ((windows.columns, 0), (windows.rows, 1)):
        first, last = 4 * cells[..., 0], 4 * cells[..., -1] + 4
        grown = margin * (boxes[..., axis + 2] - boxes[..., axis])
        assert (first <= (boxes[..., axis] - grown).clamp(min=0)).all()
        assert (last >= (boxes[..., axis + 2] + grown).clamp(max=256)).all()
        assert (cells.diff(dim=-1) == 1).all()
        assert cells.min() >= 0
        assert cells.max() <= 63


@given(boxes())
def test_targets_of_windows_are_cut_from_those_of_the_patch(boxes: torch.Tensor) -> None:
    b, p = boxes.shape[:2]
    targets = torch.arange(b * p * 256 * 256, dtype=torch.float32).view(b, p, 256, 256)
    known = (targets[:, :1] % 3) > 0
    windows = windows_around(boxes, 0.5, 256)
    cut = View(NOTHING, targets, known).within(windows)
    image, prompt = b - 1, p - 1
    rows, columns = (slice(4 * int(of[image, prompt, 0]), 4 * int(of[image, prompt, -1]) + 4) for of in windows)
    assert torch.equal(cut.targets[image, prompt], targets[image, prompt, rows, columns])
    assert torch.equal(cut.known[image, prompt], known[image, 0, rows, columns])


def test_without_windows_all_of_the_patch_counts() -> None:
    view = View(NOTHING, torch.zeros(1, 2, 256, 256), torch.ones(1, 1, 256, 256, dtype=torch.bool))
    assert view.within(None) is view


@pytest.mark.parametrize(("to_edges", "far"), [(True, [41, 31]), (False, [40, 30])])
def test_boxes_end_at_the_px_edges_in_use_and_at_px_numbers_as_published(to_edges: bool, far: list[int]) -> None:
    targets = torch.zeros(1, 1, 64, 64)
    targets[..., 10:31, 20:41] = 1
    recipe = PromptRecipe(KindWeights(1, 0, 0), KindWeights(1, 0, 0), to_edges=to_edges)
    prompts = PromptSimulator(recipe).of_kinds(["box"], targets, torch.Generator())
    assert prompts.boxes is not None
    assert prompts.boxes[0, 0].tolist() == [20, 10, *far]


def test_objects_to_judge_by_are_spread_over_all() -> None:
    assert spread(list(range(9)), None) == list(range(9))
    assert spread(list(range(9)), 3) == [0, 4, 8]
    assert chunks(np.arange(5).tolist(), 2) == [[0, 1], [2, 3], [4]]
