"""What a file of SAM-CLIP says of itself: the head alone, or a SAM with it.

Keys are those of SAM, ``image_encoder.``, ``prompt_encoder.`` and ``mask_decoder.``, if SAM is in it, and besides
``clip_head.`` and ``logit_scale``; where words have no encoder of their own, their vectors are in it as ``words``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wsi_pipeline.models.file_facts import FileFacts
from wsi_pipeline.settings import Section
from wsi_pipeline.vocabulary import Classes

KIND = "sam-clip"
TABLE, MINILM = "table", "minilm"
"""Names of text encoders that need no files: vectors of some classes in the file itself, and a sentence encoder."""


class HeadShape(Section):
    """Size of the head; the published one has 768 channels and 12 heads."""

    width: int = Field(64, ge=8, description="channels")
    depth: int = Field(3, ge=0, description="transformer layers")
    heads: int = Field(4, ge=1, description="of attention")
    places: Literal["both", "alone", "together"] = Field(
        "both", description="maps show what each token says alone, together with all others, as published, or the mean"
    )
    pool: Literal["max", "mean"] = Field("max", description="what of the tokens is kept for a patch as a whole")


class ClipFacts(FileFacts):
    """What a file says of itself besides its parameters.

    Attributes:
        backbone: the SAM it was trained on, as written in workflows.
        teacher: name of the image-text network it learned from.
        text: the text encoder that it understands: ``table``, ``minilm``, or the name of the teacher's.
        dim: D, length of that encoder's vectors.
        shape: of the head.
        classes: those whose vectors are in the file, with the words for them; none where ``text`` is no table.
        templates: sentences that the teacher's words were put into.
        data: what it was trained on, and under which licences.
    """

    kind = KIND
    missing = "what SAM-CLIP learned"

    backbone: str
    teacher: str
    text: str
    dim: int
    shape: HeadShape = HeadShape()
    classes: Classes = ()
    templates: tuple[str, ...] = ("{}",)
    data: str = ""
