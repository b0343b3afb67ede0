"""What a segmenter draws, and evidence of another kind."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsi_pipeline.models.evidence import STRONGEST, with_evidence

_FIELDS = hnp.arrays(np.float32, (5, 6), elements=st.floats(-9, 9, width=32))


def test_evidence_decides_where_the_segmenter_is_in_doubt_and_what_touches_its_mask() -> None:
    logits = np.array([[[3.0, 9.0, -2.0, -2.0, -2.0, -9.0]]], np.float32)
    evidence = np.array([[-6.0, -6.0, 3.0, -1.0, 3.0, 6.0]])
    assert (with_evidence(logits, evidence) > 0).tolist() == [[[False, True, True, False, False, False]]]


@given(_FIELDS, _FIELDS)
def test_what_a_segmenter_is_sure_of_stays_and_nothing_appears_apart_from_it(logits, evidence) -> None:
    result = with_evidence(logits[None], evidence)[0]
    assert (result[logits > STRONGEST] > 0).all()
    assert not (result[logits <= -STRONGEST] > 0).any()
    if not (logits > 0).any():
        assert not (result > 0).any()
