"""Workflow files: units, unknown keys, and what ships with the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.workflow import (
    MatcherPrompts,
    Workflow,
    find_workflow,
    load_workflow,
    parse_workflow,
    with_examples,
    workflow_folder,
)

SHIPPED = sorted(path.stem for path in workflow_folder().glob("*.yaml"))
BASE = {"name": "mine", "mpp": 1}


def test_these_workflows_ship() -> None:
    assert SHIPPED == [
        "clicks",
        "everything",
        "find-similar",
        "granularity",
        "name-objects",
        "nuclei",
        "nuclei-decoder",
        "nuclei-lora",
        "points-to-instances",
        "refine-annotations",
        "regions",
        "text-regions",
        "tissue",
    ]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_workflow_is_named_as_its_file_and_survives_writing_and_reading(name: str) -> None:
    workflow = load_workflow(name)
    assert workflow.name == name
    assert workflow.description.endswith(".")
    written = yaml.safe_dump(json.loads(workflow.model_dump_json(by_alias=True)))
    assert parse_workflow(yaml.safe_load(written)) == workflow


LENGTHS = st.floats(0, 1e6, allow_subnormal=False).map(lambda value: float(f"{value:g}"))


@given(LENGTHS, st.sampled_from([("um", 1), ("µm", 1), ("μm", 1), ("mm", 1000)]), st.sampled_from(["", " ", "  "]))
def test_lengths_are_read_with_any_spelling_of_their_unit(value: float, unit: tuple[str, int], gap: str) -> None:
    workflow = parse_workflow(BASE | {"vectorize": {"simplify": f"{value:g}{gap}{unit[0]}"}})
    assert workflow.vectorize.simplify == pytest.approx(value * unit[1])


@given(LENGTHS, st.floats(0.05, 20))
def test_overlap_in_px_and_in_microns_agree_at_the_working_resolution(px: float, mpp: float) -> None:
    in_px = parse_workflow(BASE | {"tiling": {"overlap": f"{px:g} px"}}).tiling.overlap
    in_um = parse_workflow(BASE | {"tiling": {"overlap": f"{px * mpp!r} um"}}).tiling.overlap
    assert in_px.px(mpp) == px
    assert in_um.px(mpp) == pytest.approx(px)


@pytest.mark.parametrize("text", ["30 um2", "30 µm²", "30 um^2", "0.00003 mm2", "3e1 um2"])
def test_areas_are_read(text: str) -> None:
    assert parse_workflow(BASE | {"vectorize": {"min_area": text}}).vectorize.min_area == pytest.approx(30)


@pytest.mark.parametrize("text", ["0.5", "0.5 um", "0.5 um/px", "0.5 µm/px"])
def test_resolution_is_read(text: str) -> None:
    assert parse_workflow(BASE | {"mpp": text}).mpp == 0.5


WRONG = {
    "tiling.overlap: '3 kg' needs the unit px, um or mm": {"tiling": {"overlap": "3 kg"}},
    "tiling.overlap: 'x' is not a number with a unit": {"tiling": {"overlap": "x"}},
    "tiling.overlap: '-3 um' is not a number": {"tiling": {"overlap": "-3 um"}},
    "vectorize.simplify: '3 px' needs the unit um or mm": {"vectorize": {"simplify": "3 px"}},
    "vectorize.min_area: '3 um' needs the unit um2 or mm2": {"vectorize": {"min_area": "3 um"}},
    "mpp: '1 mm' needs the unit um/px": {"mpp": "1 mm"},
    "mpp: Input should be greater than or equal to 0.05": {"mpp": 0.001},
    "unknown key tyling": {"tyling": {}},
    "unknown key stitch.shards": {"stitch": {"shards": 3}},
    "unknown key prompts.grid.diameter": {"prompts": {"source": "grid", "diameter": 3}, "segment": {}},
    "prompts: Input tag 'oracle' found": {"prompts": {"source": "oracle"}, "segment": {}},
    "name: String should match": {"name": "My Workflow"},
    "tiling.batch: Input should be greater than or equal to 1": {"tiling": {"batch": 0}},
    "has a segment section but no prompts": {"segment": {}},
    "has prompts but no segment section": {"prompts": {"source": "grid"}},
    "has a recognise section but no prompts": {"recognise": "ov-sam"},
    "has prompts but no segment section.": {"prompts": {"source": "grid"}, "recognise": "ov-sam"},
    "recognise: classes: a twice": {"prompts": {"source": "qupath"}, "recognise": {"classes": ["a", "a"]}},
    "recognise: background: b is no class": {
        "prompts": {"source": "qupath"},
        "recognise": {"classes": ["a"], "background": "b"},
    },
    "has a learn section, and what learns finds objects by itself": {
        "learn": {},
        "prompts": {"source": "grid"},
        "segment": {},
    },
    "learn.system: Input should be 'sapnet'": {"learn": {"system": "hq-sam"}},
    "stitch.shard must be a multiple of stitch.chunk": {"stitch": {"chunk": 512, "shard": 700}},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_is_named_with_its_key(message: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        parse_workflow(BASE | WRONG[message], where="w.yaml")
    assert str(caught.value).startswith("w.yaml: ")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_several_problems_come_in_one_line() -> None:
    with pytest.raises(WorkflowError) as caught:
        parse_workflow(BASE | {"a": 1, "tiling": {"batch": 0}})
    assert "unknown key a" in str(caught.value)
    assert "tiling.batch" in str(caught.value)


def test_overrides_reach_into_sections_that_are_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("name: mine\nmpp: 1\n")
    workflow = load_workflow(path, {"export.gzip": True, "mpp": 2})
    assert workflow.export.gzip
    assert workflow.mpp == 2
    with pytest.raises(WorkflowError, match="mpp is not a section"):
        load_workflow(path, {"mpp.value": 2})


def test_unknown_names_and_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(
        WorkflowError,
        match=r"no such workflow\. Give a \.yaml file or one of: clicks, everything, find-similar, granul",
    ):
        find_workflow("nuclie")
    with pytest.raises(WorkflowError, match="no such workflow file"):
        find_workflow(tmp_path / "w.yaml")


def test_modes_follow_from_the_prompts() -> None:
    assert not load_workflow("nuclei").prompted
    assert load_workflow("regions").prompted
    assert not load_workflow("tissue").prompted


def test_schema_describes_every_key() -> None:
    schema = Workflow.model_json_schema(by_alias=True)
    assert set(schema["properties"]) == set(load_workflow("nuclei").model_dump())
    assert schema["additionalProperties"] is False


def test_examples_go_to_the_matcher_that_is_there() -> None:
    slide, annotation = Path("a.svs"), Path("gland.geojson")
    finding = with_examples(load_workflow("find-similar", {"segment.matcher": {"top": 3}}), [slide], [annotation])
    assert finding.segment is not None
    assert finding.segment.matcher is not None
    assert finding.segment.matcher.top == 3
    (example,) = finding.segment.matcher.examples
    assert (example.slide, example.annotation) == (slide.absolute(), annotation.absolute())
    asking = parse_workflow(BASE | {"prompts": {"source": "matcher"}, "segment": "wsi-sam"})
    asked = with_examples(asking, [slide], [annotation], mpp=0.25).prompts
    assert isinstance(asked, MatcherPrompts)
    assert asked.examples[0].mpp == 0.25


def test_workflow_is_the_same_without_examples() -> None:
    workflow = load_workflow("nuclei")
    assert with_examples(workflow, [], []) is workflow


@pytest.mark.parametrize(
    ("name", "slides", "annotations", "said"),
    [
        ("find-similar", ["a.svs", "b.svs"], ["a.geojson"], "2 slides with examples have 1 annotations"),
        ("nuclei", ["a.svs"], ["a.geojson"], "takes no examples"),
    ],
)
def test_examples_that_do_not_fit_are_refused(name: str, slides: list, annotations: list, said: str) -> None:
    with pytest.raises(WorkflowError, match=said):
        with_examples(load_workflow(name), [Path(one) for one in slides], [Path(one) for one in annotations])
