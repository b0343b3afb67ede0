"""Levels of granularity as settings say them."""

import pytest
from pydantic import TypeAdapter, ValidationError

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.granularity import Levels, level_classes
from wsi_pipeline.run.checks import check_models
from wsi_pipeline.workflow import change_workflow, load_workflow

LEVELS = TypeAdapter(Levels)


@pytest.mark.parametrize(
    ("value", "levels"),
    [
        (None, ()),
        (3, ((3, None),)),
        ("3", ((3, None),)),
        ({6: "Nucleus", 2: "Gland"}, ((2, "Gland"), (6, "Nucleus"))),
        ({"4": None}, ((4, None),)),
        ("all", tuple((level, f"Level {level}") for level in range(1, 7))),
    ],
)
def test_levels_come_coarsest_first(value, levels) -> None:
    assert LEVELS.validate_python(value) == levels


@pytest.mark.parametrize(
    "value", [0, 7, -1, 2.5, True, "many", {2: None, 3: "Cell"}, {1: " ", 2: "Cell"}, {9: "a"}, [1]]
)
def test_what_is_no_level_is_refused_with_what_there_is(value) -> None:
    with pytest.raises(ValidationError, match=r"is not a level from 1 \(coarsest\) to 6 \(finest\)"):
        LEVELS.validate_python(value)


def test_levels_survive_being_written_down() -> None:
    workflow = load_workflow("nuclei", {"segment.granularity": {2: "Gland", 6: "Nucleus"}})
    assert change_workflow(workflow, {"mpp": "1 um/px"}).segment.granularity == workflow.segment.granularity
    assert level_classes(workflow.segment.granularity) == ("Gland", "Nucleus")


def test_several_levels_are_nested_unless_told_otherwise() -> None:
    assert not load_workflow("nuclei", {"segment.granularity": 3}).nested
    assert load_workflow("nuclei", {"segment.granularity": "all"}).nested
    assert not load_workflow("nuclei", {"segment.granularity": "all", "stitch.nested": False}).nested


def test_a_model_without_levels_is_refused() -> None:
    workflow = load_workflow("nuclei", {"segment.granularity": 3, "segment.model": "sam"})
    with pytest.raises(WorkflowError, match="sam knows no levels of granularity"):
        check_models(workflow)
