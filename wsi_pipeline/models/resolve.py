"""Which files a segment section means: names, defaults and the pairing of backbone and decoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.errors import WeightsError, WorkflowError
from wsi_pipeline.models.weights import locate
from wsi_pipeline.workflow import SegmentSettings

if TYPE_CHECKING:
    from wsi_pipeline.models.checkpoints import Contents

ALL_PROMPTS = frozenset({"box", "point", "mask"})


@dataclass(frozen=True, slots=True)
class Backbone:
    """A frozen SAM that models are built on.

    Attributes:
        name: as written in workflows.
        variant: the network's name in ``build_sam``.
        weights: its catalogue entry.
        input_size: side in px of the patches it takes.
        prompt_kinds: what its published weights were trained to answer.
    """

    name: str
    variant: str
    weights: str
    input_size: int
    prompt_kinds: frozenset[str]


BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        Backbone("lite-medsam", "lite_medsam", "lite-medsam", 256, frozenset({"box"})),
        Backbone("mobile-sam", "vit_t", "mobile-sam", 1024, ALL_PROMPTS),
        Backbone("vit-b", "vit_b", "sam-vit-b", 1024, ALL_PROMPTS),
        Backbone("vit-l", "vit_l", "sam-vit-l", 1024, ALL_PROMPTS),
        Backbone("vit-h", "vit_h", "sam-vit-h", 1024, ALL_PROMPTS),
    )
}
DEFAULT_BACKBONE = "lite-medsam"
_BY_VARIANT = {backbone.variant: backbone for backbone in BACKBONES.values()}


@dataclass(frozen=True, slots=True)
class WeightPlan:
    """The files of one model.

    Attributes:
        backbone: the image encoder they are for.
        files: role to file; roles are ``sam`` (backbone), ``wsi-sam`` (backbone and both decoders), ``wsi-heads``
            (both decoders), ``high`` and ``low`` (one decoder each).
    """

    backbone: Backbone
    files: Mapping[str, Path]


def sam_plan(settings: SegmentSettings) -> WeightPlan:
    """The file behind ``model: sam``.

    Raises:
        WorkflowError: unknown backbone, or a second decoder was given.
        WeightsError: the file is missing, unreadable, or of another kind or variant.
    """
    if settings.weights_low is not None:
        raise WorkflowError("model sam has one decoder", where="segment.weights_low", fix="Remove the key")
    named = _named_backbone(settings)
    if settings.weights is None:
        return _default_plan(named or BACKBONES[DEFAULT_BACKBONE])
    path = locate(settings.weights)
    return WeightPlan(_backbone_of(_described(path, ("sam",), named), named, path), {"sam": path})


def wsi_sam_plan(settings: SegmentSettings) -> WeightPlan:
    """The files behind ``model: wsi-sam``.

    Without decoder files both decoders are made from the backbone (untrained). ``weights`` may be the backbone, a
    whole WSI-SAM, both decoders in one file, or the high decoder with ``weights_low`` for the low one. Decoders for
    an early feature of 160 channels go on MobileSAM, the published pairing, unless a backbone is named.

    Raises:
        WorkflowError: unknown backbone, or a low decoder without a high one.
        WeightsError: a file is missing, unreadable, swapped, or of another kind or variant.
    """
    named = _named_backbone(settings)
    if settings.weights is None:
        if settings.weights_low is not None:
            raise WorkflowError(
                "names a low decoder without a high one", where="segment.weights_low", fix="Set segment.weights too"
            )
        return _default_plan(named or BACKBONES[DEFAULT_BACKBONE])
    path = locate(settings.weights)
    if settings.weights_low is not None:
        return _two_decoders(path, locate(settings.weights_low), named)
    contents = _described(path, ("sam", "wsi-sam", "wsi-heads", "hq-decoder"), named)
    if contents.kind == "hq-decoder":
        raise WeightsError(
            "is one decoder of WSI-SAM; the low one is missing", where=path, fix="Set segment.weights_low to its file"
        )
    backbone = _backbone_of(contents, named, path)
    if contents.kind == "wsi-heads":
        return WeightPlan(backbone, {"sam": locate(backbone.weights), "wsi-heads": path})
    return WeightPlan(backbone, {contents.kind: path})


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


def _described(path: Path, kinds: tuple[str, ...], named: Backbone | None) -> Contents:
    from wsi_pipeline.models.checkpoints import expect

    contents = describe(path)
    expect(contents, kinds, named.variant if named else None, where=path)
    return contents


def _two_decoders(high: Path, low: Path, named: Backbone | None) -> WeightPlan:
    if high == low or ("low" in high.stem.lower() and "high" in low.stem.lower()):
        raise WeightsError(
            "high and low decoder are swapped or the same file",
            where=f"{high.name}, {low.name}",
            fix="Set segment.weights to the high decoder and segment.weights_low to the low one",
        )
    backbone = _backbone_of(_described(high, ("hq-decoder",), named), named, high)
    _described(low, ("hq-decoder",), backbone)
    return WeightPlan(backbone, {"sam": locate(backbone.weights), "high": high, "low": low})


def _default_plan(backbone: Backbone) -> WeightPlan:
    return WeightPlan(backbone, {"sam": locate(backbone.weights)})


def _backbone_of(contents: Contents, named: Backbone | None, path: Path) -> Backbone:
    if named is not None:
        return named
    if not contents.variants:
        raise WeightsError("fits any backbone", where=path, fix="Set segment.backbone")
    return _BY_VARIANT[contents.variants[0]]


def _named_backbone(settings: SegmentSettings) -> Backbone | None:
    if settings.backbone is None:
        return None
    try:
        return BACKBONES[settings.backbone]
    except KeyError:
        raise WorkflowError(
            f"no such backbone: {settings.backbone}", where="segment.backbone", fix=f"Use one of {', '.join(BACKBONES)}"
        ) from None
