"""The student: LiteMedSAM's encoder behind a stem that halves the image."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from wsi_pipeline.models.backbones.tiny_vit import WIDTHS, ConvNorm, FoldedConv, TinyViT, fuse_for_inference
from wsi_pipeline.models.sam import Sam

NAME = "lite-wide"
SHRINK = 2
"""Side of the student's patches over that of its teacher's; both become as many tokens."""
STEM = 64
"""Channels of the stem's first convolution; its teacher's has half as many."""


def student_of(teacher: Sam, seed: int) -> Sam:
    """A student that answers about a patch as LiteMedSAM does about the patch shrunk by 2 x 2 averaging.

    Its prompt encoder and mask decoder are copies of its teacher's. Batch norms are folded into their convolutions:
    their statistics stay as they are, and a step takes less time.

    Args:
        teacher: LiteMedSAM, in evaluation mode.
        seed: of the stem's additional channels, to which nothing listens at first.
    """
    taught, size = teacher.image_encoder, SHRINK * teacher.variant.image_size
    assert isinstance(taught, TinyViT)
    student = Sam(replace(teacher.variant, name=NAME, image_size=size))
    student.prompt_encoder.load_state_dict(teacher.prompt_encoder.state_dict())
    student.mask_decoder.load_state_dict(teacher.mask_decoder.state_dict())
    student.eval().requires_grad_(False)
    student.image_encoder = widened(taught, size, seed).requires_grad_(True)
    return student


def widened(taught: TinyViT, size: int, seed: int) -> TinyViT:
    """An encoder of patches of ``size`` px that computes what the folded one does of the mean of 2 x 2 px."""
    encoder = fuse_for_inference(taught)
    encoder.image_size = size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second = ConvNorm(3, STEM, 3, SHRINK).folded(), ConvNorm(STEM, WIDTHS[0]).folded()
    known_first, _, known_second = encoder.patch_embed.seq
    _start_averaging(first, second, known_first, known_second)
    encoder.patch_embed.seq = nn.Sequential(first, nn.GELU(), second)
    return encoder


@torch.no_grad()
def _start_averaging(first: FoldedConv, second: FoldedConv, known_first: nn.Module, known_second: nn.Module) -> None:
    """Fill the stem's convolutions; the teacher's look at one px."""
    count = WIDTHS[0] // 2
    first.weight[:count] = 0
    # padded by one px, output n sees px 2n - 1, 2n and 2n + 1
    first.weight[:count, :, 1:, 1:] = known_first.get_parameter("weight")[..., None, None] / SHRINK**2
    first.bias[:count] = known_first.get_parameter("bias")
    second.weight[:, :count], second.weight[:, count:] = known_second.get_parameter("weight"), 0
    second.bias.copy_(known_second.get_parameter("bias"))
