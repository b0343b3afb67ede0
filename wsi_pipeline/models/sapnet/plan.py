"""Which files a section of a workflow means by SAPNet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models.resolve import WeightPlan, trained_plan
from wsi_pipeline.models.sapnet.file import KIND, SapNetFacts
from wsi_pipeline.workflow import ModelSettings


def sapnet_plan(settings: ModelSettings, *, section: str = "segment") -> WeightPlan:
    """The files behind ``model: sapnet``: what training wrote, and the backbone it names.

    Raises:
        WorkflowError: two files of weights, none where none ships, an unknown backbone, or no instance branch.
        WeightsError: a file is missing or of another kind, or was trained on another backbone.
    """
    plan = _plan(settings, section)
    path = plan.files[KIND]
    if not SapNetFacts.read(path).settings.instances:
        fix = f"Use model {KIND}-select and click, or train it with instances"
        raise WorkflowError(f"{path.name} finds nothing without clicks", where=f"{section}.weights", fix=fix)
    return plan


def selector_plan(settings: ModelSettings, *, section: str = "segment") -> WeightPlan:
    """The files behind ``model: sapnet-select``, with those of the segmenter whose masks it chooses among.

    Raises:
        WorkflowError, WeightsError: as ``sapnet_plan``, but for the instance branch, which is not needed.
    """
    plan = _plan(settings, section)
    return WeightPlan(plan.backbone, {**plan.files, **proposer_files(SapNetFacts.read(plan.files[KIND]))})


def proposer_files(facts: SapNetFacts) -> Mapping[str, Path]:
    """The files of the segmenter that proposes masks, by role.

    Raises:
        WorkflowError, WeightsError: there is no such model, or a file is missing or of another kind.
    """
    from wsi_pipeline.models.registry import find_model

    settings = proposer_settings(facts)
    files = find_model(settings.model, section="proposer").weight_files(settings)
    return {f"proposer {role}": path for role, path in files.items()}


def proposer_settings(facts: SapNetFacts) -> ModelSettings:
    """The segmenter that proposes masks, as a section of a workflow."""
    asked = facts.proposer
    return ModelSettings(model=asked.model, backbone=asked.backbone or facts.backbone, weights=asked.weights)


def class_names(settings: ModelSettings) -> tuple[str, ...]:
    """The classes that a section's weights tell apart; raises as ``sapnet_plan``."""
    return _facts(settings).settings.classes


def context_factor(settings: ModelSettings) -> float | None:
    """How much farther the low patches see that proposals are made of; None where they are not looked at."""
    facts = _facts(settings)
    return facts.context_factor if facts.proposer.low_patch else None


def _facts(settings: ModelSettings) -> SapNetFacts:
    return SapNetFacts.read(_plan(settings, "segment").files[KIND])


def _plan(settings: ModelSettings, section: str) -> WeightPlan:
    return trained_plan(KIND, settings, section, lambda path: SapNetFacts.read(path).backbone)
