"""Prompted mode: answers, and outlines a person drew, told apart by the recognise stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from wsi_pipeline.models.roles import PairImages
from wsi_pipeline.prompts.prompt import Prompt
from wsi_pipeline.segment.decoding import select
from wsi_pipeline.segment.placement import PairKey, Placement
from wsi_pipeline.segment.recognise import PatchMask, RecogniseStage, outline_on_patch, recognise_masks
from wsi_pipeline.segment.refine import encode_again
from wsi_pipeline.segment.verdicts import Verdict
from wsi_pipeline.tiling.read import GridReader


def recognise_verdicts(
    stage: RecogniseStage,
    slide: GridReader,
    placement: Placement,
    asked: Mapping[PairKey, Sequence[tuple[int, Prompt]]],
    images: PairImages,
    verdicts: Mapping[int, Verdict],
) -> list[tuple[int, Verdict]]:
    """Verdicts with the probabilities of their objects' classes, by number of the prompt.

    Args:
        stage: who tells them apart.
        slide: where to read, if it takes patches of another size.
        placement: where the pairs lie.
        asked: the pairs, and their prompts with their numbers.
        images: of the pairs, in their order.
        verdicts: on these prompts, by number.
    """
    seen = {key: [one for one in on_it if verdicts[one[0]].found is not None] for key, on_it in asked.items()}
    rows = [row for row, on_it in enumerate(seen.values()) if on_it]
    keys = [key for key, on_it in seen.items() if on_it]
    told: dict[int, np.ndarray] = {}
    if keys:
        pairs = [placement.pair(key) for key in keys]
        embedding = encode_again(stage.recogniser, slide, pairs, select(images, np.array(rows)))
        for image, key in enumerate(keys):
            masks = [_on_patch(verdicts[number], prompt, key, placement) for number, prompt in seen[key]]
            table = recognise_masks(stage, embedding, image, masks, placement.input_size)
            told |= zip((number for number, _ in seen[key]), table, strict=True)
    return [(number, verdict.done(told.get(number))) for number, verdict in verdicts.items()]


def _on_patch(verdict: Verdict, prompt: Prompt, key: PairKey, placement: Placement) -> PatchMask:
    """The object of a verdict on its patch; where it was not drawn it is the prompt's own outline."""
    if verdict.mask is not None:
        return verdict.mask
    return outline_on_patch(prompt.geometry, placement.to_patch(key), placement.input_size)
