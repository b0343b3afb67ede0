"""A patient is in one split, every split gets its share, and the same question has the same answer."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import DatasetError
from wsi_pipeline.training.data.samples import SampleInfo
from wsi_pipeline.training.data.splits import split_groups, split_leaks

THREE = {"train": 0.6, "val": 0.2, "test": 0.2}


def info(group: str, name: str = "nucleus", split: str = "") -> SampleInfo:
    return SampleInfo("tile", group, split, (name,) if name else (), "CC0-1.0")


@st.composite
def data_sets(draw: st.DrawFn) -> list[SampleInfo]:
    """Samples of at least three groups."""
    groups = draw(st.sets(st.text("abcdefg", min_size=1, max_size=3), min_size=3, max_size=12))
    sizes = [(group, draw(st.integers(1, 4))) for group in sorted(groups)]
    names = st.sampled_from(["nucleus", "gland", "tumour", ""])
    return [info(group, draw(names)) for group, size in sizes for _ in range(size)]


@given(data_sets(), st.integers(0, 2**32))
def test_every_group_is_in_one_split_and_every_split_has_one(infos: list[SampleInfo], seed: int) -> None:
    split = split_groups(infos, THREE, seed)
    assert set(split) == {one.group for one in infos}
    assert set(split.values()) == set(THREE)
    assert split_leaks([info(one.group, split=split[one.group]) for one in infos]) == []


@given(data_sets(), st.integers(0, 2**32), st.randoms())
def test_splits_depend_on_the_samples_and_the_seed_only(infos: list[SampleInfo], seed: int, random: object) -> None:
    before = split_groups(infos, THREE, seed)
    random.shuffle(infos)  # type: ignore[attr-defined]
    assert split_groups(infos, THREE, seed) == before


def test_classes_are_dealt_out_evenly() -> None:
    infos = [info(f"n{number}") for number in range(40)] + [info(f"g{number}", "gland") for number in range(10)]
    split = split_groups(infos, THREE, 0)
    shares = Counter((one.class_names[0], split[one.group]) for one in infos)
    assert [shares["nucleus", name] for name in THREE] == [24, 8, 8]
    assert [shares["gland", name] for name in THREE] == [6, 2, 2]


def test_a_large_patient_does_not_fill_validation() -> None:
    infos = [info("large")] * 50 + [info(f"small {number}") for number in range(50)]
    split = split_groups(infos, {"train": 0.8, "val": 0.2}, 0)
    assert split["large"] == "train"
    assert sum(name == "val" for name in split.values()) == 20


def test_another_seed_is_another_split() -> None:
    infos = [info(str(number)) for number in range(30)]
    assert split_groups(infos, THREE, 0) != split_groups(infos, THREE, 1)


def test_too_few_patients_are_refused() -> None:
    with pytest.raises(DatasetError, match="2 groups cannot fill the splits train, val, test"):
        split_groups([info("a"), info("b")], THREE, 0)


@pytest.mark.parametrize("fractions", [{}, {"train": 1.0, "val": 0.0}])
def test_fractions_have_to_be_positive(fractions: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        split_groups([info("a")], fractions, 0)


def test_leaks_are_named() -> None:
    infos = [info("a", split="val"), info("a", split="train"), info("b", split="val"), info("b"), info("c")]
    assert split_leaks(infos) == ["split leak: group a is in train and val"]
