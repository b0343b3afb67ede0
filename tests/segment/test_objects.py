from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np

from wsi_pipeline.segment.found import FoundObject, collect
from wsi_pipeline.segment.objects import ObjectBatch


def test_batch_is_read_without_its_logits(tmp_path: Path) -> None:
    found = FoundObject((2, 3, 10, 7), np.packbits(np.ones((4, 8), bool)), 1, 0.9, 0.8, tile=5, prompt_id="a")
    batch = collect([found], np.ones((2, 16, 16), np.int8), np.array([[0, 0], [12, 0]]))
    batch.save(tmp_path / "batch.arrow")
    whole, light = ObjectBatch.load(tmp_path / "batch.arrow"), ObjectBatch.load(tmp_path / "batch.arrow", logits=False)
    assert whole.logits.shape == (2, 16, 16)
    assert light.logits.shape[0] == len(light.logits_xy) == 0
    for field in fields(ObjectBatch):
        if not field.name.startswith("logits"):
            np.testing.assert_array_equal(getattr(whole, field.name), getattr(light, field.name))
