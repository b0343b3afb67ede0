"""Which files a model section of a workflow means: names, defaults and the pairing of backbone and decoders.

``section`` is the section's name, for messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.errors import WeightsError, WorkflowError
from wsi_pipeline.models.head_prompts import ALL_PROMPTS, trained_prompts
from wsi_pipeline.models.weights import locate, shipped_head, variant_of
from wsi_pipeline.workflow import DomainDecoderPrompts, ModelSettings

if TYPE_CHECKING:
    from wsi_pipeline.models.checkpoints import Contents
    from wsi_pipeline.models.domain_decoder.decoder import DecoderFacts
    from wsi_pipeline.models.lora_sam.file import Facts


@dataclass(frozen=True, slots=True)
class Backbone:
    """A frozen SAM that models are built on.

    Attributes:
        name: as written in workflows.
        variant: the network's name in ``build_sam``.
        weights: its catalogue entry.
        input_size: side in px of the patches it takes.
        prompt_kinds: what its published weights were trained to answer.
        guesses: whether they were trained to guess at ambiguous prompts.
    """

    name: str
    variant: str
    weights: str
    input_size: int
    prompt_kinds: frozenset[str]
    guesses: bool = True


BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        Backbone("lite-medsam", "lite_medsam", "lite-medsam", 256, frozenset({"box"}), guesses=False),
        Backbone("mobile-sam", "vit_t", "mobile-sam", 1024, ALL_PROMPTS),
        Backbone("vit-b", "vit_b", "sam-vit-b", 1024, ALL_PROMPTS),
        Backbone("vit-l", "vit_l", "sam-vit-l", 1024, ALL_PROMPTS),
        Backbone("vit-h", "vit_h", "sam-vit-h", 1024, ALL_PROMPTS),
    )
}
DEFAULT_BACKBONE = "lite-medsam"
_BY_VARIANT = {backbone.variant: backbone for backbone in BACKBONES.values()}
_WITHOUT_BACKBONE = frozenset({"hq-decoder", "pa-decoder", "wsi-heads"})


@dataclass(frozen=True, slots=True)
class WeightPlan:
    """The files of one model.

    Attributes:
        backbone: the image encoder they are for.
        files: role to file. One file has the role ``sam`` (the backbone alone; what it lacks is untrained), ``hq-sam``,
            ``pa-sam`` or ``wsi-sam`` (backbone and decoders). Decoders in files of their own have the roles
            ``hq-decoder``, ``pa-decoder``, ``wsi-heads`` (both of WSI-SAM), or ``high`` and ``low`` (one each), and
            come with the backbone's file as ``sam``; so do a ``domain-decoder`` and
            a ``lora-sam`` (adapter and heads).
    """

    backbone: Backbone
    files: Mapping[str, Path]


def kinds_taken(settings: ModelSettings, backbone: Backbone) -> frozenset[str]:
    """What a model section on a backbone can be asked: what its head's file says, else what the backbone takes.

    Raises:
        WeightsError: the head's file is missing or unreadable.
    """
    weights = settings.weights
    if weights is None:
        shipped = shipped_head(settings.model, backbone.variant)
        weights = shipped.name if shipped else None
    trained_on = None if weights is None else trained_prompts(locate(weights))
    return backbone.prompt_kinds if trained_on is None else trained_on


def sam_plan(settings: ModelSettings, *, section: str = "segment") -> WeightPlan:
    """The file behind ``model: sam``; one of a whole SAM-CLIP is a SAM, too.

    Raises:
        WorkflowError: unknown backbone, or a second decoder was given.
        WeightsError: the file is missing, unreadable, or of another kind or variant.
    """
    plan = _one_decoder_plan("sam", ("sam", "sam-clip"), settings, section)
    (path,) = plan.files.values()
    return WeightPlan(plan.backbone, {"sam": path})


def hq_sam_plan(settings: ModelSettings, *, section: str = "segment") -> WeightPlan:
    """The files behind ``model: hq-sam``.

    Without weights, it is the head that ships for the backbone, if any. With those of a plain SAM the high-quality
    branch is untrained. ``weights`` may also be a whole HQ-SAM, or its decoder alone, which goes on the backbone that
    its early feature belongs to: one of 160 channels on MobileSAM, the published pairing, unless LiteMedSAM is named.

    Raises:
        WorkflowError, WeightsError: as ``sam_plan``.
    """
    return _one_decoder_plan("hq-sam", ("sam", "hq-sam", "hq-decoder"), settings, section)


def pa_sam_plan(settings: ModelSettings, *, section: str = "segment") -> WeightPlan:
    """The files behind ``model: pa-sam``.

    Without weights, it is the head that ships for the backbone, if any. With those of a plain SAM the prompt adapter is
    untrained. ``weights`` may also be a whole PA-SAM, or its decoder alone. Its keys do not tell the encoder it was
    trained on: the backbone has to be named, unless the weights have a name that settles it, as the published ones do.

    Raises:
        WorkflowError, WeightsError: as ``sam_plan``.
    """
    return _one_decoder_plan("pa-sam", ("sam", "pa-sam", "pa-decoder"), settings, section)


def wsi_sam_plan(settings: ModelSettings, *, section: str = "segment") -> WeightPlan:
    """The files behind ``model: wsi-sam``.

    Without weights, they are the decoders that ship for the backbone, if any. ``weights`` may be the backbone, of which
    both decoders are made then (untrained), a whole WSI-SAM, both decoders in one file, or the high decoder with
    ``weights_low`` for the low one. Decoders for an early feature of 160 channels go on MobileSAM, the published
    pairing, unless a backbone is named.

    Raises:
        WorkflowError: unknown backbone, or a low decoder without a high one.
        WeightsError: a file is missing, unreadable, swapped, or of another kind or variant.
    """
    named = _named_backbone(settings, section)
    if settings.weights is None:
        if settings.weights_low is not None:
            raise WorkflowError(
                "names a low decoder without a high one",
                where=f"{section}.weights_low",
                fix=f"Set {section}.weights too",
            )
        return _default_plan("wsi-sam", named)
    if settings.weights_low is not None:
        return _two_decoders(settings.weights, settings.weights_low, named, section)
    found = _find(settings.weights, ("sam", "wsi-sam", "wsi-heads", "hq-decoder"), named, section)
    if found.kind == "hq-decoder":
        raise WeightsError(
            "is one decoder of WSI-SAM; the low one is missing",
            where=found.path,
            fix=f"Set {section}.weights_low to its file",
        )
    return _plan_of(found)


def lora_sam_plan(settings: ModelSettings, *, section: str = "segment") -> WeightPlan:
    """The files behind ``model: lora-sam``: what training wrote, and the backbone it names.

    Raises:
        WorkflowError: two files of weights, none where none ships, or an unknown backbone.
        WeightsError: a file is missing or of another kind, or was trained on another backbone.
    """
    return trained_plan("lora-sam", settings, section, lambda path: lora_sam_facts(path).backbone)


def lora_sam_facts(path: Path) -> Facts:
    """What a file of a trained LoRA-SAM says of itself.

    Raises:
        WeightsError: it is unreadable or of another kind.
    """
    from wsi_pipeline.models.lora_sam.file import read_facts

    return read_facts(path)


def domain_plan(weights: str) -> WeightPlan:
    """The files of a domain decoder: its own and that of the backbone it names.

    Raises:
        WeightsError: a file is missing, unreadable or of another kind.
    """
    path = locate(weights)
    return _plan_on(domain_facts(path).backbone, "domain-decoder", path)


def domain_segment_plan(settings: ModelSettings, *, section: str = "segment") -> WeightPlan:
    """The files behind ``model: domain-decoder``; raises as ``lora_sam_plan``."""
    return trained_plan("domain-decoder", settings, section, lambda path: domain_facts(path).backbone)


def domain_facts(path: Path) -> DecoderFacts:
    """What a file of a domain decoder says of itself.

    Raises:
        WeightsError: it is unreadable or of another kind.
    """
    from wsi_pipeline.models.checkpoints import expect
    from wsi_pipeline.models.domain_decoder.decoder import KIND, DecoderFacts

    fix = "Set prompts.weights to a file that `wsi-pipeline train domain-decoder` wrote"
    expect(describe(path), (KIND,), None, where=path, fix=fix)
    return DecoderFacts.read(path)


def target_number(prompts: DomainDecoderPrompts, classes: Sequence[str]) -> int:
    """Which of a decoder's classes is looked for.

    Raises:
        WorkflowError: none of them.
    """
    if prompts.target is None:
        return 0
    if prompts.target not in classes:
        fix = f"Use one of {', '.join(classes)}"
        raise WorkflowError(f"the decoder does not know {prompts.target}", where="prompts.target", fix=fix)
    return classes.index(prompts.target)


def describe(path: Path) -> Contents:
    """What a weight file holds; read once per process and file version.

    Raises:
        WeightsError: unreadable, unsafe, or no network of the SAM family.
    """
    stat = path.stat()
    return _describe(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=32)
def _describe(path: Path, size: int, mtime_ns: int) -> Contents:
    from wsi_pipeline.models.checkpoints import identify, read_state_dict

    return identify(read_state_dict(path), where=path)


@dataclass(frozen=True, slots=True)
class _Found:
    """A weight file, what it holds, and the backbone it is for."""

    path: Path
    kind: str
    backbone: Backbone


def _find(weights: str, kinds: tuple[str, ...], named: Backbone | None, section: str) -> _Found:
    from wsi_pipeline.models.checkpoints import expect

    path = locate(weights)
    contents = describe(path)
    known = variant_of(weights)
    if known is not None and known in (contents.variants or (known,)):
        contents = replace(contents, variants=(known,))
    fix = f"Set {section}.model and {section}.backbone to fit the file, or give the file that fits them"
    expect(contents, kinds, named.variant if named else None, where=path, fix=fix)
    if named is None and not contents.variants:
        raise WeightsError(
            f"holds {contents}, which does not say the backbone it was trained on",
            where=path,
            fix=f"Set {section}.backbone",
        )
    return _Found(path, contents.kind, named or _BY_VARIANT[contents.variants[0]])


def _plan_of(found: _Found) -> WeightPlan:
    files = {found.kind: found.path}
    if found.kind in _WITHOUT_BACKBONE:
        files = {"sam": locate(found.backbone.weights), **files}
    return WeightPlan(found.backbone, files)


def _one_decoder_plan(model: str, kinds: tuple[str, ...], settings: ModelSettings, section: str) -> WeightPlan:
    if settings.weights_low is not None:
        raise WorkflowError(f"model {model} has one decoder", where=f"{section}.weights_low", fix="Remove the key")
    named = _named_backbone(settings, section)
    if settings.weights is None:
        return _default_plan(model, named)
    return _plan_of(_find(settings.weights, kinds, named, section))


def _two_decoders(weights: str, weights_low: str, named: Backbone | None, section: str) -> WeightPlan:
    high, low = locate(weights), locate(weights_low)
    if high == low or ("low" in high.stem.lower() and "high" in low.stem.lower()):
        raise WeightsError(
            "high and low decoder are swapped or the same file",
            where=f"{high.name}, {low.name}",
            fix=f"Set {section}.weights to the high decoder and {section}.weights_low to the low one",
        )
    backbone = _find(weights, ("hq-decoder",), named, section).backbone
    _find(weights_low, ("hq-decoder",), backbone, section)
    return WeightPlan(backbone, {"sam": locate(backbone.weights), "high": high, "low": low})


def trained_plan(system: str, settings: ModelSettings, section: str, trained_on: Callable[[Path], str]) -> WeightPlan:
    """The files of a system that is nothing without weights, which name the backbone they were trained on."""
    if settings.weights_low is not None:
        raise WorkflowError(f"model {system} is one file", where=f"{section}.weights_low", fix="Remove the key")
    named = _named_backbone(settings, section)
    path = locate(settings.weights or _shipped(system, named, section))
    plan = _plan_on(trained_on(path), system, path)
    if named not in (None, plan.backbone):
        raise WeightsError(f"was trained on {plan.backbone.name}", where=path, fix=f"Set {section}.backbone to it")
    return plan


def _plan_on(backbone: str, system: str, path: Path) -> WeightPlan:
    if backbone not in BACKBONES:
        raise WeightsError(
            f"was trained on the backbone {backbone} that is not known here", where=path, fix="Train it again"
        )
    found = BACKBONES[backbone]
    return WeightPlan(found, {"sam": locate(found.weights), system: path})


def _shipped(system: str, named: Backbone | None, section: str) -> str:
    """Name of the weights that ship of a system; the first of several.

    Raises:
        WorkflowError: there are none for the backbone.
    """
    backbone = named or BACKBONES[DEFAULT_BACKBONE]
    shipped = shipped_head(system, backbone.variant)
    if shipped is None:
        fix = f"Set it to the file that `wsi-pipeline train {system}` wrote"
        raise WorkflowError(f"no {system} ships for {backbone.name}", where=f"{section}.weights", fix=fix)
    return shipped.name


def _default_plan(model: str, named: Backbone | None) -> WeightPlan:
    """The head that ships for the backbone; without one, the backbone alone."""
    backbone = named or BACKBONES[DEFAULT_BACKBONE]
    shipped = shipped_head(model, backbone.variant)
    if shipped is None:
        return WeightPlan(backbone, {"sam": locate(backbone.weights)})
    return _plan_of(_Found(locate(shipped.name), shipped.kind, backbone))


def _named_backbone(settings: ModelSettings, section: str) -> Backbone | None:
    if settings.backbone is None:
        return None
    try:
        return BACKBONES[settings.backbone]
    except KeyError:
        raise WorkflowError(
            f"no such backbone: {settings.backbone}",
            where=f"{section}.backbone",
            fix=f"Use one of {', '.join(BACKBONES)}",
        ) from None
