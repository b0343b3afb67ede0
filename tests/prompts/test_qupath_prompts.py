"""QuPath annotations become the prompts a person meant."""

import json

import numpy as np
import pytest
import shapely

from wsi_pipeline.errors import GeoJSONError, PromptError
from wsi_pipeline.geometry import Region, Resolution
from wsi_pipeline.prompts.qupath import POINTS_PER_LINE, is_rectangle, read_qupath_prompts
from wsi_pipeline.slides.info import SlideInfo
from wsi_pipeline.workflow import QuPathPrompts

_ID = "7c3c9f0e-6c1e-4c2e-9a63-0d6f4a0b7f{:02x}"


def _info(bounds: Region | None = None) -> SlideInfo:
    return SlideInfo(
        path="slide.svs",
        name="slide",
        width=1000,
        height=800,
        resolution=Resolution(0.5, 0.5),
        mpp_source="property",
        bounds=bounds or Region(0, 0, 1000, 800),
        has_bounds=bounds is not None,
        level_sizes=((1000, 800),),
        reader="openslide",
        vendor="test",
        fingerprint="0",
    )


def _feature(geometry, class_name=None, number=None, **properties):
    if class_name:
        properties["classification"] = {"name": class_name, "color": [9, 8, 7]}
    feature = {
        "type": "Feature",
        "geometry": geometry if isinstance(geometry, dict) else json.loads(shapely.to_geojson(geometry)),
        "properties": {"objectType": "annotation", **properties},
    }
    return feature if number is None else {**feature, "id": _ID.format(number)}


def _read(folder, *features, info=None, settings=None, origin="auto", **members):
    path = folder / "prompts.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", **members, "features": list(features)}))
    return read_qupath_prompts(path, info or _info(), settings or QuPathPrompts(source="qupath"), origin)


_BLOB = shapely.Point(300, 300).buffer(40)


def test_shapes_become_points_boxes_and_masks(tmp_path):
    prompts = _read(
        tmp_path,
        _feature(shapely.Point(10, 20)),
        _feature(shapely.MultiPoint([(10, 20), (30, 40), (50, 60)])),
        _feature(shapely.box(100, 100, 200, 150)),
        _feature(_BLOB),
        _feature(shapely.LineString([(0, 0), (80, 0)])),
    ).prompts
    assert [prompt.kind for prompt in prompts] == ["point", "point", "box", "mask", "point"]
    assert [len(prompt.positive) for prompt in prompts] == [1, 3, 0, 0, POINTS_PER_LINE]
    assert prompts[2].box == (100, 100, 200, 150)
    assert prompts[4].positive[:, 0].tolist() == [5, 15, 25, 35, 45, 55, 65, 75]


def test_where_points_alone_are_wanted_the_rest_is_left_out_with_a_warning(tmp_path):
    alone = QuPathPrompts(source="qupath", points_only=True)
    features = _feature(shapely.Point(10, 20)), _feature(_BLOB), _feature(shapely.box(100, 100, 200, 150))
    found = _read(tmp_path, *features, settings=alone)
    assert [prompt.kind for prompt in found.prompts] == ["point"]
    assert found.warnings == ["prompts.geojson: 2 outlines or rectangles are no points and are left out"]
    with pytest.raises(PromptError, match="holds no points"):
        _read(tmp_path, *features[1:], settings=alone)


def test_every_line_of_a_multi_line_gets_points(tmp_path):
    lines = {"type": "MultiLineString", "coordinates": [[[0, 0], [8, 0]], [[0, 100], [80, 100]]]}
    (prompt,) = _read(tmp_path, _feature(lines)).prompts
    assert [int((prompt.positive[:, 1] == y).sum()) for y in (0, 100)] == [POINTS_PER_LINE] * 2


def test_facts_of_the_annotation_are_kept(tmp_path):
    result = _read(
        tmp_path,
        _feature(
            _BLOB,
            "Gland",
            number=1,
            name="g1",
            color=[1, 2, 3],
            isLocked=True,
            metadata={"by": "me"},
            measurements={"a": 2},
        ),
        _feature(_BLOB, number=2, objectType="cell"),
        settings=QuPathPrompts(source="qupath", class_name="Cell"),
    )
    first, second = result.prompts
    assert (first.id, first.class_name, first.name, first.color, first.locked) == (
        _ID.format(1),
        "Gland",
        "g1",
        (1, 2, 3),
        True,
    )
    assert (first.object_type, first.metadata, first.measurements) == ("annotation", {"by": "me"}, {"a": 2.0})
    assert (second.class_name, second.object_type) == ("Cell", "detection")
    assert result.class_colors == {"Gland": (9, 8, 7)}


def test_an_ellipse_is_an_outline_even_when_it_is_stored_as_a_rectangle(tmp_path):
    rectangle = json.loads(shapely.to_geojson(shapely.box(100, 100, 200, 150)))
    (prompt,) = _read(tmp_path, _feature({**rectangle, "isEllipse": True})).prompts
    assert prompt.kind == "mask"


def test_outlines_are_boxes_when_outlines_are_not_wanted(tmp_path):
    (prompt,) = _read(tmp_path, _feature(_BLOB), settings=QuPathPrompts(source="qupath", use_outline=False)).prompts
    assert prompt.kind == "box"


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (shapely.box(0, 0, 2, 3), True),
        (shapely.Polygon([(0, 0), (2, 0), (2, 3), (1, 3)]), False),
        (shapely.Polygon([(0, 1), (1, 0), (2, 1), (1, 2)]), False),
        (shapely.box(0, 0, 9, 9) - shapely.box(3, 3, 5, 5), False),
    ],
)
def test_only_upright_rectangles_are_rectangles(shape, expected):
    assert is_rectangle(shape) is expected


def test_negative_points_go_to_the_nearest_prompt(tmp_path):
    near, far = _read(
        tmp_path,
        _feature(shapely.Point(100, 100), "Tumor"),
        _feature(shapely.box(500, 500, 600, 600)),
        _feature(shapely.MultiPoint([(110, 100), (490, 550)]), "Ignore*"),
        _feature(shapely.Point(120, 90), "Negative"),
    ).prompts
    assert near.negative.tolist() == [[110, 100], [120, 90]]
    assert far.negative.tolist() == [[490, 550]]


def test_a_negative_point_between_equally_near_prompts_goes_to_the_first(tmp_path):
    first, second = _read(
        tmp_path,
        _feature(shapely.Point(100, 100)),
        _feature(shapely.Point(300, 100)),
        _feature(shapely.Point(200, 100), "Ignore*"),
    ).prompts
    assert (len(first.negative), len(second.negative)) == (1, 0)


def test_negative_classes_come_from_the_settings(tmp_path):
    settings = QuPathPrompts(source="qupath", negative_classes=["Not this"])
    (prompt,) = _read(
        tmp_path,
        _feature(shapely.Point(1, 1), "Negative"),
        _feature(shapely.Point(5, 5), "Not  this"),
        settings=settings,
    ).prompts
    assert prompt.class_name == "Negative"
    assert prompt.negative.tolist() == [[5, 5]]


def test_regions_limit_the_run_and_are_no_prompts(tmp_path):
    result = _read(
        tmp_path,
        _feature(shapely.box(0, 0, 200, 200), "Region*"),
        _feature(shapely.box(100, 100, 300, 300), name="Region*"),
        _feature(shapely.Point(250, 250), number=1),
        _feature(shapely.Point(700, 700), number=2),
    )
    assert result.rois.area == 200**2 * 2 - 100**2
    assert [prompt.id for prompt in result.prompts] == [_ID.format(1)]
    assert any("1 prompts lie outside the regions of interest" in line for line in result.warnings)


def test_without_regions_the_whole_slide_counts(tmp_path):
    assert _read(tmp_path, _feature(_BLOB)).rois is None


def test_regions_alone_are_enough(tmp_path):
    result = _read(tmp_path, _feature(shapely.box(0, 0, 200, 200), "Region*"))
    assert len(result) == 0
    assert result.rois.area == 40_000


def test_bounds_are_added_where_qupath_crops(tmp_path):
    info = _info(Region(100, 50, 700, 600))
    for origin, expected in (("auto", 110), ("bounds", 110), ("full", 10)):
        (prompt,) = _read(tmp_path, _feature(shapely.Point(10, 20)), info=info, origin=origin).prompts
        assert prompt.positive[0, 0] == expected
        assert prompt.geometry.x == expected


def test_a_file_of_ours_says_its_own_origin(tmp_path):
    info = _info(Region(100, 50, 700, 600))
    (prompt,) = _read(tmp_path, _feature(shapely.Point(10, 20)), info=info, wsi_pipeline={"origin": "full"}).prompts
    assert prompt.positive.tolist() == [[10, 20]]


def test_prompts_outside_the_slide_are_counted_and_the_first_is_named(tmp_path):
    result = _read(
        tmp_path,
        _feature(_BLOB),
        _feature(shapely.Point(5000, 10), number=7),
        _feature(shapely.box(-50, -50, -10, -10)),
        _feature(shapely.box(-50, -50, 10, 10)),
    )
    assert len(result) == 2
    assert any("2 objects lie outside the slide" in line for line in result.warnings)
    assert any(_ID.format(7) in line for line in result.warnings)


def test_all_prompts_outside_is_an_error_that_names_the_feature(tmp_path):
    with pytest.raises(PromptError, match=r"features\[0\] .*lies outside the slide slide \(1000 x 800 px\)"):
        _read(tmp_path, _feature(shapely.Point(5000, 10)), _feature(shapely.Point(1, -5)))


def test_nothing_to_ask_for_is_an_error(tmp_path):
    with pytest.raises(PromptError, match="holds no prompts"):
        _read(tmp_path)
    with pytest.raises(PromptError, match="holds negative points only"):
        _read(tmp_path, _feature(shapely.Point(1, 1), "Ignore*"))


def test_outlines_of_a_negative_class_and_points_of_an_roi_class_are_left_out_with_a_warning(tmp_path):
    result = _read(
        tmp_path, _feature(_BLOB), _feature(_BLOB, "Ignore*"), _feature(shapely.Point(1, 1), "Region*"), _feature({})
    )
    assert len(result) == 1
    assert len(result.warnings) == 3


def test_ids_are_made_up_the_same_every_time_and_never_twice(tmp_path):
    features = [_feature(_BLOB), _feature(_BLOB), _feature(_BLOB, number=1), _feature(_BLOB, number=1)]
    ids = [prompt.id for prompt in _read(tmp_path, *features).prompts]
    assert len(set(ids)) == 4
    assert ids == [prompt.id for prompt in _read(tmp_path, *features).prompts]
    assert ids[2] == _ID.format(1)


def test_a_bow_tie_is_mended_with_a_warning(tmp_path):
    bow_tie = {"type": "Polygon", "coordinates": [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]}
    result = _read(tmp_path, _feature(bow_tie))
    assert result.prompts[0].geometry.is_valid
    assert any("mended" in line for line in result.warnings)


def test_a_broken_feature_is_named(tmp_path):
    with pytest.raises(GeoJSONError, match=r"features\[1\]"):
        _read(tmp_path, _feature(_BLOB), _feature({"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0]]]}))


def test_many_prompts_and_negatives_are_matched_at_once(tmp_path):
    grid = np.stack(np.meshgrid(np.arange(50, 950, 30), np.arange(50, 750, 30)), -1).reshape(-1, 2)
    prompts = _read(
        tmp_path,
        *[_feature(shapely.Point(*xy)) for xy in grid],
        _feature(shapely.MultiPoint(grid + 5), "Ignore*"),
    ).prompts
    assert all((prompt.negative == prompt.positive + 5).all() for prompt in prompts)


def test_what_was_nested_says_in_which_object(tmp_path):
    inner = _feature(shapely.Point(30, 30).buffer(5), "Nucleus", 2)
    outer = _feature(shapely.Point(30, 30).buffer(20), "Gland", 1, childObjects=[inner])
    prompts = {prompt.class_name: prompt for prompt in _read(tmp_path, outer).prompts}
    assert prompts["Nucleus"].metadata["parent_id"] == prompts["Gland"].id == _ID.format(1)
    assert "parent_id" not in prompts["Gland"].metadata
