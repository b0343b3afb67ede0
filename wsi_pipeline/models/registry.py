"""Models by name: those of the package and those other packages add.

A plug-in is an entry point of the group ``wsi_pipeline.models`` that loads to a ``ModelSpec``. Importing this
module loads neither torch nor any plug-in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models.head_prompts import ALL_PROMPTS
from wsi_pipeline.models.matcher.settings import MatcherSettings
from wsi_pipeline.models.ov_sam import plan as ov_sam
from wsi_pipeline.models.resolve import (
    BACKBONES,
    DEFAULT_BACKBONE,
    WeightPlan,
    domain_facts,
    domain_segment_plan,
    hq_sam_plan,
    kinds_taken,
    lora_sam_facts,
    lora_sam_plan,
    pa_sam_plan,
    sam_plan,
    wsi_sam_plan,
)
from wsi_pipeline.models.sam_clip import plan as sam_clip
from wsi_pipeline.models.sapnet import plan as sapnet
from wsi_pipeline.models.semantic_sam import plan as semantic_sam
from wsi_pipeline.models.weights import sha256_of
from wsi_pipeline.workflow import ModelSettings, RecogniseSettings, RefineSettings, SegmentSettings

if TYPE_CHECKING:
    from wsi_pipeline.models.roles import InstanceSegmenter, Recogniser, Segmenter

logger = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "wsi_pipeline.models"


class Builder(Protocol):
    """Makes a ready model from its section; ``device`` is torch's name, ``dtype`` is ``fp32`` or ``bf16``."""

    def __call__(
        self, settings: ModelSettings, *, device: str, dtype: str
    ) -> Segmenter | InstanceSegmenter | Recogniser: ...


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """All there is to know about a model without building it.

    Attributes:
        name: as written in ``segment.model``.
        roles: which Protocols of ``roles.py`` it plays.
        description: one line.
        build: makes it.
        prompt_kinds: what it can be asked: ``box``, ``point``, ``mask``.
        own_prompts: whether it can be asked all of these whatever its backbone takes.
        backbones: names of the backbones it runs on, the default first; empty when it has none to choose.
        own_backbone: whether the weights of such a section bring a backbone that is none of these.
        weight_files: role to file for such a section; these files make up the model's identity in provenance.
        inputs: other files that its answers follow from, as ``weights_of`` tells them.
        class_names: classes that a model which finds objects by itself, or a recogniser whose section names none, tells
            apart; none where it does not name them.
        context_factor: how much farther the low patches see that it was trained on; None where any will do.
        clip: what ``clip`` of its section, an image-text network, is to it; None where it takes none.
        granular: whether a click means masks of six sizes to it, so that one can be asked for, see ``granularity``.
        learns_slide: whether it wants to look at a whole slide first, see ``roles.SlideAware``.
        status: one line on how far it can be trusted.
    """

    name: str
    roles: tuple[str, ...]
    description: str
    build: Builder
    prompt_kinds: frozenset[str] = ALL_PROMPTS
    own_prompts: bool = False
    backbones: tuple[str, ...] = ()
    own_backbone: Callable[[ModelSettings], bool] = field(default=lambda settings: False)
    weight_files: Callable[[ModelSettings], Mapping[str, Path]] = field(default=lambda settings: {})
    inputs: Callable[[ModelSettings], list[dict[str, str]]] = field(default=lambda settings: [])
    class_names: Callable[[ModelSettings], tuple[str, ...]] = field(default=lambda settings: ())
    context_factor: Callable[[ModelSettings], float | None] = field(default=lambda settings: None)
    clip: Literal["encoder", "words"] | None = None
    granular: bool = False
    learns_slide: Callable[[ModelSettings], bool] = field(default=lambda settings: False)
    status: str = ""


Plan = Callable[..., WeightPlan]


def section_of(settings: ModelSettings) -> str:
    """The workflow section a model's settings stand in, for messages."""
    if isinstance(settings, RecogniseSettings):
        return "recognise"
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


def _finder(name: str, description: str, build: Builder, **facts: Any) -> ModelSpec:
    """A model that finds objects by itself; ``facts`` are fields of ``ModelSpec``."""
    return ModelSpec(
        name=name,
        roles=("InstanceSegmenter",),
        description=description,
        build=build,
        prompt_kinds=frozenset(),
        backbones=tuple(BACKBONES),
        **facts,
    )


def _trained_finder(
    name: str,
    plan: Plan,
    description: str,
    class_names: Callable[[Path], tuple[str, ...]],
    context_factor: Callable[[Path], float | None] = lambda path: None,
) -> ModelSpec:
    """One with what its file says of itself."""

    def files(settings: ModelSettings) -> Mapping[str, Path]:
        return plan(settings, section=section_of(settings)).files

    def build(settings: ModelSettings, *, device: str, dtype: str) -> InstanceSegmenter:
        from wsi_pipeline.models import builders

        found = plan(settings, section=section_of(settings))
        return builders.build_finder(name, found, settings, device=device, dtype=dtype)

    return _finder(
        name,
        description,
        build,
        weight_files=files,
        class_names=lambda settings: class_names(files(settings)[name]),
        context_factor=lambda settings: context_factor(files(settings)[name]),
        status="trained weights ship for lite-medsam; on other backbones to be trained",
    )


def _built_by(module: str, function: str) -> Builder:
    """What a function makes that is imported once it is needed."""

    def build(settings: ModelSettings, *, device: str, dtype: str) -> Any:
        return getattr(import_module(module), function)(settings, device=device, dtype=dtype)

    return build


def _segmenter_and_recogniser(name: str, description: str, **facts: Any) -> ModelSpec:
    """A model that segments, and names what it or others drew; ``facts`` are fields of ``ModelSpec``."""

    def build(settings: ModelSettings, *, device: str, dtype: str) -> Segmenter | Recogniser:
        module = import_module(f"wsi_pipeline.models.{name.replace('-', '_')}.build")
        recognises = isinstance(settings, RecogniseSettings)
        made = (module.build_recogniser if recognises else module.build_segmenter)(settings, device=device, dtype=dtype)
        return cast("Segmenter | Recogniser", made)

    given = {"roles": ("Segmenter", "Refiner", "Recogniser"), "backbones": tuple(BACKBONES)} | facts
    return ModelSpec(name=name, description=description, build=build, **given)


def _matcher() -> ModelSpec:
    """Matcher, whose objects and classes are those of its examples."""

    def facts() -> Any:
        from wsi_pipeline.models.matcher import facts  # it opens slides

        return facts

    return _finder(
        "matcher",
        "finds what looks like annotated examples",
        _built_by("wsi_pipeline.models.matcher.build", "build_matcher"),
        weight_files=lambda settings: facts().segment_files(settings),
        inputs=lambda settings: facts().example_files(_matching(settings)),
        class_names=lambda settings: facts().class_names(settings),
        learns_slide=lambda settings: _matching(settings).centre == "slide",
        status="needs no training, but examples",
    )


def _matching(settings: ModelSettings) -> MatcherSettings:
    return getattr(settings, "matcher", None) or MatcherSettings()


_TRAINED = "trained heads ship for lite-medsam; on other backbones untrained unless weights are given"
_PLANS: dict[str, Plan] = {
    "sam": sam_plan,
    "hq-sam": hq_sam_plan,
    "pa-sam": pa_sam_plan,
    "wsi-sam": wsi_sam_plan,
    "lora-sam": lora_sam_plan,
    "domain-decoder": domain_segment_plan,
    "ov-sam": ov_sam.ov_sam_plan,
    "sam-clip": sam_clip.sam_clip_plan,
    "sam-clip-regions": sam_clip.regions_plan,
    "sapnet": sapnet.sapnet_plan,
    "sapnet-select": sapnet.selector_plan,
    "semantic-sam": semantic_sam.semantic_plan,
    "matcher": lambda settings, section: sam_plan(settings.model_copy(update={"model": "sam"}), section=section),
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
    "lora-sam": _trained_finder(
        "lora-sam",
        lora_sam_plan,
        "low-rank adapted encoder; finds objects without prompts",
        lambda path: lora_sam_facts(path).settings.classes,
    ),
    "domain-decoder": _trained_finder(
        "domain-decoder",
        domain_segment_plan,
        "a small decoder on a frozen encoder; finds objects without prompts",
        lambda path: domain_facts(path).classes,
        lambda path: domain_facts(path).context_factor,
    ),
    "matcher": _matcher(),
    "ov-sam": _segmenter_and_recogniser(
        "ov-sam",
        "names objects in the words of a list, from what the encoder saw of them",
        weight_files=ov_sam.weight_files,
        class_names=ov_sam.class_names,
        context_factor=ov_sam.context_factor,
        clip="encoder",
        status="to be trained, or an image-text network of yours",
    ),
    "sam-clip": _segmenter_and_recogniser(
        "sam-clip",
        "one encoder that segments and understands words",
        weight_files=lambda settings: sam_clip.sam_clip_plan(settings, section=section_of(settings)).files,
        class_names=sam_clip.class_names,
        clip="words",
        status="to be trained",
    ),
    "sam-clip-regions": _finder(
        "sam-clip-regions",
        "finds and draws what fits the words for a class",
        _built_by("wsi_pipeline.models.sam_clip.build", "build_regions"),
        weight_files=lambda settings: sam_clip.regions_plan(settings).files,
        class_names=lambda settings: sam_clip.places_of(cast("SegmentSettings", settings)).targets,
        clip="words",
        status="to be trained",
    ),
    "sapnet": _finder(
        "sapnet",
        "finds and names what it learned from clicks",
        _built_by("wsi_pipeline.models.sapnet.build", "build_segmenter"),
        weight_files=lambda settings: sapnet.sapnet_plan(settings, section=section_of(settings)).files,
        class_names=sapnet.class_names,
        status="one for nuclei ships for lite-medsam; others are trained, from clicks",
    ),
    "sapnet-select": ModelSpec(
        "sapnet-select",
        roles=("Segmenter",),
        description="clicks become outlines: which of a segmenter's masks fits the class best",
        build=_built_by("wsi_pipeline.models.sapnet.build", "build_selector"),
        prompt_kinds=frozenset({"point"}),
        own_prompts=True,
        backbones=tuple(BACKBONES),
        weight_files=lambda settings: sapnet.selector_plan(settings, section=section_of(settings)).files,
        context_factor=sapnet.context_factor,
        status="one for nuclei ships for lite-medsam; others are trained, from clicks",
    ),
    "semantic-sam": _segmenter_and_recogniser(
        "semantic-sam",
        "six masks of each click, from coarse to fine",
        roles=("Segmenter", "Recogniser"),
        prompt_kinds=frozenset({"box", "point"}),
        own_prompts=True,
        weight_files=lambda settings: semantic_sam.semantic_files(settings, section=section_of(settings)),
        class_names=semantic_sam.class_names,
        own_backbone=semantic_sam.is_published,
        granular=True,
        status="to be trained, or published weights of yours",
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
) -> Segmenter | InstanceSegmenter | Recogniser:
    """Build the model of a segment, refine or recognise section, weights loaded, ready to answer.

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
    chosen = pick_device(device or settings.device, where=f"{section_of(settings)}.device")
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
    spec = find_model(settings.model, section=section_of(settings))
    return listed(spec.weight_files(settings)) + spec.inputs(settings)


def listed(files: Mapping[str, Path]) -> list[dict[str, str]]:
    """The same of files by their roles."""
    return [{"role": role, "file": path.name, "sha256": sha256_of(path)} for role, path in sorted(files.items())]


def prompt_kinds(settings: ModelSettings) -> frozenset[str]:
    """What the model of a segment section can be asked.

    Raises:
        WorkflowError: unknown model or backbone.
        WeightsError: the head's file is missing or unreadable.
    """
    spec = find_model(settings.model, section=section_of(settings))
    backbone = backbone_of(spec, settings)
    if backbone is None or spec.own_prompts:
        return spec.prompt_kinds
    return spec.prompt_kinds & kinds_taken(settings, BACKBONES[backbone])


def class_names(settings: ModelSettings) -> tuple[str, ...]:
    """The classes that the model of a segment section tells apart by itself, or a recognise section names.

    Raises:
        WorkflowError, WeightsError: as ``build_segmenter``.
    """
    if isinstance(settings, RecogniseSettings) and settings.classes:
        return settings.names
    return find_model(settings.model, section=section_of(settings)).class_names(settings)


def backbone_of(spec: ModelSpec, settings: ModelSettings) -> str | None:
    """The backbone a section runs on; read from the weight files where they decide."""
    own = spec.own_backbone(settings) or (settings.clip is not None and spec.clip == "encoder")
    if own or not spec.backbones:
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
