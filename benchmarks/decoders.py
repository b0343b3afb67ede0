"""Decoding 64 boxes on one image with HQ-SAM and PA-SAM, as ratios in one run on one thread.

python benchmarks/decoders.py

The baseline is the published way made again: one prompt after the other, what depends on the image alone (HQ-SAM's
fused features, PA-SAM's guide) computed anew for each, whole patches, float32. It runs on our layers, which are faster
than the published ones, so the ratios are on the low side. Image encoders are in neither figure. Weights are random:
they do not change the time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.segmenting import MARGIN, prompts_of, seconds
from wsi_pipeline.models.hq_sam import HqSam, HqSamSegmenter, build_hq_sam
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.pa_sam.guide import Guide, guide_image, point_marks
from wsi_pipeline.models.pa_sam.model import PaSam, build_pa_sam
from wsi_pipeline.models.pa_sam.segmenter import PaSamSegmenter
from wsi_pipeline.models.precision import reference_pair
from wsi_pipeline.models.preprocess import to_tensor
from wsi_pipeline.models.prompt_embedding import PromptTensors
from wsi_pipeline.models.segmenter import BatchedSegmenter, PairEmbedding

BACKBONES = {"LiteMedSAM": ("lite_medsam", 160), "vit_b": ("vit_b", 768)}
Baseline = Callable[[Tensor], object]


def hq(variant: str, seen: EncoderOutput, pixels: Tensor) -> tuple[HqSam, Baseline]:
    model = build_hq_sam(variant)

    def ask(box: Tensor) -> object:
        sparse, dense = model.prompt_encoder(points=None, boxes=box[None], masks=None)
        return model.decode(seen, model.prompt_encoder.get_dense_pe(), sparse, dense, False)

    return model, ask


def pa(variant: str, seen: EncoderOutput, pixels: Tensor) -> tuple[PaSam, Baseline]:
    model = build_pa_sam(variant)

    def ask(box: Tensor) -> object:
        return model.segment(seen.embedding, model.guide(pixels), PromptTensors(boxes=box[None, None]))

    return model, ask


def segmenter_of(model: HqSam | PaSam, dtype: torch.dtype) -> BatchedSegmenter:
    return (HqSamSegmenter if isinstance(model, HqSam) else PaSamSegmenter)(model, dtype=dtype)


def embedded(model: HqSam | PaSam, seen: EncoderOutput, pixels: Tensor, dtype: torch.dtype) -> PairEmbedding:
    """What ``encode`` gives, without running the image encoder."""
    guide = None
    if isinstance(model, PaSam):
        convolved = model.mask_decoder.guiding_conv(guide_image(pixels, model.variant.image_size)).to(dtype)
        guide = Guide(convolved, point_marks(model.prompt_encoder))
    return PairEmbedding(EncoderOutput(*(part.to(dtype) for part in seen)), None, 2.0, guide)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for backbone, (variant, channels) in BACKBONES.items():
        seen = EncoderOutput(torch.randn(1, 256, 64, 64), torch.randn(1, 64, 64, channels))
        for name, make in (("hq-sam", hq), ("pa-sam", pa)):
            size = 256 if variant == "lite_medsam" else 1024
            pair, some = reference_pair(size)
            pixels = to_tensor(pair.high, torch.device("cpu"))
            shifts = np.arange(-(-options.boxes // len(some)))[:, None, None] * 2.0
            boxes = np.clip((some[None] + shifts).reshape(-1, 4)[: options.boxes], 0, size).astype(np.float32)
            model, ask = make(variant, seen, pixels)
            baseline = seconds(lambda ask=ask, boxes=boxes: [ask(box) for box in torch.from_numpy(boxes)], 1)
            print(f"{name} on {backbone}: {len(boxes)} boxes on one image, one thread, CPU seconds")
            print(f"  one prompt at a time          {baseline:8.2f}   1.0 x")
            for dtype in (torch.float32, torch.bfloat16):
                segmenter, embedding = segmenter_of(model, dtype), embedded(model, seen, pixels, dtype)
                for margin, drawn in ((None, "whole patch"), (MARGIN, "windows")):

                    def decode(segmenter=segmenter, embedding=embedding, margin=margin, boxes=boxes) -> object:
                        return segmenter.decode(embedding, prompts_of(boxes), margin=margin)

                    ours = seconds(decode, 2)
                    label = f"{str(dtype).removeprefix('torch.')}, {drawn}"
                    print(f"  {label:<29} {ours:8.2f} {baseline / ours:5.1f} x")


if __name__ == "__main__":
    main()
