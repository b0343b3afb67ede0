"""Every error is one line that says where, what and what to do, and travels between processes."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline import errors
from wsi_pipeline.errors import GeoJSONError, PromptError, ResolutionError, SlideError, WsiPipelineError

FAMILY = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, WsiPipelineError)]


@pytest.mark.parametrize("kind", FAMILY)
@given(what=st.text(min_size=1), where=st.none() | st.text(), fix=st.none() | st.text())
def test_error_survives_pickling_as_its_own_class_and_is_one_line(kind, what, where, fix) -> None:
    error = kind(what, where=where, fix=fix)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(copy) is kind
    assert (copy.what, copy.where, copy.fix, str(copy)) == (what, where, fix, str(error))
    assert len(str(error).splitlines()) <= 1
    assert copy.exit_code == errors.EXIT_BAD_INPUT


def test_line_has_all_parts() -> None:
    assert str(SlideError("no such file", where="/a.svs", fix="Check the path")) == (
        "/a.svs: no such file. Check the path."
    )
    assert str(SlideError("no such file")) == "no such file"


def test_who_catches_a_slide_error_catches_its_resolution_too() -> None:
    assert issubclass(ResolutionError, SlideError)
    assert issubclass(GeoJSONError, PromptError)
