"""What is known about a source of prompts without building it."""

from __future__ import annotations

from wsi_pipeline.models.registry import find_model, listed
from wsi_pipeline.models.resolve import domain_plan
from wsi_pipeline.workflow import DomainDecoderPrompts, MatcherPrompts, PromptSettings, TextPrompts, Workflow


def prompter_weights(prompts: PromptSettings | None) -> list[dict[str, str]]:
    """The files that a source's prompts follow from, as ``registry.weights_of``; none where it has no network.

    Raises:
        WeightsError: a file is missing or of another kind.
        WorkflowError, PromptError: an example cannot be used.
    """
    if isinstance(prompts, DomainDecoderPrompts):
        return listed(domain_plan(prompts.weights).files)
    if isinstance(prompts, MatcherPrompts):
        from wsi_pipeline.models.matcher.facts import example_files, matcher_files

        return listed(matcher_files(prompts)) + example_files(prompts)
    if isinstance(prompts, TextPrompts):
        from wsi_pipeline.models.sam_clip.plan import text_prompts_plan

        return listed(text_prompts_plan(prompts).files)
    return []


def prompter_class_names(prompts: PromptSettings | None) -> tuple[str, ...]:
    """The classes that a source tells apart by itself, the first being class 1.

    Raises:
        WorkflowError, PromptError: an example cannot be used.
    """
    if isinstance(prompts, MatcherPrompts):
        from wsi_pipeline.models.matcher.facts import example_classes

        return example_classes(prompts)
    return prompts.targets if isinstance(prompts, TextPrompts) else ()


def learns_slide(workflow: Workflow) -> bool:
    """Whether a model of the workflow wants to look at a whole slide first, see ``roles.SlideAware``."""
    prompts, segment = workflow.prompts, workflow.segment
    if isinstance(prompts, MatcherPrompts) and prompts.centre == "slide":
        return True
    return segment is not None and find_model(segment.model).learns_slide(segment)
