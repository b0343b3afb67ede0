"""Workflows made ready for a run: models checked, weights named, precision chosen by a worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wsi_pipeline.run.flow import Flow
from wsi_pipeline.run.walk import Recipe
from wsi_pipeline.workflow import Workflow


def weights_named(workflow: Workflow) -> list[dict[str, Any]]:
    """Facts about every file of weights that a workflow needs.

    Raises:
        WsiPipelineError: one cannot be used.
    """
    from wsi_pipeline.models.registry import prompter_weights, weights_of

    found: list[dict[str, Any]] = []
    for stage, settings in (("segment", workflow.segment), ("refine", workflow.refine)):
        if settings is not None:
            found += [{"stage": stage} | facts for facts in weights_of(settings)]
    return found + [{"stage": "prompts"} | facts for facts in prompter_weights(workflow.prompts)]


def make_ready(
    flow: Flow, workflow: Workflow, weights: list[dict[str, Any]], earlier: Mapping[str, Any]
) -> tuple[Recipe, dict[str, Any]]:
    """Have a worker build the models and choose their precision.

    Args:
        flow: to the workers: that is where the models will run, and it keeps torch out of the coordinator.
        workflow: what to make ready.
        weights: see ``weights_named``.
        earlier: what ``run.json`` says of the run that this one goes on with; its choice of precision is kept.

    Returns:
        The recipe, and facts about its models for ``run.json``.
    """
    if workflow.segment is None and workflow.refine is None:
        return Recipe(workflow, weights, {}, 0), {}
    from wsi_pipeline.run.worker_models import prepare_models

    facts: dict[str, Any] = flow.call(prepare_models, workflow, _dtypes_before(workflow, earlier), model=True)
    return Recipe(workflow, weights, facts.get("dtypes", {}), facts.get("input_size", 0)), facts


def _dtypes_before(workflow: Workflow, earlier: Mapping[str, Any]) -> dict[str, str]:
    same = plain(workflow)
    for one in [earlier, *earlier.get("changed", [])]:
        if one.get("workflow") == same:
            return dict(one.get("model", {}).get("dtypes", {}))
    return {}


def plain(workflow: Workflow) -> dict[str, Any]:
    """The workflow as ``run.json`` has it."""
    return workflow.model_dump(mode="json", by_alias=True)
