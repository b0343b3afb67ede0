"""What goes into the decoder and what comes out of it.

Layout: B images, n prompts on each, six answers to each prompt, features of C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from wsi_pipeline.granularity import LEVELS

GUESSES = LEVELS
"""Answers to a prompt, one for each granularity."""
POINT, BOX = 0, 1
"""Kinds of prompts; published training numbers points otherwise than published inference, which counts here."""

Shapes = tuple[tuple[int, int], ...]
"""(height, width) of the levels of a memory."""


class Features(NamedTuple):
    """What a network sees on B images, computed once.

    Attributes:
        masks: (B, C, h, w) what masks are drawn with.
        memory: (B, S, C) what queries look at: the cells of all levels, the coarsest level first, line by line.
        shapes: of the levels, in the order of ``memory``.
        values: what the decoder's layers make of ``memory``, where images are asked about again and again.
    """

    masks: Tensor
    memory: Tensor
    shapes: Shapes
    values: Sequence[Tensor] = ()


class Answers(NamedTuple):
    """Six answers to each of n prompts on B images.

    Attributes:
        masks: (B, n, 6, h, w) logits, above 0 inside, over the image at the resolution of ``Features.masks``: every
            4th px of the official network, twice as fine as SAM's embedding of the small one.
        quality: (B, n, 6) predicted quality as it comes out of the head, without a sigmoid, as published: about 0..1.
        boxes: (B, n, 6, 4) cx, cy, w, h as shares of the image.
        objects: (B, n, 6, K) logits of the classes of objects; None without names.
        parts: (B, n, 6, K') logits of the classes of parts; None without names.
    """

    masks: Tensor
    quality: Tensor
    boxes: Tensor
    objects: Tensor | None
    parts: Tensor | None
