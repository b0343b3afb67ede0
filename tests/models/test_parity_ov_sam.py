"""Open-Vocabulary SAM equals the published code, number for number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from wsi_pipeline.models.image_text.openclip import OpenClip
from wsi_pipeline.models.ov_sam.adapter import Sam2ClipAdapter
from wsi_pipeline.models.ov_sam.ensemble import fuse
from wsi_pipeline.models.ov_sam.head import OpenVocabularyDecoder, boxes_of_masks, class_logits
from wsi_pipeline.models.ov_sam.pyramid import STRIDES, FeaturePyramid, level_of_box, pool_from_pyramid
from wsi_pipeline.models.preprocess import SAM_PIXELS, restore
from wsi_pipeline.models.regions import box_rows, pool_boxes, pool_masks
from wsi_pipeline.models.roles import Regions
from wsi_pipeline.training.losses import mask_loss
from wsi_pipeline.training.ov_sam_loss import class_loss

CHANNELS = (24, 48, 96, 192)


@pytest.fixture(scope="module")
def stored(golden):
    return golden("ovsam_modules")


@pytest.fixture(scope="module")
def head(weights):
    with torch.no_grad():
        return weights.fill_(OpenVocabularyDecoder(32, 32).eval(), "mask_decoder.")


@pytest.fixture(scope="module")
def levels(weights):
    """The pyramid of the head's inputs."""
    pyramid = weights.fill_(FeaturePyramid(CHANNELS, 32).eval(), "fpn_neck.")
    with torch.no_grad():
        return pyramid(
            [
                weights.normal_input(f"ovsam_head_feat{i}", (1, c, 1024 // s, 1024 // s))
                for i, (c, s) in enumerate(zip(CHANNELS, STRIDES, strict=True))
            ]
        )


@pytest.fixture(scope="module")
def rows(stored):
    return box_rows(np.zeros(6), stored["boxes"])


@pytest.fixture(scope="module")
def classes(stored):
    return torch.from_numpy(stored["text_embed"])


@pytest.fixture(scope="module")
def decoded(head, weights):
    with torch.no_grad():
        image = head.mask_decoder.image_side(
            weights.normal_input("ovsam_image_embedding", (1, 256, 64, 64)),
            weights.normal_input("ovsam_image_pe", (1, 256, 64, 64), 0.5)[0],
            weights.normal_input("ovsam_dense", (1, 256, 1, 1), 0.1),
        )
        return head.decode(image, weights.normal_input("ovsam_sparse", (6, 2, 256)).unsqueeze(0))


@pytest.fixture(scope="module")
def logits(head, decoded):
    with torch.no_grad():
        return head.masks(decoded)[0]


def close(got: torch.Tensor, expected: np.ndarray, atol: float = 1e-4) -> None:
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=atol)


def test_keys_and_shapes_are_those_of_the_published_files(key_list):
    with torch.device("meta"):
        parts = torch.nn.ModuleDict(
            {
                "neck": Sam2ClipAdapter(),
                "fpn_neck": FeaturePyramid((384, 768, 1536, 3072)),
                "mask_decoder": OpenVocabularyDecoder(),
            }
        )
    assert {key: "x".join(map(str, value.shape)) for key, value in parts.state_dict().items()} == key_list(
        "ovsam_rn50x16"
    )


def test_adapter(weights, stored):
    adapter = weights.fill_(Sam2ClipAdapter(CHANNELS, STRIDES, grid=16, width=64, out_channels=32).eval(), "neck.")
    levels = [
        weights.normal_input(f"ovsam_feat{i}", (1, c, 256 // s, 256 // s))
        for i, (c, s) in enumerate(zip(CHANNELS, STRIDES, strict=True))
    ]
    close(adapter.tokens(levels)[:, ::4, ::4, ::4], stored["neck_small_sum"])
    close(adapter(levels), stored["neck_small_out"])


@pytest.mark.slow
def test_adapter_of_the_published_size(weights, stored):
    adapter = weights.fill_(Sam2ClipAdapter().eval(), "neck.")
    levels = [
        weights.normal_input(f"ovsam_full_feat{i}", (1, c, 1024 // s, 1024 // s))
        for i, (c, s) in enumerate(zip((384, 768, 1536, 3072), STRIDES, strict=True))
    ]
    out = adapter(levels)
    close(out[:, ::16, ::8, ::8], stored["neck_full_out_sub"], 5e-4)
    close(out.mean(dim=(2, 3)), stored["neck_full_out_channel_mean"], 5e-4)


def test_pyramid(levels, stored):
    for i, (level, step) in enumerate(zip(levels, (32, 16, 8, 4), strict=True)):
        close(level[:, ::8, ::step, ::step], stored[f"fpn_out{i}_sub"])


def test_regions_and_their_classes(head, levels, rows, classes, stored):
    np.testing.assert_array_equal(level_of_box(rows[:, 1:]), stored["roi_level"])
    pooled = pool_from_pyramid(levels, rows, size=1024, grid=12)
    close(pooled[:, ::8, ::4, ::4], stored["roi_feat_sub"])
    vectors = head.embed_regions(levels, rows, size=1024)
    close(vectors, stored["roi_embed"])
    close(class_logits(vectors, classes), stored["class_logits"][:, 0], 1e-3)


def test_masks(head, decoded, logits, stored):
    close(logits[:, :, ::16, ::16], stored["mask_logits_sub"])
    flat = logits[:, 0].flatten(1)
    close(torch.stack([flat.mean(dim=1), flat.std(dim=1)], dim=1), stored["mask_logits_mean_std"])
    close(head.labels(decoded)[0], stored["label_embed_unused"])


def test_boxes_of_masks(head, levels, logits, classes, stored):
    masks = torch.from_numpy(stored["mask2bbox_masks"])
    np.testing.assert_array_equal(boxes_of_masks(masks > 0), stored["mask2bbox_boxes"])
    boxes = 4 * boxes_of_masks(logits[:, 0] > 0)
    np.testing.assert_array_equal(boxes, stored["genbox_boxes"])
    vectors = head.embed_regions(levels, box_rows(np.zeros(6), boxes.numpy()), size=1024)
    close(class_logits(vectors, classes), stored["genbox_class_logits"][:, 0], 1e-3)


def test_classifier_alone(weights, classes, stored):
    query = weights.normal_input("ovsam_logit_query", (4, 1, 32))
    close(query, stored["logit_query"])
    close(class_logits(query[:, 0], classes), stored["logit_out"][:, 0], 1e-3)


def test_masks_of_the_original_image(logits, stored):
    restored = restore(logits[:2], 1024, (768, 1024), (480, 640))
    close(restored[:, :, ::60, ::80], stored["postprocess_sub"])


def test_losses(weights, stored):
    scores = weights.normal_input("ovsam_loss_scores", (7, 6), 2)
    masks = weights.normal_input("ovsam_loss_mask", (7, 50), 2)
    target = (weights.normal_input("ovsam_loss_gt", (7, 50)) > 0).float()
    close(class_loss(scores, torch.from_numpy(stored["loss_labels"])), stored["loss_cls"])
    loss = mask_loss(masks, target)
    close(5 * loss[0], stored["loss_mask"])
    close(5 * loss[1], stored["loss_dice"])


@pytest.fixture(scope="module")
def clip_logits(weights, rows, classes, stored):
    """What CLIP's own head says of the regions."""
    attention_pool = pytest.importorskip("open_clip.modified_resnet").AttentionPool2d(7, 64, 4, 32)
    weights.fill_(attention_pool.eval(), "head.")
    features = weights.normal_input("ovsam_clip_feat", (1, 64, 32, 32))
    with torch.no_grad():
        vectors = attention_pool(pool_boxes(features, rows, size=1024, grid=7))
        close(vectors, stored["clip_roi_embed"])
        return class_logits(vectors, classes)


def test_two_opinions_together(clip_logits, logits, stored):
    close(clip_logits, stored["clip_logits"][:, 0], 1e-3)
    masks = torch.cat([logits[:5, 0], torch.full((1, 256, 256), -1.0)])
    valid = (on_grid(masks) > 0).flatten(1).any(dim=1)
    head = torch.from_numpy(stored["class_logits"][:, 0])
    fused = fuse(head, clip_logits, base={0, 1}, novel={2, 3}, valid=valid)
    close(fused, stored["fused_base_novel"][:, 0], 1e-3)
    close(fuse(head, clip_logits, valid=valid), stored["fused_all_novel"][:, 0], 1e-3)
    np.testing.assert_array_equal(fused[:, :-1].argmax(dim=1), stored["fused_label"])


def test_means_under_masks(weights, logits, stored):
    masks = on_grid(logits[:3, 0]) > 0
    regions = Regions(np.zeros(3, np.int64), np.tile([0, 0, 32, 32], (3, 1)), list(masks.numpy()))
    features = weights.normal_input("ovsam_clip_feat", (1, 64, 32, 32))
    close(pool_masks(features, regions, size=32), stored["mask_pool"][0])


def on_grid(masks: torch.Tensor) -> torch.Tensor:
    """Mask logits on the grid of CLIP's last map."""
    return F.interpolate(masks[:, None], (32, 32), mode="bilinear", align_corners=False)[:, 0]


def test_stages_and_attention_pool_of_clip(golden, weights):
    open_clip = pytest.importorskip("open_clip")
    stored, text = (
        golden("ovsam_clip_rn50"),
        {"vocab_size": 2, "context_length": 2, "width": 8, "heads": 1, "layers": 1},
    )
    network = open_clip.CLIP(1024, open_clip.get_model_config("RN50")["vision_cfg"], text).eval()
    weights.fill_(network.visual, "visual.")
    clip = OpenClip(network, lambda texts: torch.ones(len(texts), 2, dtype=torch.long), "filled")
    pixels = SAM_PIXELS.apply(weights.noise_image("ovsam_clip_image", (1, 3, 224, 224)))
    stages = clip.encode_stages(pixels)
    for number, (stage, step) in enumerate(zip(stages, (8, 4, 2, 1), strict=True), start=1):
        close(stage[:, ::32, ::step, ::step][:, :8], stored[f"stage{number}_sub"])
    assert clip.pool_grid == 7
    pooled = network.visual.attnpool(stages[-1])
    close(pooled[:, ::8], stored["attnpool"])
    close(clip.encode_pooled(stages[-1]), F.normalize(pooled, dim=1).numpy())
    close(network.visual(pixels)[:, ::8], stored["attnpool"])
