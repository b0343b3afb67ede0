"""Clicks as training data: where they lie, what they move with, and what is wrong with some files of them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import DatasetError, PromptError
from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.slides.slide import Slide, open_slide
from wsi_pipeline.training.data.augment import Augmentation, AugmentedPairs
from wsi_pipeline.training.data.clicks import RADIUS, Clicked, clicks_on, discs, draw_clicks
from wsi_pipeline.training.data.points import Points, open_points
from wsi_pipeline.training.data.samples import Picture, Sample, SampleInfo
from wsi_pipeline.training.data.slides import FieldOfView, Origin
from wsi_pipeline.training.sources import TRAIN, Joined

TRAINED = Origin(split=TRAIN)


@pytest.fixture(scope="module")
def slide() -> Slide:
    """A real slide with tissue in its middle, 2220 x 2967 px."""
    from importlib import resources

    return open_slide(Path(str(resources.files("wsi_pipeline") / "data" / "CMU-1-Small-Region.svs")))


def picture_of(labels: np.ndarray) -> Picture:
    return Picture(np.zeros((*labels.shape, 3), np.uint8), labels.astype(np.int32), np.ones(labels.shape, bool))


class Two:
    """One sample of 128 px: a large object and a small one."""

    def __init__(self) -> None:
        self.infos = (SampleInfo("s", "p", "train", ("nucleus",), "CC0-1.0"),)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        labels = np.zeros((128, 128), np.int32)
        labels[20:70, 30:80], labels[90:106, 90:106] = 1, 2
        return Sample(self.infos[0], picture_of(labels), ("nucleus", "nucleus"))


def points_file(path: Path, *clicks: tuple[str | None, Any]) -> Path:
    """A QuPath file of annotations with a class and a point, or several."""
    features = []
    for name, xy in clicks:
        kind = "Point" if np.ndim(xy) == 1 else "MultiPoint"
        properties: dict[str, Any] = {"objectType": "annotation"}
        if name is not None:
            properties["classification"] = {"name": name}
        features.append({"type": "Feature", "geometry": {"type": kind, "coordinates": xy}, "properties": properties})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_a_training_notices_that_a_point_moved(slide: Slide, tmp_path: Path) -> None:
    clicks = [("nucleus", [1000.0, 1400.0]), ("nucleus", [1040.0, 1430.0])]
    moved = [clicks[0], ("nucleus", [1042.0, 1430.0])]
    first, again, other = (
        Joined([open_points(points_file(tmp_path / f"{number}.geojson", *some), slide, origin=TRAINED)], judged=False)
        for number, some in enumerate((clicks, clicks, moved))
    )
    assert first.digest() == again.digest() != other.digest()


@given(st.integers(0, 2**32 - 1))
def test_clicks_lie_well_inside_their_objects(seed: int) -> None:
    picture = Two()[0].high
    points, numbers = draw_clicks(picture, np.random.default_rng(seed))
    assert numbers.tolist() == [1, 2]
    columns, rows = points.astype(int).T
    assert picture.labels[rows, columns].tolist() == [1, 2]
    assert 32 <= points[0, 1] <= 58, "the outer half of an object is left alone"


def test_an_object_is_clicked_in_one_place_however_often_it_is_looked_at() -> None:
    one, same, other = (Clicked(Two(), seed)[0].high.labels for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert set(np.unique(one)) == {0, 1, 2}
    assert (one > 0).sum() < 2 * np.pi * (RADIUS + 1) ** 2, "nothing of the outlines is left"


def test_clicks_move_with_the_image() -> None:
    clicked, plain = Clicked(Two(), 0), Augmentation.none(128)
    before, _ = clicks_on(clicked[0].high)
    after, numbers = clicks_on(AugmentedPairs(clicked, plain, 0)[0].high)
    np.testing.assert_allclose(after, before, atol=0.5)
    varied = AugmentedPairs(clicked, Augmentation(128), 3)[0]
    whole = AugmentedPairs(Two(), Augmentation(128, on_object=0), 3)[0]
    turned, numbers = clicks_on(AugmentedPairs(clicked, Augmentation(128, on_object=0), 3)[0].high)
    columns, rows = turned.astype(int).T
    assert whole.high.labels[rows, columns].tolist() == numbers.tolist()
    assert varied.high.labels.shape == (128, 128)


def test_a_click_that_is_cut_in_half_by_the_edge_is_gone() -> None:
    labels = discs(np.array([[40.0, 40.0], [62.5, 20.0]]), np.array([1, 2]), (64, 64))
    labels = np.roll(labels, 2, axis=1)
    labels[:, :2] = 0
    points, numbers = clicks_on(picture_of(labels))
    assert numbers.tolist() == [1]
    np.testing.assert_allclose(points, [[42, 40]], atol=0.1)
    assert clicks_on(picture_of(np.zeros((8, 8))))[0].shape == (0, 2)


def test_clicks_of_a_slide_keep_their_numbers_at_any_resolution() -> None:
    clicks = Points(np.array([[100.0, 200.0], [300.0, 220.0]]), ("a", "b"), None)
    fine = clicks.on(Affine2D(1, 1, 50, 150), 128)
    assert set(np.unique(fine.ids)) == {0, 1}
    assert fine.ids[50, 50] == 1
    coarse = clicks.on(Affine2D(4, 4), 128)
    assert coarse.ids[50, 25] == 1
    assert coarse.ids[55, 75] == 2
    assert coarse.classes == {1: "a", 2: "b"}


def test_samples_lie_side_by_side_over_all_points(slide: Slide, tmp_path: Path) -> None:
    path = points_file(
        tmp_path / "p.geojson", ("Tumor", [1200, 900]), ("Tumor", [1230, 900]), ("Stroma", [1200, 2000]),
        ("Stroma", [1230, 2000]),
    )  # fmt: skip
    source = open_points(path, slide, FieldOfView(256))
    assert len(source) == 2
    assert all(info.class_names == ("Stroma", "Tumor") for info in source.infos)
    found = {name: len(clicks_on(sample.high)[1]) for sample in source for name in set(sample.classes)}
    assert found == {"Tumor": 2, "Stroma": 2}


def test_what_is_left_out_is_said(slide: Slide, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = points_file(
        tmp_path / "p.geojson",
        ("Tumor", [1200, 900]),
        ("Tumor", [1202, 900]),
        ("Tumor", [[1300, 900], [1320, 900]]),
        ("Tumor", [99_999, 10]),
        ("Tumor", [5, 5]),
    )
    with caplog.at_level(logging.WARNING):
        source = open_points(path, slide, FieldOfView(256))
    said = " | ".join(caplog.messages)
    assert sum(len(clicks_on(sample.high)[1]) for sample in source) == 2
    assert "1 objects lie outside the slide" in said
    assert "1 points lie outside the tissue" in said
    assert "1 points are in an object that has one already" in said
    assert "1 annotations hold several points: the first counts" in said
    assert "all points are of class Tumor; it is told from the background alone" in said


def test_files_of_no_use_are_refused_in_one_line(slide: Slide, tmp_path: Path) -> None:
    lonely = points_file(
        tmp_path / "a.geojson", ("Tumor", [1200, 900]), ("Tumor", [1250, 900]), ("Stroma", [1300, 900])
    )
    with pytest.raises(DatasetError, match=r"there is one point only of Stroma. Click more of each"):
        open_points(lonely, slide)
    white = points_file(tmp_path / "b.geojson", ("Tumor", [5, 5]), ("Tumor", [9, 5]))
    with pytest.raises(DatasetError, match="has no point on tissue"):
        open_points(white, slide)
    drawn = tmp_path / "c.geojson"
    ring = [[800, 800], [900, 800], [900, 950], [860, 980], [800, 800]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    drawn.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    with pytest.raises(DatasetError, match="holds no points"):
        open_points(drawn, slide)
    with pytest.raises(PromptError, match="lies outside the slide"):
        open_points(points_file(tmp_path / "d.geojson", ("Tumor", [99_999, 10])), slide)
