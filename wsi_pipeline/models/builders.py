"""From weight files to networks that answer: the one place where files meet the networks."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models.checkpoints import load_into, read_state_dict
from wsi_pipeline.models.resolve import WeightPlan
from wsi_pipeline.models.sam import Sam, SamSegmenter, build_sam
from wsi_pipeline.models.wsi_sam import WsiSam, WsiSamSegmenter, build_wsi_sam, init_wsi_head

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def build_sam_segmenter(plan: WeightPlan, *, device: str, dtype: str) -> SamSegmenter:
    """SAM with the weights of a plan.

    Raises:
        WeightsError: a file does not fit.
        WorkflowError: unknown dtype.
    """
    return SamSegmenter(load_sam(plan), device=device, dtype=_dtype(dtype))


def build_wsi_sam_segmenter(plan: WeightPlan, *, device: str, dtype: str) -> WsiSamSegmenter:
    """WSI-SAM with the weights of a plan.

    Raises:
        WeightsError: a file does not fit.
        WorkflowError: unknown dtype.
    """
    return WsiSamSegmenter(load_wsi_sam(plan), device=device, dtype=_dtype(dtype))


def load_sam(plan: WeightPlan) -> Sam:
    """The SAM of a plan, fp32, on the CPU, in evaluation mode."""
    sam = build_sam(plan.backbone.variant)
    _fill(sam, plan.files["sam"])
    return sam


def load_wsi_sam(plan: WeightPlan) -> WsiSam:
    """The WSI-SAM of a plan, fp32, on the CPU, in evaluation mode.

    Decoders that no file of the plan holds are made from the backbone's decoder, adding nothing to it.
    """
    with torch.random.fork_rng(devices=[]):  # what no file fills is the same in every process
        torch.manual_seed(0)
        model = build_wsi_sam(plan.backbone.variant)
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


def _fill(module: nn.Module, path: Path) -> None:
    load_into(module, read_state_dict(path), where=path)


def _dtype(name: str) -> torch.dtype:
    try:
        return DTYPES[name]
    except KeyError:
        raise WorkflowError(f"no such precision: {name}", where="segment.precision", fix="Use fp32 or bf16") from None
