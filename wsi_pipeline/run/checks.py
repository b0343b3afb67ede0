"""What the models of a workflow cannot do, said before anything runs."""

from __future__ import annotations

from collections.abc import Iterable

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models.registry import (
    ModelSpec,
    available_models,
    backbone_of,
    class_names,
    find_model,
    prompt_kinds,
    section_of,
)
from wsi_pipeline.models.resolve import BACKBONES, domain_facts, domain_plan, target_number
from wsi_pipeline.prompts.facts import prompter_class_names
from wsi_pipeline.workflow import (
    DomainDecoderPrompts,
    GridPrompts,
    MatcherPrompts,
    ModelSettings,
    NucleusDetectorPrompts,
    PromptSettings,
    RecogniseSettings,
    SegmentModelPrompts,
    SegmentSettings,
    TextPrompts,
    TissueBoxPrompts,
    Workflow,
    model_sections,
)

_ROLES = {"segment": ("Segmenter", "InstanceSegmenter"), "refine": ("Refiner",), "recognise": ("Recogniser",)}
"""One of these a model has to play in a section."""


def check_models(workflow: Workflow) -> list[str]:
    """Refuse what the models of a workflow cannot do, before anything runs.

    Returns:
        Warnings: what they will do otherwise than asked.

    Raises:
        WorkflowError: naming the section, the model and what to change.
        WeightsError: a weight file is missing or of another kind.
    """
    warnings = [
        line for section, settings in model_sections(workflow).items() for line in _check_model(section, settings)
    ]
    if workflow.segment is not None and workflow.prompts is not None:
        check_prompts(workflow.segment, workflow.prompts)
    prompter_class_names(workflow.prompts)  # an example that is none shows now
    factor = workflow.tiling.context_factor
    if isinstance(workflow.prompts, DomainDecoderPrompts):
        facts = domain_facts(domain_plan(workflow.prompts.weights).files["domain-decoder"])
        target_number(workflow.prompts, facts.classes)
        _check_context(facts.context_factor, factor)
    for settings in (workflow.segment, workflow.recognise):
        if settings is not None:
            _check_context(find_model(settings.model).context_factor(settings), factor)
    return warnings


def _check_context(trained_on: float | None, context_factor: float) -> None:
    """Refuse low patches that see farther, or less far, than those a model was trained on."""
    if trained_on not in (None, context_factor):
        raise WorkflowError(
            f"the model was trained on low patches that see {trained_on:g} times as far",
            where="tiling.context_factor",
            fix=f"Set it to {trained_on:g}",
        )


def _check_model(section: str, settings: ModelSettings) -> list[str]:
    spec = find_model(settings.model, section=section)
    roles = _ROLES[section]
    if not set(roles) & set(spec.roles):
        said = f"{spec.name} is no {roles[0]}"
        raise WorkflowError(said, where=f"{section}.model", fix="See `wsi-pipeline models list`")
    if settings.clip is not None and spec.clip is None:
        fix = "Remove the key, or use ov-sam or sam-clip"
        raise WorkflowError(f"{spec.name} takes no image-text network", where=f"{section}.clip", fix=fix)
    if isinstance(settings, SegmentSettings) and settings.granularity and not spec.granular:
        granular = " or ".join(one.name for one in available_models() if one.granular)
        fix = f"Remove the key, or set segment.model to {granular}"
        raise WorkflowError(f"{spec.name} knows no levels of granularity", where="segment.granularity", fix=fix)
    if isinstance(settings, RecogniseSettings) or "InstanceSegmenter" in spec.roles:
        spec.weight_files(settings)  # a missing or foreign file shows now, and an example that is none
        _check_classes(spec, settings)
    backbone = backbone_of(spec, settings)
    if spec.name == "hq-sam" and settings.hq_token_only and set(spec.weight_files(settings)) == {"sam"}:
        raise WorkflowError(
            "the high-quality branch is not trained and alone draws nothing",
            where=f"{section}.hq_token_only",
            fix=f"Set it to false, or give {section}.weights",
        )
    if settings.multimask and backbone is not None and not BACKBONES[backbone].guesses:
        return [f"{section}.multimask: {backbone} gives one mask per prompt, and that one is taken"]
    return []


def _check_classes(spec: ModelSpec, settings: ModelSettings) -> None:
    """Refuse a recogniser that has nothing to choose among."""
    if not class_names(settings) and isinstance(settings, RecogniseSettings):
        raise WorkflowError(
            f"names no classes, and {spec.name} brings none",
            where="recognise.classes",
            fix="Name them, e.g. {tumor: [carcinoma], stroma: []}",
        )


def check_prompts(settings: ModelSettings, prompts: PromptSettings) -> None:
    """Refuse a prompt source whose prompts the model cannot answer, before anything runs.

    What a QuPath file holds is known only once it is read: see ``check_prompt_kinds``.

    Raises:
        WorkflowError: naming the model, the source and what to change.
    """
    _check_who_finds(settings, prompts)
    if isinstance(prompts, SegmentModelPrompts):
        return
    if isinstance(prompts, GridPrompts):
        check_prompt_kinds(settings, {"point"}, where="prompts.source")
        _check_guesses(settings)
    elif isinstance(prompts, TissueBoxPrompts):
        check_prompt_kinds(settings, {"box"}, where="prompts.source")
    elif isinstance(prompts, NucleusDetectorPrompts | DomainDecoderPrompts | MatcherPrompts | TextPrompts):
        # every detection comes as a box and as a point: one of them is enough
        if not prompt_kinds(settings) & {"box", "point"}:
            check_prompt_kinds(settings, {"box"}, where="prompts.source")
    else:
        prompt_kinds(settings)  # an unknown model or backbone shows now, not after the file is read


def _check_who_finds(settings: ModelSettings, prompts: PromptSettings) -> None:
    """Refuse prompts for a model that takes none, and none for a model that needs them."""
    spec = find_model(settings.model, section=section_of(settings))
    if isinstance(prompts, SegmentModelPrompts) and "InstanceSegmenter" not in spec.roles:
        finders = " or ".join(one.name for one in available_models() if "InstanceSegmenter" in one.roles)
        raise WorkflowError(
            f"{spec.name} finds nothing by itself",
            where="prompts.source",
            fix=f"Set segment.model to {finders}, or give a source of prompts",
        )
    if not isinstance(prompts, SegmentModelPrompts) and "Segmenter" not in spec.roles:
        raise WorkflowError(
            f"{spec.name} finds objects by itself and takes no prompts",
            where="prompts.source",
            fix="Set it to segment-model, or segment.model to another one",
        )


def _check_guesses(settings: ModelSettings) -> None:
    """Refuse to choose among guesses by their predicted IoU where neither was trained."""
    spec = find_model(settings.model, section=section_of(settings))
    backbone = backbone_of(spec, settings)
    if backbone is None or spec.granular or BACKBONES[backbone].guesses:
        return
    guessing = " or ".join(name for name in spec.backbones if BACKBONES[name].guesses)
    raise WorkflowError(
        f"{spec.name} on {backbone} does not guess, and automatic masks are chosen among guesses",
        where="prompts.source",
        fix=f"Set {section_of(settings)}.backbone to {guessing}, or give another source of prompts",
    )


def check_prompt_kinds(settings: ModelSettings, kinds: Iterable[str], *, where: object = None) -> None:
    """Refuse prompts of kinds the model cannot answer.

    Args:
        settings: the segment section.
        kinds: ``box``, ``point`` and ``mask`` as they occur; a mask prompt has a box too and passes with it.
        where: the file or key the prompts come from.

    Raises:
        WorkflowError: naming the model and what to change.
    """
    taken = prompt_kinds(settings)
    refused = sorted(kind for kind in set(kinds) if kind not in taken and not (kind == "mask" and "box" in taken))
    if not refused:
        return
    spec = find_model(settings.model, section=section_of(settings))
    backbone = backbone_of(spec, settings)
    model = f"{spec.name} on {backbone}" if backbone else spec.name
    fitting = [name for name in spec.backbones if set(refused) <= BACKBONES[name].prompt_kinds & spec.prompt_kinds]
    fix = f"Set {section_of(settings)}.backbone to {' or '.join(fitting)}" if fitting else "Use another model"
    raise WorkflowError(
        f"{model} takes {_plural(taken)} only, not {_plural(refused)}",
        where=where,
        fix=f"{fix}, or give {_plural(taken)}",
    )


def _plural(kinds: Iterable[str]) -> str:
    words = {"box": "boxes", "point": "points", "mask": "masks"}
    return " and ".join(words.get(kind, kind) for kind in sorted(kinds))
