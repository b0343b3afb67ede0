"""Whose features are compared: a SAM's own image encoder, or a vision transformer of timm with a local checkpoint."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.errors import WeightsError, WorkflowError
from wsi_pipeline.models.checkpoints import load_into, read_state_dict
from wsi_pipeline.models.encoding import PatchEncoder, shared_encoder, weights_signature
from wsi_pipeline.models.placing import placed
from wsi_pipeline.models.preprocess import SAM_PIXELS, to_tensor

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

    from wsi_pipeline.models.sam import Sam

DINOV2 = {f"dinov2-{size[0]}": f"vit_{size}_patch14_dinov2" for size in ("small", "base", "large")}
"""Short names for those of timm."""
_PREFIX = re.compile(r"^(?:teacher\.)?(?:module\.)?(?:backbone\.)?")
_HEADS = ("dino_head.", "ibot_head.", "head.", "fc_norm.")
"""Parts that checkpoints hold and features do not need."""


class FeatureEncoder(Protocol):
    """Features of the patches of images."""

    grid: int
    """g: features along the side of an image."""
    signature: str
    """Of all that its features depend on besides the image."""
    encoder: PatchEncoder | None
    """The shared one it stands on, if it does."""

    def levels(self, images: np.ndarray) -> list[np.ndarray]:
        """(B, g * g, C) float32 for each kind of feature, of (B, S, S, 3) uint8 RGB images."""
        ...


def unit(levels: Sequence[np.ndarray], mean: np.ndarray | None = None) -> np.ndarray:
    """(B, N, C) features of unit length: each level without the mean and of unit length, side by side.

    Args:
        levels: (B, N, C_l) each.
        mean: (C,) or (B, C), to be subtracted, the levels side by side; None for nothing.
    """
    means = [0.0] * len(levels) if mean is None else _split(np.atleast_2d(mean)[:, None], levels)
    parts = [_normalised(level - middle) for level, middle in zip(levels, means, strict=True)]
    return np.concatenate(parts, axis=-1) / np.float32(np.sqrt(len(parts)))


def mean_of(levels: Sequence[np.ndarray]) -> np.ndarray:
    """(B, C) float32: mean feature of each image, the levels side by side."""
    return np.concatenate([level.mean(axis=1, dtype=np.float64) for level in levels], axis=-1).astype(np.float32)


def _split(joined: np.ndarray, levels: Sequence[np.ndarray]) -> list[np.ndarray]:
    return np.split(joined, np.cumsum([level.shape[-1] for level in levels])[:-1], axis=-1)


def _normalised(features: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.maximum(length, np.finfo(np.float32).tiny)


class SamFeatures:
    """Maps of a SAM's image encoder, which is shared with whoever else asks about the same patches.

    Args:
        sam: whose encoder.
        grid: features along the side of an image.
        early: also the early map, which tells small things apart that the embedding does not.
        device, dtype: where and in what to compute.
    """

    def __init__(self, sam: Sam, grid: int, *, early: bool, device: str, dtype: torch.dtype) -> None:
        self.grid, self._early = grid, early
        self.encoder: PatchEncoder | None = shared_encoder(
            sam.image_encoder, sam.variant.pixels, sam.variant.image_size, device=torch.device(device), dtype=dtype
        )
        self._encode, self._side = self.encoder.encode, sam.variant.image_size
        self.signature = f"{weights_signature(sam.image_encoder)}-{dtype}-{early}"

    @torch.inference_mode()
    def levels(self, images: np.ndarray) -> list[np.ndarray]:
        (seen,) = self._encode(resized(images, self._side))
        maps = [seen.early.permute(0, 3, 1, 2), seen.embedding] if self._early else [seen.embedding]
        return [_rows(F.adaptive_avg_pool2d(one.float(), self.grid)) for one in maps]


class TimmFeatures:
    """Patch tokens of a vision transformer, taken before the last norm.

    Args:
        model: of timm, with ``dynamic_img_size``.
        grid: features along the side of an image, which is scaled to as many patches.
        signature: of the weights.
        device, dtype: where and in what to compute.
    """

    encoder: PatchEncoder | None = None

    def __init__(self, model: VisionTransformer, grid: int, *, signature: str, device: str, dtype: torch.dtype) -> None:
        self.grid, self.signature = grid, f"{signature}-{dtype}"
        self._device, self._dtype = torch.device(device), dtype
        self._model = placed(model, self._device, dtype).eval()
        self._side = grid * int(self._model.patch_embed.patch_size[0])

    def levels(self, images: np.ndarray) -> list[np.ndarray]:
        # one at a time: an image's features do not depend on what else is in the batch
        # ImageNet's mean and deviation, which SAM's are, too
        maps = [self.tokens(SAM_PIXELS.apply(_scaled(one[None], self._side, self._device))) for one in images]
        return [np.concatenate([_rows(one) for one in maps])]

    @torch.inference_mode()
    def tokens(self, pixels: Tensor) -> Tensor:
        """(B, C, h, w) float32 of normalised pixels (B, 3, H, W)."""
        found: Any = self._model.forward_intermediates(
            pixels.to(self._dtype), indices=1, norm=False, intermediates_only=True, output_fmt="NCHW"
        )
        last: Tensor = found[-1]
        return last.float()


def load_timm(name: str, path: Path, grid: int, *, device: str = "cpu", dtype: torch.dtype) -> TimmFeatures:
    """A vision transformer by its name in timm or in ``DINOV2``, with a checkpoint of its own or of DINOv2's layout.

    Raises:
        WorkflowError: timm knows no such ViT.
        WeightsError: the file is missing, unsafe, or of another network.
    """
    try:
        import timm
        from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
    except ModuleNotFoundError:
        fix = "Run `pip install timm`, or use embedded"
        raise WorkflowError(f"the encoder {name} needs the package timm", where="matcher.encoder", fix=fix) from None
    full = DINOV2.get(name, name)
    if not timm.is_model(full):
        fix = f"Use embedded, {', '.join(DINOV2)}, a backbone or a ViT of timm"
        raise WorkflowError(f"no such encoder: {name}", where="matcher.encoder", fix=fix)
    state = {_PREFIX.sub("", key): value for key, value in read_state_dict(path).items()}
    state = {key: value for key, value in state.items() if not key.startswith(_HEADS)}
    scaled: dict[str, Any] = {"init_values": 1e-5} if "blocks.0.ls1.gamma" in state else {}
    try:
        model = timm.create_model(full, pretrained=False, num_classes=0, dynamic_img_size=True, **scaled)
    except TypeError:  # of another make: it knows no such option
        model = None
    if not isinstance(model, VisionTransformer):
        raise WorkflowError(f"{full} is no plain vision transformer", where="matcher.encoder", fix="Use a ViT of timm")
    try:
        state = checkpoint_filter_fn(state, model)
    except (KeyError, ValueError, RuntimeError, AttributeError):  # what it does with foreign keys is up to timm
        raise WeightsError(
            f"is no checkpoint of {full}", where=path, fix="Give the weights of this very model"
        ) from None
    load_into(model, state, where=path)
    digest = hashlib.blake2b(full.encode(), digest_size=16)
    digest.update(weights_signature(model).encode())
    return TimmFeatures(model, grid, signature=digest.hexdigest(), device=device, dtype=dtype)


def resized(images: np.ndarray, side: int) -> np.ndarray:
    """(B, side, side, 3) uint8 of square images (B, S, S, 3) uint8."""
    if images.shape[1] == side:
        return images
    scaled = _scaled(images, side, torch.device("cpu"))
    return np.ascontiguousarray(scaled.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy())


def _scaled(images: np.ndarray, side: int, device: torch.device) -> Tensor:
    """(B, 3, side, side) float32 pixels 0..255."""
    pixels = to_tensor(images, device)
    if pixels.shape[-1] == side:
        return pixels
    return F.interpolate(pixels, (side, side), mode="bilinear", antialias=True, align_corners=False)


def _rows(maps: Tensor) -> np.ndarray:
    """(B, h * w, C) float32 of maps (B, C, h, w)."""
    return np.asarray(maps.flatten(2).transpose(1, 2).cpu().numpy())
