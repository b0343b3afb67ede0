"""From sections of a workflow to SAM-CLIP in its roles."""

from __future__ import annotations

from typing import Any

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models.builders import DTYPES
from wsi_pipeline.models.image_text import TextEncoder
from wsi_pipeline.models.image_text.class_table import ClassTable
from wsi_pipeline.models.image_text.local import load_image_text
from wsi_pipeline.models.ov_sam.settings import ClipSettings
from wsi_pipeline.models.registry import section_of
from wsi_pipeline.models.resolve import WeightPlan
from wsi_pipeline.models.sam_clip.facts import KIND, MINILM
from wsi_pipeline.models.sam_clip.finder import TextFinder
from wsi_pipeline.models.sam_clip.model import SamClip
from wsi_pipeline.models.sam_clip.network import MergedSam, load_merged_sam
from wsi_pipeline.models.sam_clip.plan import (
    places_of,
    regions_plan,
    sam_clip_plan,
    text_prompts_plan,
    vocabulary_of,
)
from wsi_pipeline.models.sam_clip.recogniser import SamClipRecogniser
from wsi_pipeline.workflow import ModelSettings, RecogniseSettings, SegmentSettings, TextPrompts


def build_segmenter(settings: ModelSettings, *, device: str = "cpu", dtype: str = "fp32") -> SamClip:
    """The model of a segment or refine section.

    Raises:
        WorkflowError, WeightsError: see ``sam_clip_plan`` and ``text_encoder_of``.
    """
    plan = sam_clip_plan(settings, section=section_of(settings))
    return _model(plan, settings, device=device, dtype=dtype, multimask=settings.multimask)


def build_recogniser(settings: RecogniseSettings, *, device: str = "cpu", dtype: str = "fp32") -> SamClipRecogniser:
    """The model of a recognise section; without classes, it names those of its file.

    Raises:
        WorkflowError, WeightsError: see ``sam_clip_plan``, ``vocabulary_of`` and ``text_encoder_of``.
    """
    plan = sam_clip_plan(settings, section="recognise")
    return SamClipRecogniser(_model(plan, settings, device=device, dtype=dtype), vocabulary_of(settings))


def build_text_prompter(settings: TextPrompts, *, device: str = "cpu", dtype: str = "fp32") -> TextFinder:
    """The prompter of a section with ``source: text``.

    Raises:
        WorkflowError, WeightsError: see ``text_prompts_plan``, ``text_encoder_of`` and ``TextFinder``.
    """
    return TextFinder(_model(text_prompts_plan(settings), settings, device=device, dtype=dtype), settings)


def build_regions(settings: SegmentSettings, *, device: str = "cpu", dtype: str = "fp32") -> TextFinder:
    """The model of a segment section with ``model: sam-clip-regions``.

    Raises:
        WorkflowError, WeightsError: see ``regions_plan``, ``places_of``, ``text_encoder_of`` and ``TextFinder``.
    """
    model = _model(regions_plan(settings), settings, device=device, dtype=dtype)
    return TextFinder(model, places_of(settings), margin=settings.window_margin)


def text_encoder_of(network: MergedSam, clip: ClipSettings | None = None, *, device: str = "cpu") -> TextEncoder:
    """The encoder of the words that a network understands.

    Args:
        network: says which one that is.
        clip: the network it is part of; None for words in the file, and for the sentence encoder.
        device: where to compute.

    Raises:
        WorkflowError: it is another one, or is not given.
        WeightsError: it cannot be read.
    """
    facts = network.facts
    if clip is not None:
        found = load_image_text(clip.path, clip.model, device=device)
        if found.name != facts.teacher:
            said = f"understands the words of {facts.teacher}, not of {found.name}"
            raise WorkflowError(said, where=KIND, fix="Set clip to the network it learned from")
        return found
    if network.words is not None:
        return ClassTable(facts.classes, network.words.to(device), float(network.logit_scale.detach().exp()))
    if facts.text == MINILM:
        from wsi_pipeline.models.image_text.minilm import MiniLm

        return MiniLm(device=device)
    raise WorkflowError(
        f"understands the words of {facts.teacher}, which are not in its file",
        where=KIND,
        fix="Set clip to the network it learned from, or train it with words",
    )


def _model(
    plan: WeightPlan, settings: ModelSettings | TextPrompts, *, device: str, dtype: str, **options: Any
) -> SamClip:
    network = load_merged_sam(plan)
    text = text_encoder_of(network, settings.clip, device=device)
    return SamClip(network, text, device=device, dtype=DTYPES[dtype], **options)
