"""From a workflow's ``prompts`` section to the prompter that looks at every tile."""

from __future__ import annotations

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models.roles import Prompter
from wsi_pipeline.workflow import GridPrompts, NucleusDetectorPrompts, PromptSettings


def build_prompter(settings: PromptSettings | None) -> Prompter:
    """The prompter of a dense run.

    Raises:
        WorkflowError: the section names a source of prompted runs, or is missing.
    """
    if isinstance(settings, NucleusDetectorPrompts):
        from wsi_pipeline.prompts.nuclei import NucleusDetector

        return NucleusDetector(settings)
    if isinstance(settings, GridPrompts):
        from wsi_pipeline.prompts.grid import PointGrid

        return PointGrid(settings)
    source = "none" if settings is None else settings.source
    raise WorkflowError(
        f"{source} gives no prompts per tile", where="prompts.source", fix="Use nucleus-detector or grid"
    )
