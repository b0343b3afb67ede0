"""The parts that LoRA-SAM shares with RSPrompter equal the published code, number for number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from wsi_pipeline.models.lora_sam.pyramid import FeatureAggregator, SimpleFeaturePyramid
from wsi_pipeline.models.lora_sam.query import QueryTokens
from wsi_pipeline.models.lora_sam.settings import LoraSamSettings
from wsi_pipeline.models.lora_sam.tokens import RegionTokens
from wsi_pipeline.models.sam import build_sam

PARTS = {
    "neck.feature_aggregator.": lambda: FeatureAggregator(768, 12),
    "neck.feature_spliter.": SimpleFeaturePyramid,
    "roi_head.mask_head.": RegionTokens,
    "panoptic_head.": QueryTokens,
}
OF_SAM = "roi_head.mask_head.no_mask_embed.weight"
"""The one published key whose tensor is SAM's own here."""


@pytest.fixture(scope="module")
def stored(golden):
    return golden("rsprompter_prompter")


@pytest.fixture
def part(weights):
    return lambda prefix: weights.fill_(PARTS[prefix]().eval(), prefix)


def close(got: torch.Tensor, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-5, atol=1e-5)


def test_keys_and_shapes_are_the_published_ones(key_list):
    found = {OF_SAM: "1x256"}
    with torch.device("meta"):
        for prefix, build in PARTS.items():
            state = build().state_dict()
            found |= {f"{prefix}{key}": "x".join(map(str, value.shape)) for key, value in state.items()}
    assert {key: shape for key, shape in found.items() if not key.endswith("num_batches_tracked")} == key_list(
        "rsprompter_prompter"
    )


def test_aggregator_of_hidden_states(part, weights, stored):
    hidden = [weights.normal_input(f"rs_hidden{number}", (1, 6, 6, 768)) for number in range(13)]
    close(part("neck.feature_aggregator.")(hidden)[:, ::2], stored["aggregator_output"])


def test_every_level_of_the_pyramid(part, weights, stored):
    levels = part("neck.feature_spliter.")(weights.normal_input("rs_fused", (1, 256, 6, 6)))
    assert len(levels) == 5
    for number, level in enumerate(levels):
        close(level[:, ::16], stored[f"pyramid_level{number}"])


def test_tokens_of_regions(part, weights, stored):
    tokens = part("roi_head.mask_head.")(weights.normal_input("rs_roi", (3, 256, 14, 14)))
    close(tokens[:, None], stored["prompt_tokens"])


def test_tokens_of_queries(part, weights, stored):
    tokens = part("panoptic_head.")(weights.normal_input("rs_query", (2, 4, 128)))
    close(tokens[..., ::2], stored["query_prompt_tokens"])


def test_every_region_is_drawn_on_its_own_image_with_the_no_mask_prompt(weights, stored, monkeypatch):
    """Two regions on the first image and one on the second, as recorded."""
    from wsi_pipeline.models.lora_sam import prompted

    asked = []

    class Decoder(nn.Module):
        def image_side(self, embedding, position, dense):
            asked.append((int(embedding.flatten()[0]), dense))
            return embedding

        def decode(self, image, tokens):
            asked[-1] = (*asked[-1], tokens.shape[1])
            return tokens

        def mask_vectors(self, decoded, numbers):
            return decoded

        def upscale(self, decoded, windows):
            return decoded

        def masks(self, upscaled, vectors):
            return torch.zeros(1, vectors.shape[1], 1, 256, 256)

    sam = build_sam("lite_medsam")
    sam.prompt_encoder.no_mask_embed.weight.data = torch.from_numpy(weights.weight(OF_SAM, (1, 256)))
    sam.mask_decoder = Decoder()
    model = prompted.PromptedLoraSam(sam, LoraSamSettings(rank=0, width=16, finest=2, box_width=16))
    counts = np.bincount(stored["prompt_image_index"])
    monkeypatch.setattr(model.head, "of_regions", lambda levels, size, boxes: torch.zeros(counts.sum(), 5, 256))
    seen = torch.arange(2.0)[:, None, None, None].expand(2, 256, 64, 64)
    model.mask_logits(prompted.EncoderOutput(seen, seen), [], [torch.zeros(count, 4) for count in counts], [])
    assert [(image, count) for image, _, count in asked] == list(enumerate(counts))
    for _, dense, _ in asked:
        close(dense[..., 0, 0], stored["prompt_dense_first_pixel"])
        assert dense.shape == (1, 256, 1, 1)
