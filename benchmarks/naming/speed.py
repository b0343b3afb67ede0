"""What it costs to name the objects of a tile: one pass of a CLIP for each, or pooling from one shared embedding."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.segmenting import seconds
from wsi_pipeline.models.encoding import PatchEncoder
from wsi_pipeline.models.image_text.openclip import OpenClip
from wsi_pipeline.models.ov_sam.baselines import ImageCropRecogniser
from wsi_pipeline.models.ov_sam.region_features import region_features
from wsi_pipeline.models.roles import PairImages, Regions
from wsi_pipeline.training.ov_sam_head import OvSamHead
from wsi_pipeline.vocabulary import VocabularySettings

MASKS, REPEATS, CROP_ENCODER = 64, 3, "ViT-B-32"
"""The quickest CLIP there is a published file of, so that the ratio flatters nobody."""


def measure(head: OvSamHead, encoder: PatchEncoder, pairs: PairImages, regions: Regions) -> dict[str, Any]:
    """CPU seconds for the regions of one pair, the best of several times, one way after the other in one process.

    Args:
        head: names regions.
        encoder: keeps nothing, so that it can be timed.
        pairs: one pair.
        regions: on it.
    """
    assert pairs.low is not None
    both, facts = (pairs.high, pairs.low), head.module.facts
    high, low = encoder.encode(*both)
    crops = ImageCropRecogniser(random_clip(), VocabularySettings(classes=facts.classes))

    @torch.inference_mode()
    def pooled() -> None:
        features = region_features(high, low, regions, size=encoder.size, context_factor=facts.context_factor)
        head.logits(features)

    return {
        "masks": len(regions),
        "crop_encoder": CROP_ENCODER,
        "pooling": seconds(pooled, REPEATS),
        "encoder": seconds(lambda: encoder.encode(*both), REPEATS),
        "crops": seconds(lambda: crops.recognise(crops.encode(pairs), regions), REPEATS),
    }


def random_regions(size: int, seed: int = 0) -> Regions:
    """Boxes of 16 to 48 px that are filled."""
    rng = np.random.default_rng(seed)
    sides = rng.integers(16, 49, (MASKS, 2))
    corners = rng.integers(0, size - sides)
    masks = [np.ones((height, width), bool) for width, height in sides]
    return Regions(np.zeros(MASKS, np.int64), np.concatenate([corners, corners + sides], axis=1), masks)


def random_clip(name: str = CROP_ENCODER) -> OpenClip:
    """A CLIP of open_clip that nobody trained: it takes as long as one that means something."""
    import open_clip

    network = open_clip.create_model(name, load_weights=False).eval()
    return OpenClip(network, open_clip.get_tokenizer(name), f"random {name}")
