from __future__ import annotations

import numpy as np

from wsi_pipeline.models.roles import PairImages, PromptBatch
from wsi_pipeline.segment import decoding
from wsi_pipeline.segment.decoding import decode_in_calls


def test_ten_thousand_prompts_on_one_tile_are_answered_in_bounded_calls(fakes, monkeypatch) -> None:
    monkeypatch.setattr(decoding, "ANSWER_PX", 2**16)
    random = np.random.default_rng(0)
    corner = random.uniform(0, 50, (10_000, 2))
    boxes = np.concatenate([corner, corner + random.uniform(2, 14, (10_000, 2))], axis=1).astype(np.float32)
    image = np.full((1, 64, 64, 3), 40, np.uint8)
    prompts = PromptBatch(np.zeros(len(boxes), np.int64), boxes=boxes)
    seen = []
    for rows, answers in decode_in_calls(fakes.segmenter(), PairImages(image), prompts, margin=0.5):
        seen += rows.tolist()
        assert answers.logits.size <= 4 * 2**16  # windows of a call differ by at most a factor of two in side
    assert sorted(seen) == list(range(10_000))
