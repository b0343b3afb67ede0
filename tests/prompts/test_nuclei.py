from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.io import imread

from wsi_pipeline.models.roles import Detections, PairImages, Prompter
from wsi_pipeline.prompts.nuclei import NucleusDetector
from wsi_pipeline.workflow import NucleusDetectorPrompts

GOLDEN = Path(__file__).parent.parent / "golden" / "tiles"
GLASS, EOSIN = (240, 238, 242), (232, 175, 205)
BLUE, BROWN, PURPLE = (130, 165, 205), (95, 65, 45), (105, 75, 150)
SETTINGS = NucleusDetectorPrompts(source="nucleus-detector")


def field(nuclei, background=EOSIN, colour=PURPLE, *, mpp=0.25, side=256, seed=0) -> np.ndarray:
    """A noisy (side, side, 3) patch with elliptic nuclei ``(x, y, width, height)`` in µm."""
    fine = 4  # subsampled so that edges are smooth
    rows, cols = (np.indices((side * fine, side * fine)) + 0.5) * mpp / fine
    inside = np.zeros(rows.shape, bool)
    for x, y, width, height in nuclei:
        inside |= ((cols - x) / width * 2) ** 2 + ((rows - y) / height * 2) ** 2 <= 1
    share = inside.reshape(side, fine, side, fine).mean(axis=(1, 3))[..., None]
    image = share * np.array(colour) + (1 - share) * np.array(background)
    image = ndimage.gaussian_filter(image, (0.3 / mpp, 0.3 / mpp, 0))
    noise = np.random.default_rng(seed).normal(0, 4, (side, side, 1))
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def detect(image: np.ndarray, mpp: float = 0.25, **options: object) -> Detections:
    detector = NucleusDetector(SETTINGS.model_copy(update=options))
    return detector.detect(PairImages(image[None]), mpp=mpp)[0]


def in_microns(boxes, mpp: float) -> np.ndarray:
    """Boxes from left to right, µm."""
    boxes = boxes * mpp
    return boxes[np.argsort(boxes[:, 0])]


ONE = [(30.0, 34.0, 8.0, 11.0)]
ROW = [(12.0, 30.0, 6.0, 6.0), (30.0, 34.0, 8.0, 11.0), (50.0, 20.0, 12.0, 8.0)]


def test_it_is_a_prompter() -> None:
    assert isinstance(NucleusDetector(SETTINGS), Prompter)


@pytest.mark.parametrize("colour", [PURPLE, BLUE, BROWN])
@pytest.mark.parametrize("background", [GLASS, (222, 222, 228), EOSIN])
def test_blue_and_brown_nuclei_are_found_on_any_background(colour, background) -> None:
    found = detect(field(ROW, background, colour))
    truth = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in ROW]
    assert np.abs(in_microns(found.boxes, 0.25) - truth).max() < 1.3


@pytest.mark.parametrize("mpp", [0.2, 0.25, 0.35, 0.5, 0.6])
def test_resolution_does_not_change_what_is_found(mpp) -> None:
    found = detect(field(ROW, mpp=mpp, side=round(64 / mpp)), mpp)
    truth = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in ROW]
    assert np.abs(in_microns(found.boxes, mpp) - truth).max() < 1.3


def test_points_lie_inside_and_darker_nuclei_score_higher() -> None:
    pale = detect(field(ONE, colour=(175, 130, 185)))
    dark = detect(field(ONE, colour=(70, 50, 120)))
    assert np.hypot(*(pale.points[0] * 0.25 - (30, 34))) < 2
    assert 0 < pale.scores[0] < dark.scores[0] <= 1


@pytest.mark.parametrize("colour", [GLASS, EOSIN, (225, 90, 140), PURPLE, (255, 255, 255), (0, 0, 0)])
def test_patch_without_structure_has_no_nuclei(colour) -> None:
    found = detect(field([], colour))
    assert found.boxes.shape == (0, 4)
    assert found.points.shape == (0, 2)
    assert found.scores.shape == (0,)


def test_eosin_objects_are_no_nuclei() -> None:
    assert len(detect(field(ROW, GLASS, (225, 105, 160))).boxes) == 0


def test_touching_nuclei_are_split() -> None:
    found = detect(field([(20, 30, 9, 9), (28, 30, 9, 9), (36, 32, 9, 9)]))
    assert len(found.boxes) == 3


def test_nucleus_with_a_pale_centre_is_one() -> None:
    image = field([(30, 30, 14, 14)])
    centre = field([(30, 30, 6, 6)], background=(0, 0, 0), colour=(255, 255, 255)).max(axis=-1) > 128
    image[centre] = (170, 135, 185)
    assert len(detect(image).boxes) == 1


def test_sizes_are_limited_in_microns() -> None:
    image = field([(12, 12, 3, 3), (45, 40, 28, 26), (15, 45, 8, 8)])
    assert len(detect(image).boxes) == 1
    assert len(detect(image, max_diameter=30.0).boxes) == 2
    assert len(detect(image, min_diameter=2.0).boxes) == 2


def test_threshold_above_one_leaves_pale_nuclei_out() -> None:
    image = field(ONE, colour=(200, 150, 195))
    assert len(detect(image).boxes) == 1
    assert len(detect(image, threshold=3.0).boxes) == 0


def test_nucleus_cut_by_the_border_is_found() -> None:
    found = detect(field([(0.5, 30, 10, 10)]))
    assert len(found.boxes) == 1
    assert found.boxes[0, 0] == 0


def test_every_pair_is_answered_and_the_answer_is_the_same_again() -> None:
    pairs = PairImages(np.stack([field(ROW), field([]), field(ONE)]))
    detector = NucleusDetector(SETTINGS)
    first, second = detector.detect(pairs, mpp=0.25), detector.detect(pairs, mpp=0.25)
    assert [len(d.boxes) for d in first] == [3, 0, 1]
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.boxes, b.boxes)
        assert np.array_equal(a.points, b.points)
    assert first[0].boxes.dtype == first[0].scores.dtype == first[0].points.dtype == np.float32


def test_tiny_patch_is_answered() -> None:
    assert len(detect(np.full((1, 1, 3), 90, np.uint8)).boxes) == 0


@pytest.mark.parametrize(("name", "least"), [("dsb_65c8527c_0", 0.75), ("dsb_4193474b", 0.55)])
def test_real_nuclei_are_hit(name, least) -> None:
    image, truth = np.asarray(Image.open(GOLDEN / f"{name}.png").convert("RGB")), imread(GOLDEN / f"{name}.mask.png")
    diameter = np.median(2 * np.sqrt(np.bincount(truth.ravel())[1:] / np.pi))
    found = detect(image, 8.0 / diameter)
    columns, rows = found.points.astype(int).T
    hit = np.unique(truth[rows, columns])
    centre_f1 = 2 * np.count_nonzero(hit) / (len(found.boxes) + truth.max())
    assert centre_f1 > least
