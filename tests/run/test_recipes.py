"""Slides of one archive may differ in their settings; models are made ready once for all that share them."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.run.recipes import make_ready, models_part, name_models
from wsi_pipeline.workflow import change_workflow, load_workflow

CHANGE = partial(change_workflow, load_workflow("nuclei"))


def test_models_follow_from_their_sections_alone() -> None:
    settings = (("prompts.threshold", 1.2), ("segment.model", "sam"), ("tissue.mask", "a.png"), ("tiling.batch", 4))
    assert models_part(settings) == (("prompts.threshold", 1.2), ("segment.model", "sam"))


def test_thousand_slides_with_masks_of_their_own_share_the_models() -> None:
    own_masks = [(("tissue.mask", f"{n}.png"), ("tissue.method", "mask")) for n in range(1000)]
    models = name_models([(), *own_masks, (("segment.model", "sam"),)], CHANGE)
    assert list(models) == [(), (("segment.model", "sam"),)]
    assert models[()].workflow == load_workflow("nuclei")
    assert models[("segment.model", "sam"),].workflow.segment.model == "sam"
    assert {fact["stage"] for fact in models[()].weights} == {"segment"}


def test_models_that_cannot_be_used_are_refused_before_anything_runs() -> None:
    with pytest.raises(WorkflowError, match="no-such"):
        name_models([(("segment.model", "no-such"),)], CHANGE)


class Flow:
    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []

    def call(self, function: Any, workflow: Any, dtypes: dict[str, str], **options: Any) -> dict[str, Any]:
        self.asked.append(dtypes)
        return {"dtypes": dtypes or {"segment": "bf16"}, "input_size": 256}


def test_precision_that_a_run_began_with_is_kept_for_each_of_its_models() -> None:
    models = name_models([(), (("segment.model", "sam"),)], CHANGE)
    flow: Any = Flow()
    told = [make_ready(flow, one, {})[1] for one in models.values()]
    assert flow.asked == [{}, {}]
    earlier = told[0] | {"changed": [told[1] | {"model": {"dtypes": {"segment": "fp32"}}}]}
    ready = [make_ready(flow, one, earlier)[0] for one in models.values()]
    assert [recipe.dtypes for recipe in ready] == [{"segment": "bf16"}, {"segment": "fp32"}]
    assert ready[0].key != ready[1].key
    assert ready[0].input_size == 256


def test_workflow_without_a_model_asks_no_worker() -> None:
    (models,) = name_models([()], partial(change_workflow, load_workflow("tissue"))).values()
    recipe, told = make_ready(SimpleNamespace(), models, {})  # type: ignore[arg-type]
    assert (recipe.dtypes, recipe.input_size, told["model"]) == ({}, 0, {})
