"""From a workflow's ``prompts`` section to the prompter that looks at every tile."""

from __future__ import annotations

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models.roles import Prompter
from wsi_pipeline.workflow import (
    DomainDecoderPrompts,
    GridPrompts,
    MatcherPrompts,
    NucleusDetectorPrompts,
    PromptSettings,
    TextPrompts,
)


def build_prompter(settings: PromptSettings | None, *, device: str = "auto", dtype: str = "fp32") -> Prompter:
    """The prompter of a dense run.

    Args:
        settings: the section.
        device, dtype: where and in what a network computes: as the segmenter, to share its embeddings.

    Raises:
        WorkflowError: the section names a source of prompted runs, or is missing; or see each prompter.
        WeightsError, PromptError: see each prompter.
    """
    if isinstance(settings, NucleusDetectorPrompts):
        from wsi_pipeline.prompts.nuclei import NucleusDetector

        return NucleusDetector(settings)
    if isinstance(settings, DomainDecoderPrompts):
        from wsi_pipeline.models.precision import pick_device
        from wsi_pipeline.prompts.domain_decoder import DomainPrompter

        return DomainPrompter(settings, device=pick_device(device), dtype=dtype)
    if isinstance(settings, MatcherPrompts):
        from wsi_pipeline.models.matcher.build import build_match_prompter
        from wsi_pipeline.models.precision import pick_device

        return build_match_prompter(settings, device=pick_device(device), dtype=dtype)
    if isinstance(settings, TextPrompts):
        from wsi_pipeline.models.precision import pick_device
        from wsi_pipeline.models.sam_clip.build import build_text_prompter

        return build_text_prompter(settings, device=pick_device(device), dtype=dtype)
    if isinstance(settings, GridPrompts):
        from wsi_pipeline.prompts.grid import PointGrid

        return PointGrid(settings)
    source = "none" if settings is None else settings.source
    raise WorkflowError(
        f"{source} gives no prompts per tile",
        where="prompts.source",
        fix="Use nucleus-detector, domain-decoder, matcher, text or grid",
    )
