"""What is known about a matcher without building it: no torch is imported."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from wsi_pipeline.models.matcher.examples import example_classes
from wsi_pipeline.models.matcher.settings import MatcherSettings
from wsi_pipeline.models.resolve import BACKBONES, WeightPlan, sam_plan
from wsi_pipeline.models.weights import sha256_of
from wsi_pipeline.slides.slide import slide_handle
from wsi_pipeline.workflow import MatcherPrompts, ModelSettings, SegmentSettings

__all__ = ["class_names", "example_classes", "example_files", "matcher_files", "segment_files"]


def matcher_files(settings: MatcherPrompts) -> Mapping[str, Path]:
    """Role to file of the network whose features a prompts section compares.

    Raises:
        WeightsError: a file is missing or of another kind.
    """
    return {"features": _encoder_file(settings, sam_plan(ModelSettings(model="sam")))}


def segment_files(settings: SegmentSettings) -> Mapping[str, Path]:
    """Role to file of the networks of a segment section: the SAM that draws, and whose features are compared.

    Raises:
        WorkflowError: an unknown backbone.
        WeightsError: as ``matcher_files``.
    """
    plan = sam_plan(settings.model_copy(update={"model": "sam"}))
    return {**plan.files, "features": _encoder_file(settings.matcher or MatcherSettings(), plan)}


def class_names(settings: SegmentSettings) -> tuple[str, ...]:
    """The classes of the examples of a segment section; raises as ``example_classes``."""
    return example_classes(settings.matcher or MatcherSettings())


def example_files(settings: MatcherSettings) -> list[dict[str, str]]:
    """The files of the examples, as ``registry.weights_of``; of a slide the digest is that of its fingerprint.

    Raises:
        SlideError: a slide cannot be opened.
        WeightsError: an annotation file cannot be read.
    """
    listed = []
    for number, example in enumerate(settings.examples, start=1):
        slide = slide_handle(example.slide, example.mpp).info
        pixels = hashlib.sha256(f"{slide.fingerprint} {slide.resolution}".encode()).hexdigest()
        outline = sha256_of(example.annotation)
        listed.append({"role": f"example {number}", "file": example.slide.name, "sha256": pixels})
        listed.append({"role": f"example {number} outline", "file": example.annotation.name, "sha256": outline})
    return listed


def _encoder_file(settings: MatcherSettings, plan: WeightPlan) -> Path:
    if settings.encoder_weights is not None:
        return Path(settings.encoder_weights).expanduser()
    named = settings.encoder in BACKBONES
    return (sam_plan(ModelSettings(model="sam", backbone=settings.encoder)) if named else plan).files["sam"]
