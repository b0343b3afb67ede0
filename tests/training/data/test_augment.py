"""Image and labels move together, and so do the two patches."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from wsi_pipeline.training.data.augment import Augmentation, AugmentedPairs, augment
from wsi_pipeline.training.data.samples import Picture, Sample
from wsi_pipeline.training.data.scanner import ScanRange
from wsi_pipeline.training.data.tiles import open_tiles
from wsi_pipeline.training.data.warp import STILL, WarpRange

SIZE = 96
SHAPES = Augmentation(SIZE, stain=None)
"""Every change of geometry and no other."""
SEEDS = st.integers(0, 2**32)


def tile(made: Any, seed: int) -> Sample:
    return made.sample_of(made.blocks(220, 260, seed % 7))


def on_slide(made: Any, seed: int) -> Sample:
    """The middle of a large field, with its surroundings at half the resolution."""
    # whole px of the surroundings, so that both pictures say the same of every place
    wide = made.blocks(240, 240, seed % 7).repeat(2, axis=0).repeat(2, axis=1)
    return made.sample_of(wide[120:360, 120:360], wide[::2, ::2])


def pair_of(sample: Sample, how: Augmentation, seed: int) -> tuple[Picture, Picture]:
    pair = augment(sample, how, np.random.default_rng(seed))
    assert pair.low is not None
    return pair.high, pair.low


def inside(labels: np.ndarray, margin: int) -> np.ndarray:
    """Px whose neighbours up to ``margin`` px away all have the same label."""
    side = 2 * margin + 1
    return ndimage.minimum_filter(labels, side) == ndimage.maximum_filter(labels, side)


def quarters(high: np.ndarray) -> np.ndarray:
    """The 2 x 2 px of a patch that make up each px of a patch half as fine: (S / 2, S / 2, 4, ...)."""
    return np.stack([high[y::2, x::2] for y in (0, 1) for x in (0, 1)], axis=2)


@pytest.mark.parametrize("kind", [tile, on_slide])
@settings(max_examples=25)
@given(seed=SEEDS)
def test_labels_go_where_the_image_goes(made: Any, kind: Any, seed: int) -> None:
    for patch in pair_of(kind(made, seed), SHAPES, seed):
        sure = inside(patch.labels, 3) & inside(patch.known, 3) & patch.known
        apart = np.abs(patch.image[..., 0] / made.level - patch.labels)[sure]
        # the image shows slivers thinner than a px, of which the nearest px may know nothing
        assert (apart < 0.25).mean() > 0.99


@settings(max_examples=25)
@given(seed=SEEDS)
def test_labels_and_image_are_on_one_raster_to_a_part_of_a_px(made: Any, seed: int) -> None:
    """Every column is an object, and its number the column's grey level."""
    columns = np.tile(np.arange(250, dtype=np.int32), (250, 1))
    sample = made.sample_of(columns)
    sample.high.image[..., 0] = columns
    for patch in pair_of(sample, SHAPES, seed):
        # far from the edges, where averaging sees the mirror image
        sure = (patch.labels > 5) & (patch.labels < 245)
        apart = patch.image[..., 0][sure].astype(int) - patch.labels[sure]
        assert np.abs(apart).max() <= 1
        assert abs(apart.mean()) < 0.1


@pytest.mark.parametrize("kind", [tile, on_slide])
@settings(max_examples=25)
@given(seed=SEEDS)
def test_centre_half_of_the_low_patch_shows_the_high_patch(made: Any, kind: Any, seed: int) -> None:
    high, low = pair_of(kind(made, seed), SHAPES, seed)
    half = slice(SIZE // 4, 3 * SIZE // 4)
    four = quarters(high.labels)
    sure = (four.min(axis=2) == four.max(axis=2)) & inside(low.labels[half, half], 1)
    sure &= quarters(high.known).all(axis=2) & low.known[half, half]
    assert (low.labels[half, half] == four[..., 0])[sure].mean() > 0.998
    shrunk = quarters(high.image.astype(float)).mean(axis=2)[sure]
    assert np.abs(shrunk - low.image[half, half][sure]).mean() < 5


@settings(max_examples=25)
@given(SEEDS)
def test_beyond_a_tile_nothing_is_known_and_nothing_labelled(made: Any, seed: int) -> None:
    for patch in pair_of(tile(made, seed), SHAPES, seed):
        assert (patch.labels[~patch.known] == 0).all()


def test_what_is_not_annotated_stays_unknown(made: Any) -> None:
    sample = tile(made, 0)
    sample.high.known[:] = False
    assert not any(patch.known.any() for patch in pair_of(sample, SHAPES, 3))


def test_without_changes_the_middle_is_copied(made: Any) -> None:
    sample = tile(made, 1)
    high, low = pair_of(sample, Augmentation.none(SIZE), 5)
    y, x = (220 - SIZE) // 2, (260 - SIZE) // 2
    np.testing.assert_array_equal(high.labels, sample.high.labels[y : y + SIZE, x : x + SIZE])
    np.testing.assert_array_equal(high.image, sample.high.image[y : y + SIZE, x : x + SIZE])
    assert low.known.all()


def test_flips_and_turns_alone_copy_px(made: Any) -> None:
    colours = set(np.unique(np.arange(12) * made.level))
    turning = Augmentation(SIZE, warp=WarpRange((1, 1), True, 0, 0, 0), stain=None)
    seen = set()
    for seed in range(40):
        high, _ = pair_of(made.sample_of(made.blocks(SIZE, SIZE)), turning, seed)
        assert set(np.unique(high.image[..., 0])) <= colours
        seen.add(high.labels.tobytes())
    assert len(seen) == 8


def test_beyond_may_be_white_or_mirrored(made: Any) -> None:
    sample = made.sample_of(made.blocks(SIZE, SIZE))
    for beyond, expected in (("white", 255), ("reflect", 40)):
        _, low = pair_of(sample, Augmentation(SIZE, warp=STILL, stain=None, beyond=beyond), 0)  # type: ignore[arg-type]
        assert not low.known[0, 0]
        assert (low.image[~low.known][:, 1] == expected).all()


def test_surroundings_of_a_slide_are_used(made: Any) -> None:
    wide = made.blocks(480, 480)
    sample = made.sample_of(wide[192:288, 192:288], wide[::2, ::2])
    _, low = pair_of(sample, Augmentation.none(SIZE), 0)
    assert low.known.all()
    np.testing.assert_array_equal(low.labels, wide[::2, ::2][72:168, 72:168])


@pytest.mark.parametrize("factor", [1.0, 1.5, 4.0])
def test_context_factor_of_pairs_is_free(made: Any, factor: float) -> None:
    pair = augment(on_slide(made, 0), Augmentation(SIZE, factor), np.random.default_rng(0))
    assert pair.low is not None
    assert pair.context_factor == factor
    assert pair.low.image.shape == pair.high.image.shape == (SIZE, SIZE, 3)
    assert pair.low.labels.dtype == np.int32


def test_mpp_follows_the_scale(made: Any) -> None:
    closer = Augmentation(SIZE, warp=WarpRange((2, 2), False, 0, 0, 0))
    for mpp, expected in ((0.5, 0.25), (None, None)):
        sample = made.sample_of(made.blocks(200, 200), mpp=mpp)
        assert augment(sample, closer, np.random.default_rng(0)).info.mpp == expected


def test_patch_is_moved_to_an_object(made: Any) -> None:
    labels = np.zeros((600, 600), np.int32)
    labels[500:510, 40:50] = 1
    sought = Augmentation(SIZE, stain=None, on_object=1.0)
    assert all(pair_of(made.sample_of(labels), sought, seed)[0].labels.any() for seed in range(10))


def test_sample_without_objects_is_augmented_too(made: Any) -> None:
    empty = made.sample_of(np.zeros((50, 300), np.int32))
    assert not pair_of(empty, Augmentation(SIZE, on_object=1.0), 0)[0].labels.any()


def test_both_patches_get_one_stain(made: Any) -> None:
    flat = made.sample_of(np.full((200, 200), 6, np.int32))
    high, low = pair_of(flat, Augmentation(SIZE, warp=STILL, beyond="reflect"), 1)
    assert (high.image != flat.high.image[:SIZE, :SIZE]).any()
    assert (high.image == high.image[0, 0]).all()
    assert (low.image == high.image[0, 0]).all()


def same(one: Sample, other: Sample) -> bool:
    assert one.low is not None
    assert other.low is not None
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in ((one.high, other.high), (one.low, other.low))
        for name in ("image", "labels", "known")
    )


def test_a_pair_depends_on_seed_epoch_and_number_only(tiles: Any) -> None:
    for name in "abc":
        tiles.add(name)
    source = open_tiles(tiles.write())
    how = Augmentation(SIZE, scan=ScanRange(blur=1, noise=4, jpeg=60))
    pairs = AugmentedPairs(source, how, seed=3)
    forwards = [pairs[number] for number in range(3)]
    worker = pickle.loads(pickle.dumps(pairs))  # noqa: S301
    backwards = [worker[number] for number in (2, 1, 0)][::-1]
    assert all(same(one, other) for one, other in zip(forwards, backwards, strict=True))
    assert len(pairs) == len(pairs.infos) == 3
    assert not same(AugmentedPairs(source, how, seed=3, epoch=1)[0], forwards[0])
    assert not same(AugmentedPairs(source, how, seed=4)[0], forwards[0])
