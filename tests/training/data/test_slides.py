"""Annotations over a slide: both patches come from the slide, the objects on both from the annotations."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsi_pipeline.errors import DatasetError, GeoJSONError, OutputError, PromptError
from wsi_pipeline.slides.slide import Slide, open_slide
from wsi_pipeline.stitching.ngff import MaskPyramid
from wsi_pipeline.training.data.find import open_source
from wsi_pipeline.training.data.outlines import open_outlines
from wsi_pipeline.training.data.pyramids import open_pyramid
from wsi_pipeline.training.data.samples import Picture, SampleSource
from wsi_pipeline.training.data.slides import FieldOfView, Origin

WIDTH, HEIGHT = 600, 500
GLAND = [[100, 100], [220, 100], [240, 220], [100, 220], [100, 100]]
NUCLEUS = [[150, 150], [170, 150], [175, 172], [150, 170], [150, 150]]
BOX = [[300, 300], [400, 300], [400, 400], [300, 400], [300, 300]]


def feature(kind: str, coordinates: Any, name: str | None = None) -> dict[str, Any]:
    properties: dict[str, Any] = {"objectType": "annotation"}
    if name:
        properties["classification"] = {"name": name, "color": [9, 99, 199]}
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}


def write_geojson(path: Path, *features: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """(H, W) label image: a gland, which is 1, with a nucleus in it, which is 2."""
    from shapely.geometry import Polygon

    from wsi_pipeline.geometry import Affine2D
    from wsi_pipeline.rasterise import rasterise

    labels = np.zeros((HEIGHT, WIDTH), np.int32)
    for number, ring in enumerate((GLAND, NUCLEUS), 1):
        labels[rasterise(Polygon(ring), Affine2D(), WIDTH, HEIGHT)] = number
    return labels


@pytest.fixture(scope="module")
def slide(tools: Any, made: Any, truth: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Slide:
    """A slide that shows its labels."""
    return open_slide(tools.write_tiff(tmp_path_factory.mktemp("slide") / "case.tif", made.painted(truth)))


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    return write_geojson(
        tmp_path / "a.geojson",
        feature("Polygon", [GLAND], "Gland"),
        feature("Polygon", [NUCLEUS]),
        feature("Point", [9, 9]),
    )


@pytest.fixture(scope="module")
def pyramid(slide: Slide, truth: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("masks") / "masks.ome.zarr"
    classes = [("Gland", (9, 9, 9)), ("Nucleus", (8, 8, 8))]
    masks = MaskPyramid.create(path, slide.working_grid(0.5), chunk=128, shard=256, classes=classes, slide=slide.info)
    for row, col in masks.shards(0):
        x0, y0, x1, y1 = masks.shard_region(0, row, col)
        part = truth[y0:y1, x0:x1].astype(np.uint32)
        masks.write_shard(row, col, part * 1000, part.astype(np.uint8), None)
    for level in range(1, masks.n_levels):
        for row, col in masks.shards(level):
            masks.build_shard(level, row, col)
    return path


def shows_its_labels(picture: Picture, made: Any, numbers: list[int]) -> float:
    """Share of known px with the colour of their object; ``numbers`` are the true ones of labels 0, 1, …"""
    right = picture.image[..., 0] == np.array(numbers)[picture.labels] * made.level
    return float(right[picture.known].mean())


def test_a_pair_lies_around_each_outline(slide: Slide, drawn: Path, made: Any, truth: np.ndarray) -> None:
    source = open_outlines(drawn, slide, FieldOfView(128), Origin("CC-BY-4.0", "patient 1", "val"))
    assert [info.class_names for info in source.infos] == [("Gland",), ("unclassified",)]
    assert {(info.group, info.split, info.licence, info.mpp) for info in source.infos} == {
        ("patient 1", "val", "CC-BY-4.0", 0.5)
    }
    sample = source[0]
    assert sample.low is not None
    assert sample.classes == ("Gland", "unclassified")
    np.testing.assert_array_equal(sample.high.labels, truth[96:224, 106:234])
    assert shows_its_labels(sample.high, made, [0, 1, 2]) == 1
    assert shows_its_labels(sample.low, made, [0, 1, 2]) > 0.95
    assert sample.high.known.all()
    assert (sample.low.labels > 0).sum() == pytest.approx((truth > 0).sum() / 4, rel=0.02)


def test_any_mpp_may_be_asked_for(slide: Slide, drawn: Path, truth: np.ndarray, made: Any) -> None:
    sample = open_outlines(drawn, slide, FieldOfView(96, mpp=1.5, context_factor=4))[0]
    assert sample.info.mpp == 1.5
    assert (sample.high.labels > 0).sum() == pytest.approx((truth > 0).sum() / 9, rel=0.03)
    assert shows_its_labels(sample.high, made, [0, 1, 2]) > 0.9


def test_outside_regions_of_interest_nothing_is_annotated(slide: Slide, tmp_path: Path) -> None:
    roi = [[0, 0], [170, 0], [170, 500], [0, 500], [0, 0]]
    path = write_geojson(tmp_path / "a.geojson", feature("Polygon", [GLAND]), feature("Polygon", [roi], "Region*"))
    sample = open_outlines(path, slide, FieldOfView(128))[0]
    assert sample.high.known[:, :64].all()
    assert not sample.high.known[:, 64:].any()


def test_points_and_boxes_are_left_out_with_a_word(slide: Slide, drawn: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(open_outlines(drawn, slide)) == 2
    assert "1 points, lines or rectangles are no outlines" in caplog.text


def test_a_file_without_outlines_is_refused(slide: Slide, tmp_path: Path) -> None:
    path = write_geojson(tmp_path / "a.geojson", feature("Polygon", [BOX]), feature("Point", [9, 9]))
    with pytest.raises(DatasetError, match=r"holds no outlines .2 points, lines or rectangles"):
        open_outlines(path, slide)


def test_annotations_of_another_slide_are_refused(slide: Slide, tmp_path: Path) -> None:
    far = [[x + 9000, y] for x, y in GLAND]
    with pytest.raises(PromptError, match="lies outside the slide case"):
        open_outlines(write_geojson(tmp_path / "a.geojson", feature("Polygon", [far])), slide)
    (tmp_path / "b.geojson").write_text("{")
    with pytest.raises(GeoJSONError):
        open_outlines(tmp_path / "b.geojson", slide)


def test_masks_of_a_run_become_pairs(slide: Slide, pyramid: Path, made: Any, truth: np.ndarray) -> None:
    source = open_pyramid(pyramid, slide, FieldOfView(256))
    assert 1 <= len(source) <= 4
    whole = 0
    for sample in source:
        assert sample.low is not None
        numbers = [0, *(1 + ["Gland", "Nucleus"].index(name) for name in sample.classes)]
        assert shows_its_labels(sample.high, made, numbers) == 1
        assert shows_its_labels(sample.low, made, numbers) > 0.95
        whole += int((sample.high.labels > 0).sum())
    assert whole == (truth > 0).sum(), "tiles lie side by side"
    assert source.infos[0].class_names == ("Gland", "Nucleus")


def test_beyond_the_grid_of_a_run_nothing_is_known(slide: Slide, pyramid: Path) -> None:
    sample = open_pyramid(pyramid, slide, FieldOfView(512))[0]
    assert sample.low is not None
    assert 0.2 < sample.low.known.mean() < 0.3
    assert (sample.low.image[~sample.low.known] == 255).mean() > 0.99


def test_masks_are_read_at_any_mpp(slide: Slide, pyramid: Path, truth: np.ndarray) -> None:
    samples = list(open_pyramid(pyramid, slide, FieldOfView(64, mpp=1.25)))
    assert sum((sample.high.labels > 0).sum() for sample in samples) == pytest.approx(
        (truth > 0).sum() / 6.25, rel=0.02
    )


def test_masks_of_another_slide_are_refused(tools: Any, pyramid: Path, tmp_path: Path) -> None:
    small = open_slide(tools.write_tiff(tmp_path / "small.tif", tools.stained(300, 300, 0)))
    other = open_slide(tools.write_tiff(tmp_path / "other.tif", tools.stained(WIDTH, HEIGHT, 0), mpp=0.25))
    for slide in (small, other):
        with pytest.raises(DatasetError, match="was not made from"):
            open_pyramid(pyramid, slide)
    with pytest.raises(OutputError, match="is no mask pyramid"):
        open_pyramid(tmp_path / "no.ome.zarr", small)


def test_masks_without_objects_are_refused(slide: Slide, tmp_path: Path) -> None:
    path = tmp_path / "masks.ome.zarr"
    MaskPyramid.create(path, slide.working_grid(0.5), chunk=128, shard=256, classes=[], slide=slide.info)
    with pytest.raises(DatasetError, match="holds no objects"):
        open_pyramid(path, slide)


def same_at(source: SampleSource, number: int) -> bool:
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    return np.array_equal(copy[number].high.image, source[number].high.image)


def test_sources_travel_to_workers(slide: Slide, drawn: Path, pyramid: Path) -> None:
    assert same_at(open_outlines(drawn, slide, FieldOfView(64)), 1)
    assert same_at(open_pyramid(pyramid, slide, FieldOfView(128)), 0)


def test_the_path_says_which_reader(slide: Slide, drawn: Path, pyramid: Path, tiles: Any) -> None:
    on = Path(slide.info.path)
    assert len(open_source(drawn, on)) == 2
    assert len(open_source(pyramid, on, field=FieldOfView(256), slide_mpp=0.5)) >= 1
    tiles.add("a")
    assert len(open_source(tiles.write())) == 1


def test_paths_that_do_not_fit_are_refused(slide: Slide, drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file or folder"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"annotations without a slide\. Add --slide"):
        open_source(drawn)
    with pytest.raises(DatasetError, match="Leave --slide out"):
        open_source(tmp_path, Path(slide.info.path))
