"""Workflows made ready for a run: models checked, weights named, precision chosen by a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from wsi_pipeline.run.flow import Flow
from wsi_pipeline.run.requests import Settings
from wsi_pipeline.run.walk import Recipe
from wsi_pipeline.workflow import Workflow, model_sections

_MODEL_SECTIONS = ("segment", "refine", "recognise", "prompts")
"""Sections of a workflow that its models follow from."""


@dataclass(frozen=True, slots=True)
class Models:
    """What single slides change of the models; most archives have one of these, whatever else slides change.

    Attributes:
        workflow: with these changes and no others.
        weights: facts about every file of weights.
        notes: what people should know.
    """

    workflow: Workflow
    weights: list[dict[str, Any]]
    notes: list[str]


def models_part(settings: Settings) -> Settings:
    """The settings of a slide that its models follow from."""
    return tuple((key, value) for key, value in settings if key.partition(".")[0] in _MODEL_SECTIONS)


def name_models(settings: Iterable[Settings], change: Callable[[dict[str, Any]], Workflow]) -> dict[Settings, Models]:
    """The models of all slides, by ``models_part`` of their settings; first those of the workflow as it is.

    Raises:
        WsiPipelineError: one cannot be used.
    """
    from wsi_pipeline.run.checks import check_models

    parts = dict.fromkeys([(), *map(models_part, settings)])
    workflows = {part: change(dict(part)) for part in parts}
    return {part: Models(one, _weights_named(one), list(check_models(one))) for part, one in workflows.items()}


def make_ready(flow: Flow, models: Models, earlier: Mapping[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """Have a worker build the models and choose their precision.

    Args:
        flow: to the workers: that is where the models will run, and it keeps torch out of the coordinator.
        models: what to make ready.
        earlier: what ``run.json`` says of the run that this one goes on with; its choice of precision is kept.

    Returns:
        The recipe, and facts for ``run.json``.
    """
    workflow = models.workflow
    told = {"workflow": workflow.model_dump(mode="json", by_alias=True), "weights": models.weights}
    if not model_sections(workflow):
        return Recipe(workflow, models.weights, {}, 0), told | {"model": {}}
    from wsi_pipeline.run.worker_models import prepare_models

    before = _dtypes_before(told["workflow"], earlier)
    facts: dict[str, Any] = flow.call(prepare_models, workflow, before, model=True)
    recipe = Recipe(workflow, models.weights, facts.get("dtypes", {}), facts.get("input_size", 0))
    return recipe, told | {"model": facts}


def _weights_named(workflow: Workflow) -> list[dict[str, Any]]:
    """Facts about every file of weights that a workflow needs."""
    from wsi_pipeline.models.registry import weights_of
    from wsi_pipeline.prompts.facts import prompter_weights

    found: list[dict[str, Any]] = []
    for stage, settings in model_sections(workflow).items():
        found += [{"stage": stage} | facts for facts in weights_of(settings)]
    return found + [{"stage": "prompts"} | facts for facts in prompter_weights(workflow.prompts)]


def _dtypes_before(workflow: Any, earlier: Mapping[str, Any]) -> dict[str, str]:
    for one in [earlier, *earlier.get("changed", [])]:
        if one.get("workflow") == workflow:
            return dict(one.get("model", {}).get("dtypes", {}))
    return {}
