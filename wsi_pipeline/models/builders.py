"""From weight files to networks that answer: the one place where files meet the networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models.checkpoints import load_into, read_state_dict
from wsi_pipeline.models.hq_sam import HqSam, HqSamSegmenter, build_hq_sam
from wsi_pipeline.models.pa_sam.model import PaSam, build_pa_sam
from wsi_pipeline.models.pa_sam.segmenter import PaSamSegmenter
from wsi_pipeline.models.resolve import WeightPlan, kinds_taken
from wsi_pipeline.models.sam import Sam, SamSegmenter, build_sam
from wsi_pipeline.models.sam_clip.network import sam_state
from wsi_pipeline.models.segmenter import BatchedSegmenter
from wsi_pipeline.models.wsi_sam import WsiSam, WsiSamSegmenter, build_wsi_sam, init_wsi_head
from wsi_pipeline.workflow import ModelSettings

if TYPE_CHECKING:
    from wsi_pipeline.models.lora_sam.model import LoraSam
    from wsi_pipeline.models.roles import InstanceSegmenter

Model = TypeVar("Model", bound=nn.Module)
Headed = TypeVar("Headed", HqSam, PaSam)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_sam(plan: WeightPlan) -> Sam:
    """The SAM of a plan, fp32, on the CPU, in evaluation mode."""
    sam = build_sam(plan.backbone.variant)
    load_into(sam, sam_state(plan.files["sam"]), where=plan.files["sam"])
    return sam


def load_hq_sam(plan: WeightPlan) -> HqSam:
    """The HQ-SAM of a plan, fp32, on the CPU, in evaluation mode; without a trained branch it answers as SAM does."""
    return _with_head(_seeded(build_hq_sam, plan), plan, "hq")


def load_pa_sam(plan: WeightPlan) -> PaSam:
    """The PA-SAM of a plan, fp32, on the CPU, in evaluation mode; without a trained adapter it answers as SAM does."""
    return _with_head(_seeded(build_pa_sam, plan), plan, "pa")


def load_wsi_sam(plan: WeightPlan) -> WsiSam:
    """The WSI-SAM of a plan, fp32, on the CPU, in evaluation mode.

    Decoders that no file of the plan holds are made from the backbone's decoder, adding nothing to it.
    """
    model = _seeded(build_wsi_sam, plan)
    files = plan.files
    if "wsi-sam" in files:
        _fill(model, files["wsi-sam"])
        return model
    _fill(model.sam, files["sam"])
    if "wsi-heads" in files:
        state = read_state_dict(files["wsi-heads"])
        for branch in ("high", "low"):
            part = {
                key.removeprefix(f"{branch}."): value for key, value in state.items() if key.startswith(f"{branch}.")
            }
            load_into(getattr(model, branch), part, where=f"{files['wsi-heads']} ({branch})")
    elif "high" in files:
        _fill(model.high, files["high"])
        _fill(model.low, files["low"])
    else:
        init_wsi_head(model)
    return model.eval()


def load_lora_sam(plan: WeightPlan) -> LoraSam:
    """The LoRA-SAM of a plan, fp32, on the CPU, in evaluation mode."""
    from wsi_pipeline.models.lora_sam.build import build_lora_sam
    from wsi_pipeline.models.lora_sam.file import load_state, read_facts

    path = plan.files["lora-sam"]
    model = build_lora_sam(load_sam(plan), read_facts(path).settings)
    load_state(model, read_state_dict(path), where=path)
    return model


def _seeded(build: Callable[[str], Model], plan: WeightPlan) -> Model:
    """A model whose parameters that no file fills are the same in every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(plan.backbone.variant)


def _with_head(model: Headed, plan: WeightPlan, system: str) -> Headed:
    """Fill a model whose decoder is SAM's and more: from one file, or SAM's and the decoder's, or from SAM's alone."""
    if f"{system}-sam" in plan.files:
        _fill(model, plan.files[f"{system}-sam"])
        return model
    sam = load_sam(plan)
    model.image_encoder, model.prompt_encoder = sam.image_encoder, sam.prompt_encoder
    if f"{system}-decoder" in plan.files:
        _fill(model.mask_decoder, plan.files[f"{system}-decoder"])
    else:
        model.mask_decoder.start_from(sam.mask_decoder)
    model.eval()
    return model


def _fill(module: nn.Module, path: Path) -> None:
    load_into(module, read_state_dict(path), where=path)


def _dtype(name: str) -> torch.dtype:
    try:
        return DTYPES[name]
    except KeyError:
        raise WorkflowError(f"no such precision: {name}", where="segment.precision", fix="Use fp32 or bf16") from None


_LOADERS: dict[str, Callable[[WeightPlan], Any]] = {
    "sam": load_sam,
    "hq-sam": load_hq_sam,
    "pa-sam": load_pa_sam,
    "wsi-sam": load_wsi_sam,
}
_SEGMENTERS: dict[str, Callable[..., BatchedSegmenter]] = {
    "sam": SamSegmenter,
    "hq-sam": HqSamSegmenter,
    "pa-sam": PaSamSegmenter,
    "wsi-sam": WsiSamSegmenter,
}
_OPTIONS = {"hq-sam": ("hq_token_only",), "pa-sam": ("edges",)}
"""Settings of a section that only these systems have."""


def build(system: str, plan: WeightPlan, settings: ModelSettings, *, device: str, dtype: str) -> BatchedSegmenter:
    """One of the systems built on SAM, with the weights of a plan, ready to answer.

    Raises:
        WeightsError: a file does not fit.
        WorkflowError: unknown dtype.
    """
    options = {name: getattr(settings, name) for name in _OPTIONS.get(system, ())}
    return _SEGMENTERS[system](
        _LOADERS[system](plan),
        device=device,
        dtype=_dtype(dtype),
        multimask=settings.multimask,
        prompt_kinds=kinds_taken(settings, plan.backbone),
        **options,
    )


def build_finder(
    system: str, plan: WeightPlan, settings: ModelSettings, *, device: str, dtype: str
) -> InstanceSegmenter:
    """One of the systems that find objects by themselves, with the weights of a plan.

    Raises:
        WeightsError: a file does not fit.
        WorkflowError: unknown dtype.
    """
    if system == "domain-decoder":
        from wsi_pipeline.models.domain_decoder.segmenter import DomainSegmenter

        return DomainSegmenter(plan, device=device, dtype=dtype, margin=settings.window_margin)
    # it takes the library of adapters seconds to be imported
    from wsi_pipeline.models.lora_sam.segmenter import LoraSamSegmenter

    return LoraSamSegmenter(load_lora_sam(plan), device=device, dtype=_dtype(dtype), margin=settings.window_margin)
