"""The model's share of the work, as ratios against named baselines in one run on one thread.

python benchmarks/segmenting.py            # pairs, and 64 boxes on one embedding

* pairs: encoding and decoding of one pair with N boxes, against the published inference path made again: both patches
  are encoded and decoded for every box anew, in float32, one box at a time.
* boxes: decoding of 64 boxes on one embedding, against segment-anything's own decoder with the same weights.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from segment_anything.modeling.mask_decoder import MaskDecoder as OfficialDecoder
from segment_anything.modeling.transformer import TwoWayTransformer as OfficialTransformer

from wsi_pipeline.models.builders import load_wsi_sam
from wsi_pipeline.models.precision import reference_pair
from wsi_pipeline.models.preprocess import to_tensor
from wsi_pipeline.models.prompt_embedding import PromptTensors
from wsi_pipeline.models.registry import build_segmenter
from wsi_pipeline.models.resolve import wsi_sam_plan
from wsi_pipeline.models.roles import PairImages, PromptBatch
from wsi_pipeline.models.wsi_sam import WsiSam
from wsi_pipeline.workflow import SegmentSettings

MARGIN = SegmentSettings().window_margin


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Least CPU time of this thread; other load on the machine counts little."""
    best = float("inf")
    for _ in range(repeats):
        started = time.thread_time()
        function()
        best = min(best, time.thread_time() - started)
    return best


def prompts_of(boxes: np.ndarray) -> PromptBatch:
    return PromptBatch(np.zeros(len(boxes), np.int64), boxes=boxes.astype(np.float32))


@torch.inference_mode()
def published_path(wsi: WsiSam, pair: PairImages, boxes: np.ndarray) -> list[torch.Tensor]:
    """One box after the other, both patches encoded anew for each."""
    assert pair.low is not None
    answers = []
    for box in boxes:
        high, low = to_tensor(pair.high, torch.device("cpu")), to_tensor(pair.low, torch.device("cpu"))
        asked = PromptTensors.of(prompts_of(box[None]), np.zeros((1, 1), np.int64), torch.device("cpu"))
        answers.append(wsi(high, low, asked, strict=True))
    return answers


def official_decoder(wsi: WsiSam) -> OfficialDecoder:
    """segment-anything's decoder with the weights of our model."""
    transformer = OfficialTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=2048)
    decoder = OfficialDecoder(transformer_dim=256, transformer=transformer)
    decoder.load_state_dict(wsi.sam.mask_decoder.state_dict())
    return decoder.eval()


def many(boxes: np.ndarray, count: int) -> np.ndarray:
    """``count`` different boxes of the size of nuclei."""
    shifts = np.arange(-(-count // len(boxes)))[:, None, None] * 2.0
    return np.clip((boxes[None] + shifts).reshape(-1, 4)[:count], 0, 256)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--boxes", type=int, default=8, help="boxes per pair of the first comparison")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    settings = SegmentSettings()
    wsi = load_wsi_sam(wsi_sam_plan(settings))
    pair, some = reference_pair(256)
    segmenters = {dtype: build_segmenter(settings, dtype=dtype, device="cpu") for dtype in ("fp32", "bf16")}

    boxes = many(some, options.boxes)
    baseline = seconds(lambda: published_path(wsi, pair, boxes), 1)
    print(f"one pair, {len(boxes)} boxes, one thread, CPU seconds")
    print(f"  published path made again   {baseline:8.2f}   1.0 x")
    for dtype, segmenter in segmenters.items():

        def ask(segmenter=segmenter) -> object:
            return segmenter.decode(segmenter.encode(pair), prompts_of(boxes), margin=MARGIN)

        ask()
        ours = seconds(ask, 2)
        print(f"  ours, {dtype}                  {ours:8.2f} {baseline / ours:5.1f} x")

    boxes = many(some, 64)
    decoder = official_decoder(wsi)
    embedding = wsi.sam.encode(to_tensor(pair.high, torch.device("cpu"))).embedding.detach()
    with torch.inference_mode():
        corners = torch.from_numpy(boxes.astype(np.float32))
        sparse, dense = wsi.sam.prompt_encoder(points=None, boxes=corners, masks=None)
        position = wsi.sam.prompt_encoder.get_dense_pe()
        stock = seconds(lambda: decoder(embedding, position, sparse, dense, False), 1)
    print("64 boxes on one embedding, one thread, CPU seconds")
    print(f"  segment-anything's decoder  {stock:8.2f}   1.0 x")
    plain = {dtype: build_segmenter(SegmentSettings(model="sam"), dtype=dtype, device="cpu") for dtype in segmenters}
    for name, group in (("sam", plain), ("wsi-sam (two decoders, HQ)", segmenters)):
        for dtype, segmenter in group.items():
            encoded = segmenter.encode(pair)
            for margin in (None, MARGIN):

                def decode(segmenter=segmenter, encoded=encoded, margin=margin) -> object:
                    return segmenter.decode(encoded, prompts_of(boxes), margin=margin)

                decode()
                ours = seconds(decode, 1)
                drawn = "whole patch" if margin is None else "windows"
                print(f"  {name:<27} {dtype}, {drawn:<12} {ours:8.2f} {stock / ours:5.1f} x")


if __name__ == "__main__":
    main()
