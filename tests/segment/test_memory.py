from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import shapely

from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.prompts.prompt import Prompt
from wsi_pipeline.segment.dense import segment_batch
from wsi_pipeline.segment.memory import Fitting, fitting, in_halves
from wsi_pipeline.segment.prompted import segment_prompts
from wsi_pipeline.tiling.plan import TilePlan

GRID = PixelGrid(200, 150, Affine2D(), 0.5)
ELLIPSES = [(30 + 45 * i, 30 + 45 * j, 9, 7 + i) for i in range(4) for j in range(3)]


class OutOfMemoryError(RuntimeError):
    """Named like the error of a GPU framework."""


@pytest.fixture
def small(fakes):
    class Small(fakes.segmenter):
        def encode(self, pairs):
            if len(pairs) > 2:
                raise OutOfMemoryError("out of memory")
            return super().encode(pairs)

    return Small()


def three_fit() -> tuple[Callable[[Sequence[int]], list[int]], list[int]]:
    """Work that doubles numbers, at most three at once, and the list of how many it was given."""
    sizes: list[int] = []

    def work(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        if len(items) > 3:
            raise MemoryError
        return [2 * item for item in items]

    return work, sizes


def test_work_is_halved_until_it_fits_and_keeps_its_order() -> None:
    work, sizes = three_fit()
    assert in_halves(work, range(10)) == [2 * item for item in range(10)]
    assert sizes == [10, 5, 2, 3, 5, 2, 3]


def test_what_fits_is_remembered_by_whoever_is_asked_to() -> None:
    work, sizes = three_fit()
    known = Fitting()
    with fitting(known):
        in_halves(work, range(10))
        assert known.most == 2
        sizes.clear()
        assert in_halves(work, range(7)) == [2 * item for item in range(7)]
    assert sizes == [2, 2, 2, 1]
    sizes.clear()
    in_halves(work, range(5))
    assert sizes[0] == 5, "outside it is not known"


def test_a_single_item_that_does_not_fit_and_other_errors_are_raised() -> None:
    def too_large(items) -> list[int]:
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        in_halves(too_large, [1, 2, 3])

    def broken(items) -> list[int]:
        assert len(items) == 3, "was halved"
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        in_halves(broken, [1, 2, 3])


def test_a_batch_of_tiles_that_does_not_fit_gives_the_same_objects(fakes, workflow, small) -> None:
    plan = TilePlan(GRID, 64, 32, np.ones(TilePlan.shape(GRID, 64, 32), bool), 4)
    slide = fakes.slide(ELLIPSES, 200, 150)
    expected = segment_batch(slide, plan, 0, fakes.segmenter(), fakes.prompter(), workflow(), 1)
    halved = segment_batch(slide, plan, 0, small, fakes.prompter(), workflow(), 1)
    assert len(small.encoded) > 2
    for name in ("bbox", "bits", "tile", "detection", "logits"):
        np.testing.assert_array_equal(getattr(halved, name), getattr(expected, name))


def test_prompts_whose_pairs_do_not_fit_give_the_same_objects(fakes, workflow, small) -> None:
    slide = fakes.slide(ELLIPSES, 200, 150)
    prompts = [
        Prompt(f"{n}", "box", shapely.box(x - a, y - b, x + a, y + b)) for n, (x, y, a, b) in enumerate(ELLIPSES)
    ]
    expected, _ = segment_prompts(slide, prompts, GRID, fakes.segmenter(), workflow("qupath"), {})
    halved, issues = segment_prompts(slide, prompts, GRID, small, workflow("qupath"), {})
    assert issues == []
    assert len(small.encoded) > 2
    np.testing.assert_array_equal(halved.bbox, expected.bbox)
    np.testing.assert_array_equal(halved.bits, expected.bits)
