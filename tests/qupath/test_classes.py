"""Class names and colours are those QuPath shows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.qupath.checks import check_classification
from wsi_pipeline.qupath.classes import class_color, clean_class_name, is_ignored_class, split_class_name


@pytest.mark.parametrize(
    ("given_name", "shown"),
    [(" Tumor ", "Tumor"), ("Tumor:Positive", "Tumor: Positive"), ("a\nb", "a b"), (" : ", None), ("", None),
     (None, None), ("::x:", "x"), ("µ ✓", "µ ✓")],
)  # fmt: skip
def test_names_are_cleaned_as_qupath_keeps_them(given_name, shown):
    assert clean_class_name(given_name) == shown


@given(st.text())
def test_any_clean_name_is_taken_by_the_reader_and_stays(name):
    clean = clean_class_name(name)
    if clean is not None:
        assert check_classification(clean) == clean == clean_class_name(clean)
        assert check_classification({"names": split_class_name(name), "color": [1, 2, 3]}) == clean


def test_standard_classes_keep_qupaths_colour_whatever_is_asked():
    assert class_color("Tumor", {"Tumor": (1, 2, 3)}) == (200, 0, 0)


def test_other_classes_take_the_given_colour_or_one_made_from_the_name():
    assert class_color("Gland", {"Gland": (1, 2, 3)}) == (1, 2, 3)
    assert class_color("Gland") == class_color(" Gland ") != class_color("Vessel")


def test_usual_classes_of_pathology_look_alike_however_they_are_written():
    assert class_color("tumor") == class_color("Tumour") == class_color("Tumor")
    assert class_color("adipose tissue") == class_color("Adipose tissue")
    assert class_color("stroma", {"stroma": (1, 2, 3)}) == (1, 2, 3)


def test_classes_that_occur_together_have_colours_that_can_be_told_apart():
    names = ["Tumor", "Stroma", "Immune cells", "Necrosis", "Gland", "Adipose tissue", "Muscle", "Blood vessel"]
    assert len({class_color(name) for name in names}) == len(names)


@given(st.text())
def test_colours_are_in_range(name):
    assert all(0 <= value <= 255 for value in class_color(name))


def test_a_star_at_the_end_is_ignored_by_classifiers():
    assert is_ignored_class("Artefact*")
    assert not is_ignored_class("Artefact*: pen")
