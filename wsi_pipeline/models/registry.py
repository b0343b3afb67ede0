"""Models by name: those of the package and those other packages add.

A plug-in is an entry point of the group ``wsi_pipeline.models`` that loads to a ``ModelSpec``. Importing this
module loads neither torch nor any plug-in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models.head_prompts import ALL_PROMPTS
from wsi_pipeline.models.resolve import (
    BACKBONES,
    DEFAULT_BACKBONE,
    WeightPlan,
    domain_facts,
    domain_plan,
    domain_segment_plan,
    hq_sam_plan,
    kinds_taken,
    lora_sam_facts,
    lora_sam_plan,
    pa_sam_plan,
    sam_plan,
    target_number,
    wsi_sam_plan,
)
from wsi_pipeline.models.weights import sha256_of
from wsi_pipeline.workflow import (
    DomainDecoderPrompts,
    GridPrompts,
    ModelSettings,
    NucleusDetectorPrompts,
    PromptSettings,
    RefineSettings,
    SegmentModelPrompts,
    TissueBoxPrompts,
    Workflow,
)

if TYPE_CHECKING:
    from wsi_pipeline.models.roles import InstanceSegmenter, Segmenter

logger = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "wsi_pipeline.models"


class Builder(Protocol):
    """Makes a ready model from its section; ``device`` is torch's name, ``dtype`` is ``fp32`` or ``bf16``."""

    def __call__(self, settings: ModelSettings, *, device: str, dtype: str) -> Segmenter | InstanceSegmenter: ...


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """All there is to know about a model without building it.

    Attributes:
        name: as written in ``segment.model``.
        roles: which Protocols of ``roles.py`` it plays.
        description: one line.
        build: makes it.
        prompt_kinds: what it can be asked: ``box``, ``point``, ``mask``.
        backbones: names of the backbones it runs on, the default first; empty when it has none to choose.
        weight_files: role to file for such a section; these files make up the model's identity in provenance.
        class_names: classes that a model which finds objects by itself tells apart; none where it does not name them.
        context_factor: how much farther the low patches see that it was trained on; None where any will do.
        status: one line on how far it can be trusted.
    """

    name: str
    roles: tuple[str, ...]
    description: str
    build: Builder
    prompt_kinds: frozenset[str] = ALL_PROMPTS
    backbones: tuple[str, ...] = ()
    weight_files: Callable[[ModelSettings], Mapping[str, Path]] = field(default=lambda settings: {})
    class_names: Callable[[ModelSettings], tuple[str, ...]] = field(default=lambda settings: ())
    context_factor: Callable[[ModelSettings], float | None] = field(default=lambda settings: None)
    status: str = ""


Plan = Callable[..., WeightPlan]


def section_of(settings: ModelSettings) -> str:
    """The workflow section a model's settings stand in, for messages."""
    return "refine" if isinstance(settings, RefineSettings) else "segment"


def _built_in(name: str, plan: Plan, description: str, status: str) -> ModelSpec:
    def build(settings: ModelSettings, *, device: str, dtype: str) -> Segmenter:
        from wsi_pipeline.models import builders

        return builders.build(name, plan(settings, section=section_of(settings)), settings, device=device, dtype=dtype)

    return ModelSpec(
        name=name,
        roles=("Segmenter", "Refiner"),
        description=description,
        build=build,
        backbones=tuple(BACKBONES),
        weight_files=lambda settings: plan(settings, section=section_of(settings)).files,
        status=status,
    )


def _finder(
    name: str,
    plan: Plan,
    description: str,
    class_names: Callable[[Path], tuple[str, ...]],
    context_factor: Callable[[Path], float | None] = lambda path: None,
) -> ModelSpec:
    """A model that finds objects by itself, with what its file says of itself."""

    def files(settings: ModelSettings) -> Mapping[str, Path]:
        return plan(settings, section=section_of(settings)).files

    def build(settings: ModelSettings, *, device: str, dtype: str) -> InstanceSegmenter:
        from wsi_pipeline.models import builders

        found = plan(settings, section=section_of(settings))
        return builders.build_finder(name, found, settings, device=device, dtype=dtype)

    return ModelSpec(
        name=name,
        roles=("InstanceSegmenter",),
        description=description,
        build=build,
        prompt_kinds=frozenset(),
        backbones=tuple(BACKBONES),
        weight_files=files,
        class_names=lambda settings: class_names(files(settings)[name]),
        context_factor=lambda settings: context_factor(files(settings)[name]),
        status="trained weights ship for lite-medsam; on other backbones to be trained",
    )


_TRAINED = "trained heads ship for lite-medsam; on other backbones untrained unless weights are given"
_PLANS: dict[str, Plan] = {
    "sam": sam_plan,
    "hq-sam": hq_sam_plan,
    "pa-sam": pa_sam_plan,
    "wsi-sam": wsi_sam_plan,
    "lora-sam": lora_sam_plan,
    "domain-decoder": domain_segment_plan,
}
_BUILT_IN = {
    name: _built_in(name, _PLANS[name], description, status)
    for name, description, status in (
        ("sam", "SAM's mask decoder on one patch", "published weights"),
        ("hq-sam", "SAM with a high-quality token on fused features", _TRAINED),
        ("pa-sam", "SAM with a prompt adapter guided by the image's edges", _TRAINED),
        ("wsi-sam", "dual mask decoder on paired patches, HQ features and token aggregation", _TRAINED),
    )
} | {
    "lora-sam": _finder(
        "lora-sam",
        lora_sam_plan,
        "low-rank adapted encoder; finds objects without prompts",
        lambda path: lora_sam_facts(path).settings.classes,
    ),
    "domain-decoder": _finder(
        "domain-decoder",
        domain_segment_plan,
        "a small decoder on a frozen encoder; finds objects without prompts",
        lambda path: domain_facts(path).classes,
        lambda path: domain_facts(path).context_factor,
    ),
}


def available_models() -> list[ModelSpec]:
    """Every model that can be built: the package's own, then plug-ins by name.

    A plug-in that does not load is left out with a warning.
    """
    specs = list(_BUILT_IN.values())
    for name, point in _plug_ins().items():
        try:
            specs.append(_load(point))
        except WorkflowError as error:
            logger.warning("plug-in model %s is left out: %s", name, error)
    return specs


def find_model(name: str, *, section: str = "segment") -> ModelSpec:
    """The model of that name.

    Raises:
        WorkflowError: no such model, or its plug-in does not load.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    points = _plug_ins()
    if name in points:
        return _load(points[name])
    names = ", ".join([*_BUILT_IN, *points])
    raise WorkflowError(f"no such model: {name}", where=f"{section}.model", fix=f"Use one of {names}")


def build_segmenter(
    settings: ModelSettings, *, dtype: str | None = None, device: str | None = None
) -> Segmenter | InstanceSegmenter:
    """Build the model of a segment section, weights loaded, ready to answer.

    Args:
        settings: the section.
        dtype: ``fp32`` or ``bf16``; None takes ``settings.precision``, and where that is ``auto`` measures (see
            ``precision.choose_precision``, whose answer a coordinator passes on to its workers).
        device: torch's name of the device; None takes ``settings.device``.

    Raises:
        WorkflowError: unknown model, backbone or device.
        WeightsError: weights missing, damaged or of another model.
    """
    from wsi_pipeline.models.precision import choose_precision, pick_device

    spec = find_model(settings.model, section=section_of(settings))
    chosen = pick_device(device or settings.device)
    if dtype is None:
        dtype = choose_precision(settings, device=chosen).dtype
    return spec.build(settings, device=chosen, dtype=dtype)


def weights_of(settings: ModelSettings) -> list[dict[str, str]]:
    """The weight files a segment section uses, for provenance and fingerprints.

    Returns:
        One ``{"role", "file", "sha256"}`` per file, in a fixed order; ``file`` is the bare name.

    Raises:
        WorkflowError, WeightsError: as ``build_segmenter``.
    """
    return _listed(find_model(settings.model, section=section_of(settings)).weight_files(settings))


def prompter_weights(prompts: PromptSettings | None) -> list[dict[str, str]]:
    """The same for a prompts section; none where the source has no network.

    Raises:
        WeightsError: a file is missing or of another kind.
    """
    return _listed(domain_plan(prompts.weights).files) if isinstance(prompts, DomainDecoderPrompts) else []


def _listed(files: Mapping[str, Path]) -> list[dict[str, str]]:
    return [{"role": role, "file": path.name, "sha256": sha256_of(path)} for role, path in sorted(files.items())]


def prompt_kinds(settings: ModelSettings) -> frozenset[str]:
    """What the model of a segment section can be asked.

    Raises:
        WorkflowError: unknown model or backbone.
        WeightsError: the head's file is missing or unreadable.
    """
    spec = find_model(settings.model, section=section_of(settings))
    backbone = _backbone(spec, settings)
    return spec.prompt_kinds if backbone is None else spec.prompt_kinds & kinds_taken(settings, BACKBONES[backbone])


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
    elif isinstance(prompts, NucleusDetectorPrompts | DomainDecoderPrompts):
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
    backbone = _backbone(spec, settings)
    if backbone is None or BACKBONES[backbone].guesses:
        return
    guessing = " or ".join(name for name in spec.backbones if BACKBONES[name].guesses)
    raise WorkflowError(
        f"{spec.name} on {backbone} does not guess, and automatic masks are chosen among guesses",
        where="prompts.source",
        fix=f"Set {section_of(settings)}.backbone to {guessing}, or give another source of prompts",
    )


def class_names(settings: ModelSettings) -> tuple[str, ...]:
    """The classes that the model of a segment section tells apart by itself.

    Raises:
        WorkflowError, WeightsError: as ``build_segmenter``.
    """
    return find_model(settings.model, section=section_of(settings)).class_names(settings)


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
    backbone = _backbone(spec, settings)
    model = f"{spec.name} on {backbone}" if backbone else spec.name
    fitting = [name for name in spec.backbones if set(refused) <= BACKBONES[name].prompt_kinds & spec.prompt_kinds]
    fix = f"Set {section_of(settings)}.backbone to {' or '.join(fitting)}" if fitting else "Use another model"
    raise WorkflowError(
        f"{model} takes {_plural(taken)} only, not {_plural(refused)}",
        where=where,
        fix=f"{fix}, or give {_plural(taken)}",
    )


def check_models(workflow: Workflow) -> list[str]:
    """Refuse what the models of a workflow cannot do, before anything runs.

    Returns:
        Warnings: what they will do otherwise than asked.

    Raises:
        WorkflowError: naming the section, the model and what to change.
        WeightsError: a weight file is missing or of another kind.
    """
    stages = [settings for settings in (workflow.segment, workflow.refine) if settings is not None]
    warnings = [warning for settings in stages for warning in _check_model(settings)]
    if workflow.segment is not None and workflow.prompts is not None:
        check_prompts(workflow.segment, workflow.prompts)
    factor = workflow.tiling.context_factor
    if isinstance(workflow.prompts, DomainDecoderPrompts):
        facts = domain_facts(domain_plan(workflow.prompts.weights).files["domain-decoder"])
        target_number(workflow.prompts, facts.classes)
        _check_context(facts.context_factor, factor)
    if workflow.segment is not None:
        _check_context(find_model(workflow.segment.model).context_factor(workflow.segment), factor)
    return warnings


def _check_context(trained_on: float | None, context_factor: float) -> None:
    """Refuse low patches that see farther, or less far, than those a model was trained on."""
    if trained_on not in (None, context_factor):
        raise WorkflowError(
            f"the decoder was trained on low patches that see {trained_on:g} times as far",
            where="tiling.context_factor",
            fix=f"Set it to {trained_on:g}",
        )


def _check_model(settings: ModelSettings) -> list[str]:
    section, spec = section_of(settings), find_model(settings.model, section=section_of(settings))
    roles = ("Refiner",) if section == "refine" else ("Segmenter", "InstanceSegmenter")
    if not set(roles) & set(spec.roles):
        said = f"{spec.name} is no {roles[0]}"
        raise WorkflowError(said, where=f"{section}.model", fix="See `wsi-pipeline models list`")
    if "InstanceSegmenter" in spec.roles:
        spec.weight_files(settings)  # a missing or foreign file shows now
    backbone = _backbone(spec, settings)
    if spec.name == "hq-sam" and settings.hq_token_only and set(spec.weight_files(settings)) == {"sam"}:
        raise WorkflowError(
            "the high-quality branch is not trained and alone draws nothing",
            where=f"{section}.hq_token_only",
            fix=f"Set it to false, or give {section}.weights",
        )
    if settings.multimask and backbone is not None and not BACKBONES[backbone].guesses:
        return [f"{section}.multimask: {backbone} gives one mask per prompt, and that one is taken"]
    return []


def _backbone(spec: ModelSpec, settings: ModelSettings) -> str | None:
    """The backbone a section runs on; read from the weight files where they decide."""
    if not spec.backbones:
        return None
    if settings.backbone is not None:
        if settings.backbone not in BACKBONES:
            raise WorkflowError(
                f"no such backbone: {settings.backbone}",
                where=f"{section_of(settings)}.backbone",
                fix=f"Use one of {', '.join(spec.backbones)}",
            )
        return settings.backbone
    if settings.weights is None:
        return DEFAULT_BACKBONE
    return _PLANS[spec.name](settings, section=section_of(settings)).backbone.name


def _plug_ins() -> dict[str, EntryPoint]:
    return {point.name: point for point in sorted(entry_points(group=ENTRY_POINT_GROUP)) if point.name not in _BUILT_IN}


def _load(point: EntryPoint) -> ModelSpec:
    fix = f"Repair or uninstall the package that brings {point.value}"
    try:
        spec: Any = point.load()
    except Exception as error:
        raise WorkflowError(f"the plug-in does not load ({error!r})", where=point.name, fix=fix) from error
    if not isinstance(spec, ModelSpec) or spec.name != point.name:
        raise WorkflowError("the plug-in is no ModelSpec of its own name", where=point.name, fix=fix)
    return spec


def _plural(kinds: Iterable[str]) -> str:
    words = {"box": "boxes", "point": "points", "mask": "masks"}
    return " and ".join(words.get(kind, kind) for kind in sorted(kinds))
