"""Which files a recognise or segment section means by Open-Vocabulary SAM, and what they say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models.resolve import WeightPlan, trained_plan
from wsi_pipeline.models.weights import locate
from wsi_pipeline.workflow import ModelSettings, RecogniseSettings

if TYPE_CHECKING:
    from wsi_pipeline.models.ov_sam.region_head import RegionFacts

KIND = "ov-sam"


def ov_sam_plan(settings: ModelSettings, *, section: str = "recognise") -> WeightPlan:
    """The files behind ``model: ov-sam`` on a shared encoder: what training wrote, and the backbone it names.

    Raises:
        WorkflowError: two files of weights, none where none ships, or an unknown backbone.
        WeightsError: a file is missing or of another kind, or was trained on another backbone.
    """
    return trained_plan(KIND, settings, section, lambda path: region_facts(path).backbone)


def region_facts(path: Path) -> RegionFacts:
    """What a file of a trained region head says of itself.

    Raises:
        WeightsError: it is unreadable or of another kind.
    """
    from wsi_pipeline.models.ov_sam.region_head import RegionFacts

    return RegionFacts.read(path)


def weight_files(settings: ModelSettings) -> Mapping[str, Path]:
    """Role to file of a section.

    Raises:
        WorkflowError, WeightsError: see ``ov_sam_plan``, ``image_text_weights`` and ``minilm_weights``.
    """
    clip = settings.clip
    if clip is None:
        files = ov_sam_plan(settings).files
        return {**files, "minilm": _minilm()} if region_facts(files[KIND]).text == "minilm" else files
    from wsi_pipeline.models.image_text.local import image_text_weights

    trained = {} if settings.weights is None else {KIND: locate(settings.weights)}
    return {"clip": image_text_weights(clip.path)} | trained


def class_names(settings: ModelSettings) -> tuple[str, ...]:
    """The classes of a recognise section: its own, else those that its weights were trained on.

    Raises:
        WorkflowError: neither it nor its weights name any.
        WeightsError: a file is missing or of another kind.
    """
    if isinstance(settings, RecogniseSettings) and settings.classes:
        return settings.names
    if settings.clip is not None:
        raise WorkflowError(
            "an image-text network knows no classes by itself",
            where="recognise.classes",
            fix="Name them, e.g. {tumor: [carcinoma], stroma: []}",
        )
    return tuple(one.name for one in region_facts(ov_sam_plan(settings).files[KIND]).classes)


def context_factor(settings: ModelSettings) -> float | None:
    """How much farther the low patches see that the weights were trained on; None where they are not looked at."""
    if settings.clip is not None or not isinstance(settings, RecogniseSettings):
        return None
    return region_facts(ov_sam_plan(settings).files[KIND]).context_factor


def _minilm() -> Path:
    from wsi_pipeline.models.image_text.minilm import minilm_weights

    return minilm_weights()
