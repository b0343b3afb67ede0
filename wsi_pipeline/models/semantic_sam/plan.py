"""What sections of a workflow mean by Semantic-SAM: a trained one on a shared encoder, or a published checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models.resolve import WeightPlan, trained_plan
from wsi_pipeline.models.semantic_sam.file import KIND, SemanticFacts
from wsi_pipeline.models.weights import locate
from wsi_pipeline.workflow import ModelSettings, RecogniseSettings


def semantic_plan(settings: ModelSettings, *, section: str = "segment") -> WeightPlan:
    """The files behind a trained ``model: semantic-sam``: what training wrote, and the backbone it names.

    Raises:
        WorkflowError: two files of weights, none where none ships, or an unknown backbone.
        WeightsError: a file is missing or of another kind, or was trained on another backbone.
    """
    return trained_plan(KIND, settings, section, lambda path: SemanticFacts.read(path).backbone)


def is_published(settings: ModelSettings) -> bool:
    """Whether a section gives a published checkpoint, which brings a backbone of its own.

    Raises:
        WeightsError: the file is missing or unreadable.
    """
    from wsi_pipeline.models.checkpoints import read_metadata

    return settings.weights is not None and KIND not in read_metadata(locate(settings.weights))


def semantic_files(settings: ModelSettings, *, section: str = "segment") -> Mapping[str, Path]:
    """Role to file of a section.

    Raises:
        WorkflowError: it names a backbone or a second file for a published checkpoint; or see ``semantic_plan``.
        WeightsError: see ``semantic_plan``.
    """
    if settings.weights is None or not is_published(settings):
        return semantic_plan(settings, section=section).files
    for key in ("backbone", "weights_low"):
        if getattr(settings, key) is not None:
            said = "a published checkpoint of Semantic-SAM is whole"
            raise WorkflowError(said, where=f"{section}.{key}", fix="Remove the key")
    return {KIND: locate(settings.weights)}


def class_names(settings: ModelSettings) -> tuple[str, ...]:
    """The classes that a recognise section means: its own, else the objects that its file names, else the parts.

    Raises:
        WorkflowError, WeightsError: see ``semantic_plan``.
    """
    if not isinstance(settings, RecogniseSettings):
        return ()
    if settings.classes:
        return settings.names
    known = SemanticFacts.read(semantic_plan(settings, section="recognise").files[KIND]).settings
    return known.objects or known.parts
