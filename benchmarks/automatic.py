"""Automatic masks of one tile against segment-anything's mask generator, in one run on one thread.

python benchmarks/automatic.py               # 32 x 32 points
python benchmarks/automatic.py --points 8

Both have the same vit_b of weights made from names, the same 1024 px of a real slide, the same points (those on
tissue) and the same settings. The image is encoded once, by our encoder, before the clock starts; neither side encodes.
The weights are changed a little so that masks are not noise (``point_minded``).
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling import Sam as OfficialSam
from torch import Tensor, nn

from wsi_pipeline.geometry import Region
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.roles import MaskBatch, PairImages, PromptBatch
from wsi_pipeline.models.sam import Sam, SamSegmenter, build_sam
from wsi_pipeline.models.segmenter import PairEmbedding
from wsi_pipeline.prompts.grid import PointGrid
from wsi_pipeline.segment.automatic import MaskFinder
from wsi_pipeline.segment.candidates import Candidate
from wsi_pipeline.segment.components import stability
from wsi_pipeline.segment.tile_extent import TileExtent
from wsi_pipeline.slides.slide import open_slide
from wsi_pipeline.workflow import GridPrompts

ROOT = Path(__file__).resolve().parents[1]
SLIDE = ROOT / "wsi_pipeline" / "data" / "CMU-1-Small-Region.svs"
SIZE = 1024
ALIKE = 0.99
"""IoU from which on two masks count as the same."""


def made_from_names() -> ModuleType:
    """The module that makes weights."""
    path = ROOT / "tests" / "models" / "deterministic_weights.py"
    spec = importlib.util.spec_from_file_location("deterministic_weights", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def point_minded(sam: Sam) -> Sam:
    """Change random weights so that masks depend on the point and have edges: else nearly all are alike, and noise.

    Image tokens look at prompts by one projection on both sides, so that near ones see them best; cells have no
    texture; logits are larger; and the first channel of the mask features is 1 everywhere (see ``set_thresholds``).
    """
    decoder = sam.mask_decoder
    for layer in decoder.transformer.layers:
        look = layer.cross_attn_image_to_token
        look.q_proj.weight.mul_(3)
        look.k_proj.load_state_dict(look.q_proj.state_dict())
    for layer in (decoder.output_upscaling[0], decoder.output_upscaling[3]):
        layer.weight.copy_(2 * layer.weight.mean(dim=(2, 3), keepdim=True).expand_as(layer.weight))
    decoder.output_upscaling[3].weight[:, 0] = 0
    decoder.output_upscaling[3].bias[0] = 1
    for network in decoder.output_hypernetworks_mlps:
        network.layers[2].weight.mul_(25)
        network.layers[2].bias.mul_(25)
        network.layers[2].weight[0] = 0
        network.layers[2].bias[0] = 0
    return sam


@torch.no_grad()
def set_thresholds(sam: Sam, thresholds: np.ndarray) -> None:
    """Lower the logits of the three guesses (after ``point_minded``) by a number each."""
    one = float(nn.functional.gelu(torch.ones(())))
    for network, threshold in zip(sam.mask_decoder.output_hypernetworks_mlps[1:], thresholds, strict=True):
        network.layers[2].bias[0] = -float(threshold) / one


def official_sam(sam: Sam, encoder: nn.Module) -> OfficialSam:
    """segment-anything's model with the weights of ours and another image encoder."""
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=2048)
    prompts = PromptEncoder(
        embed_dim=256, image_embedding_size=(64, 64), input_image_size=(SIZE, SIZE), mask_in_chans=16
    )
    official = OfficialSam(encoder, prompts, MaskDecoder(transformer_dim=256, transformer=transformer))
    official.prompt_encoder.load_state_dict(sam.prompt_encoder.state_dict())
    official.mask_decoder.load_state_dict(sam.mask_decoder.state_dict())
    return official.eval()


def likeness(theirs: list[dict[str, Any]], ours: list[Candidate]) -> tuple[np.ndarray, np.ndarray]:
    """For each of N masks of theirs the best IoU (N,) with one of ours, and how far predicted IoU and stability of that
    pair differ (N, 2)."""
    size = len(theirs[0]["segmentation"])
    mine = _packed(np.stack([drawn(one, size) for one in ours]))
    other = _packed(np.stack([one["segmentation"] for one in theirs]))
    scores = np.array([(one.iou, one.stability) for one in ours])
    wanted = np.array([(one["predicted_iou"], one["stability_score"]) for one in theirs])
    overlap, apart = np.empty(len(theirs)), np.empty((len(theirs), 2))
    for row, (mask, their_scores) in enumerate(zip(other, wanted, strict=True)):
        common, either = (np.bitwise_count(bits).sum(axis=1) for bits in (mine & mask, mine | mask))
        iou, differs = common / either, np.abs(scores - their_scores)
        best = np.lexsort((differs.max(axis=1), -iou))[0]
        overlap[row], apart[row] = iou[best], differs[best]
    return overlap, apart


def _packed(masks: np.ndarray) -> np.ndarray:
    return np.packbits(masks.reshape(len(masks), -1), axis=1).view(np.uint64)


def drawn(one: Candidate, size: int) -> np.ndarray:
    """(size, size) bool."""
    canvas = np.zeros((size, size), bool)
    x0, y0, x1, y1 = one.box
    canvas[y0:y1, x0:x1] = one.mask
    return canvas


@dataclass
class Encoded:
    """A segmenter that has encoded its one image already."""

    segmenter: SamSegmenter
    embedding: Any
    input_size: int = SIZE
    mask_size: int = 256
    uses_low_patch: bool = False
    n_guesses: int = 3
    prompt_kinds: frozenset[str] = frozenset({"point"})

    def encode(self, pairs: PairImages) -> Any:
        return self.embedding

    def decode(self, embedding: Any, prompts: PromptBatch, **how: Any) -> MaskBatch:
        return self.segmenter.decode(embedding, prompts, **how)


class Known(nn.Module):
    """An image encoder that gives what is known already."""

    img_size = SIZE

    def __init__(self, embedding: Tensor) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, pixels: Tensor) -> Tensor:
        return self.embedding


def prepared(image: np.ndarray) -> tuple[Sam, Encoded, dict[str, float]]:
    """The model with masks of a twentieth of the tile on average, and thresholds that about a third of them passes."""
    sam = point_minded(made_from_names().fill_(build_sam("vit_b")))
    segmenter = SamSegmenter(sam)
    embedding = _smooth(segmenter.encode(PairImages(image[None])))
    along = (np.arange(4) + 0.5) * SIZE / 4
    points = np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 1, 2).astype(np.float32)
    probe = PromptBatch(np.zeros(16, np.int64), points=points, point_labels=np.ones((16, 1), np.int64))
    answers = segmenter.decode(embedding, probe, guesses=True)
    thresholds = np.quantile(answers.logits.reshape(16, 3, -1), 0.95, axis=(0, 2)).astype(np.float32)
    set_thresholds(sam, thresholds)
    stable = stability(answers.logits - np.tile(thresholds, 16)[:, None, None])
    chosen = {
        "pred_iou_thresh": float(np.clip(np.median(answers.iou), 1e-6, 1)),
        "stability_score_thresh": float(np.quantile(stable, 0.25)),
        "box_nms_thresh": 0.9,
    }
    return sam, Encoded(SamSegmenter(sam), embedding), chosen


def _smooth(embedding: PairEmbedding) -> PairEmbedding:
    """Neighbouring cells averaged and spread as before: an untrained encoder gives noise, and so would masks be."""
    cells = embedding.high.embedding
    mean, deviation = cells.mean(dim=(2, 3), keepdim=True), cells.std()
    smooth = nn.functional.avg_pool2d(cells, 17, 1, 8, count_include_pad=False) - mean
    high = EncoderOutput(mean + smooth * (deviation / smooth.std()), embedding.high.early)
    return PairEmbedding(high, None, embedding.context_factor)


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """CPU time of this thread, which other load on the machine changes little, and the result."""
    started = time.thread_time()
    result = function()
    return time.thread_time() - started, result


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--points", type=int, default=32, help="points per side")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    with open_slide(SLIDE) as slide:
        mpp = slide.info.resolution.mean
        image = slide.read(Region(750, 1800, SIZE, SIZE), mpp).image[:SIZE, :SIZE]
    sam, segmenter, chosen = prepared(image)
    asked = GridPrompts(source="grid", points_per_side=options.points, min_mask_region_area=0, **chosen)
    points = PointGrid(asked).detect(PairImages(image[None]), mpp=mpp)[0].points
    official = SamAutomaticMaskGenerator(
        official_sam(sam, Known(segmenter.embedding.high.embedding)),
        points_per_side=None,
        point_grids=[points / SIZE],
        **chosen,
    )
    finder = MaskFinder(segmenter, asked, nms_iou=1)

    def find() -> list[Candidate]:
        return finder.find(PairImages(image[None]), TileExtent.whole(SIZE, mpp), lambda crop: PairImages(image[None]))

    mine, ours = seconds(find)
    baseline, theirs = seconds(lambda: official.generate(image))
    overlap, apart = likeness(theirs, ours)
    print(f"{len(points)} points on one tile of {SIZE} px, vit_b, float32, one thread, CPU seconds without the encoder")
    print(f"  segment-anything's generator {baseline:8.1f}   1.0 x  {len(theirs)} masks")
    print(f"  ours                         {mine:8.1f} {baseline / mine:5.1f} x  {len(ours)} masks")
    print(f"  masks with an IoU of at least {ALIKE}: {np.mean(overlap >= ALIKE):.1%}")
    print("  largest difference of predicted IoU {:.1e}, of stability {:.1e}".format(*apart.max(axis=0)))


if __name__ == "__main__":
    main()
