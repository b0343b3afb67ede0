"""From sections of a workflow to SAPNet in its roles."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from wsi_pipeline.models.builders import DTYPES, load_sam
from wsi_pipeline.models.checkpoints import load_into, read_state_dict
from wsi_pipeline.models.registry import build_segmenter as build_model
from wsi_pipeline.models.registry import section_of
from wsi_pipeline.models.roles import Segmenter
from wsi_pipeline.models.sam import Sam
from wsi_pipeline.models.sapnet.backbone import EmbeddedPyramid, ResNetFpn, TimmFpn
from wsi_pipeline.models.sapnet.file import KIND, SapNetFacts
from wsi_pipeline.models.sapnet.network import SapNet
from wsi_pipeline.models.sapnet.plan import proposer_settings, sapnet_plan, selector_plan
from wsi_pipeline.models.sapnet.proposals import MaskProposals
from wsi_pipeline.models.sapnet.segmenter import SapNetSegmenter
from wsi_pipeline.models.sapnet.selector import SapNetSelector
from wsi_pipeline.models.sapnet.settings import EMBEDDED, RESNET, SapNetSettings
from wsi_pipeline.models.windows import CELLS
from wsi_pipeline.workflow import ModelSettings


def build_segmenter(settings: ModelSettings, *, device: str = "cpu", dtype: str = "fp32") -> SapNetSegmenter:
    """The model of a segment section with ``model: sapnet``.

    Raises:
        WorkflowError, WeightsError: see ``sapnet_plan``; or a file does not fit.
    """
    plan = sapnet_plan(settings, section=section_of(settings))
    sam = load_sam(plan)
    return SapNetSegmenter(load_sapnet(sam, plan.files[KIND]), sam, device=device, dtype=DTYPES[dtype])


def build_selector(settings: ModelSettings, *, device: str = "cpu", dtype: str = "fp32") -> SapNetSelector:
    """The model of a segment section with ``model: sapnet-select``.

    Raises:
        WorkflowError, WeightsError: see ``selector_plan`` and ``MaskProposals``; or a file does not fit.
    """
    plan = selector_plan(settings, section=section_of(settings))
    sam, path = load_sam(plan), plan.files[KIND]
    proposals = build_proposals(SapNetFacts.read(path), device=device, dtype=dtype)
    return SapNetSelector(load_sapnet(sam, path), sam, proposals, device=device, dtype=DTYPES[dtype])


def build_network(sam: Sam, facts: SapNetFacts) -> SapNet:
    """The network of some facts, with random weights.

    Raises:
        WorkflowError: timm is not installed, or has no such backbone.
    """
    return SapNet(_backbone(sam, facts.settings), facts.settings)


def _backbone(sam: Sam, settings: SapNetSettings) -> nn.Module:
    if settings.features == EMBEDDED:
        stride = sam.variant.image_size / CELLS
        return EmbeddedPyramid(settings.width, sam.image_encoder.early_channels, stride, settings.finest)
    if settings.features == RESNET:
        return ResNetFpn(settings.width)
    return TimmFpn(settings.features, settings.width)


def load_sapnet(sam: Sam, path: Path) -> SapNet:
    """A trained network, in evaluation mode.

    Raises:
        WeightsError: the file cannot be read, says nothing of itself, or does not fit what it says.
    """
    network = build_network(sam, SapNetFacts.read(path))
    load_into(network, read_state_dict(path), where=path)
    return network.eval()


def build_proposals(facts: SapNetFacts, *, device: str = "cpu", dtype: str = "fp32") -> MaskProposals:
    """The segmenter whose masks are chosen among.

    Raises:
        WorkflowError, WeightsError: there is no such model, it cannot be asked, or its files do not fit.
    """
    model = build_model(proposer_settings(facts), device=device, dtype=dtype)
    assert isinstance(model, Segmenter)
    return MaskProposals(model, facts.proposer.sides, low_patch=facts.proposer.low_patch)
