"""Matcher equals the published code: indices and masks exactly, numbers to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsi_pipeline.models.matcher import match as matching
from wsi_pipeline.models.matcher import prompts, score
from wsi_pipeline.models.matcher.features import TimmFeatures
from wsi_pipeline.models.matcher.match import Matches, correspondence, match, patches_of
from wsi_pipeline.models.matcher.merge import Metrics, select, union
from wsi_pipeline.models.matcher.settings import MatcherSettings
from wsi_pipeline.models.preprocess import SAM_PIXELS

CASES = ("plm1", "plm2", "plm3", "plm4")
GRID, SIZE = 16, 224
MERGED = {
    "coco": {"min_purity": 0.02, "max_distance": 0.33, "max_relative_distance": 0.1, "top": 9},
    "tight": {"max_distance": 0.30, "max_relative_distance": 0.01, "top": 9},
    "fss": {"selection": "share", "alpha": 0.8, "beta": 0.2, "exponent": 1, "top": 10, "min_relative_score": 0.7},
    "paco": {
        "selection": "share",
        "alpha": 0.5,
        "beta": 0.5,
        "exponent": 0,
        "min_coverage": 0.3,
        "top": 5,
        "min_relative_score": 0.7,
    },
    "cap2": {"selection": "share", "top": 2, "min_relative_score": 0},
}


@pytest.fixture(scope="module")
def stored(golden):
    return golden("matcher_functions")


def matched(stored: dict[str, np.ndarray], case: str) -> tuple[Matches, np.ndarray, np.ndarray]:
    inside = patches_of(stored[f"{case}_ref_mask"], GRID)
    similarity = correspondence(stored[f"{case}_ref_feat"], stored[f"{case}_tar_feat"])
    return match(similarity, inside), inside, similarity


@pytest.mark.parametrize("case", CASES)
def test_patches_match_there_and_back(stored, case) -> None:
    found, inside, _ = matched(stored, case)
    np.testing.assert_array_equal(inside, stored[f"{case}_ref_pool"])
    np.testing.assert_array_equal(found.rows, np.flatnonzero(inside)[stored[f"{case}_fwd_row"]])
    np.testing.assert_array_equal(found.columns, stored[f"{case}_fwd_col"])
    np.testing.assert_array_equal(found.back[stored[f"{case}_rev_row"]], stored[f"{case}_rev_col"])
    np.testing.assert_array_equal(found.kept, stored[f"{case}_keep"])


@pytest.mark.parametrize("case", CASES)
def test_the_best_matches_become_points(stored, case) -> None:
    found, *_ = matched(stored, case)
    best = found.best()
    assert len(best) == stored[f"{case}_reduced"]
    points = matching.centres(found.columns[best], GRID, SIZE)
    np.testing.assert_array_equal(points, stored[f"{case}_points_sorted"])
    if case == "plm1":
        np.testing.assert_array_equal(prompts.box_around(points), stored["plm1_box"])


def test_an_empty_mask_stands_for_the_middle_of_the_image(stored) -> None:
    np.testing.assert_array_equal(patches_of(np.zeros((1, SIZE, SIZE), bool), GRID), stored["emptyref_pool"])


def metrics_of(stored: dict[str, np.ndarray]) -> Metrics:
    found, inside, similarity = matched(stored, "plm1")
    points = matching.centres(found.columns[found.best()], GRID, SIZE)
    masks = stored["score_masks"]
    patches = score.grid_of(masks, GRID).reshape(len(masks), -1)
    held = score.held(masks, points)
    return Metrics(
        score.coverage(held, len(points)),
        score.transport_score(similarity[inside], patches),
        score.purity(held, patches.sum(axis=1)),
    )


def test_masks_are_scored_alike(stored) -> None:
    np.testing.assert_array_equal(score.grid_of(stored["score_masks"], GRID), stored["score_grid"])
    found = metrics_of(stored)
    scores = np.stack([found.purity, found.coverage, found.transport], axis=1)
    np.testing.assert_allclose(scores, stored["score_purity_coverage_emd_f64"], atol=1e-6)


@pytest.mark.parametrize("name", MERGED)
def test_the_same_masks_are_merged(stored, name) -> None:
    rows = stored["merge_proposal_index"]
    chosen = select(metrics_of(stored).take(rows), MatcherSettings.model_validate(MERGED[name]))
    np.testing.assert_array_equal(union(stored["score_masks"][rows], chosen), stored[f"merge_{name}"][0])


def test_all_subsets_of_few_points_come_in_the_published_order(stored) -> None:
    random = np.random.default_rng(0)
    points = stored["sampler5_points"]
    for size, group in enumerate(prompts.subsets(points, (1, 3), 30, random), start=1):
        np.testing.assert_array_equal(group, stored[f"sampler5_k{size}"])
    shapes = [group.shape for group in prompts.subsets(points, (4, 6), 30, random)]
    np.testing.assert_array_equal(shapes, stored["sampler5_range46_shapes"])


def test_subsets_of_many_points_are_drawn(stored) -> None:
    points = np.arange(24.0).reshape(12, 2)
    groups = list(prompts.subsets(points, (4, 6), 30, np.random.default_rng(0)))
    np.testing.assert_array_equal([group.shape for group in groups], stored["sampler_random_shapes"])
    for group in groups:
        assert all(len(np.unique(one, axis=0)) == len(one) for one in group)


@pytest.mark.slow
def test_dinov2_tokens_before_the_last_norm(golden, weights) -> None:
    timm = pytest.importorskip("timm")
    stored = golden("matcher_dinov2_vits")
    model = weights.fill_(timm.create_model("vit_small_patch14_dinov2", num_classes=0, dynamic_img_size=True))
    encoder = TimmFeatures(model, 37, signature="", device="cpu", dtype=torch.float32)
    image = weights.noise_image("matcher_dinov2_image", (1, 3, 518, 518))
    tokens = encoder.tokens(SAM_PIXELS.apply(image))[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(tokens[::4, ::4, ::16], stored["prenorm_sub"], atol=1e-4)
    np.testing.assert_allclose(tokens.mean(axis=(0, 1)), stored["prenorm_mean"], atol=1e-4)
    (level,) = encoder.levels(image[0].permute(1, 2, 0).byte().numpy()[None])
    np.testing.assert_allclose(level[0].reshape(37, 37, -1)[::4, ::4, ::16], stored["prenorm_sub"], atol=1e-4)
