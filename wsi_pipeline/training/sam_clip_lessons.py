"""What SAM-CLIP learns from a patch, made once: what its teacher says of views, and what SAM answers to boxes.

Views and boxes depend on the patch's pixels alone, so that a patch is the same lesson in every epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wsi_pipeline.models.backbones.vit import PATCH, ViTEncoder
from wsi_pipeline.models.coarse_prompts import bounding_boxes
from wsi_pipeline.models.encoding import pixel_digest, shared_encoder, weights_signature
from wsi_pipeline.models.image_text import ImageTextEncoder
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.preprocess import to_tensor
from wsi_pipeline.models.prompt_embedding import PromptTensors, embed_prompts
from wsi_pipeline.models.sam import Sam
from wsi_pipeline.models.sam_clip.network import MergedSam
from wsi_pipeline.models.sam_clip.sight import GRID, seeing, tokens_of
from wsi_pipeline.models.tensor_store import Tensors, TensorStore
from wsi_pipeline.training.batches import objects_of
from wsi_pipeline.training.data.samples import Picture
from wsi_pipeline.training.recipe import SamClipRecipe
from wsi_pipeline.training.sam_clip_views import corners_of, crops_of, cut, sides_of

_RANDOM_SIDES = (0.1, 0.5)
"""Shares of the patch's side between which those of boxes are where no object is known."""


class Lessons:
    """Makes lessons.

    Args:
        recipe: which views, and how many boxes.
        network: whose encoder the head reads; only looked at as it is now, and only in stages where it stays so.
        original: the SAM whose answers are rehearsed.
        teacher: says what views mean.
        folder: keeps the lessons.
        device: where to compute.
    """

    def __init__(
        self,
        recipe: SamClipRecipe,
        network: MergedSam,
        original: Sam,
        teacher: ImageTextEncoder,
        folder: Path,
        device: torch.device,
    ) -> None:
        self._recipe, self._original, self._teacher, self._device = recipe, original, teacher, device
        self.grid = grid_of(network)
        self.sides = sides_of(recipe.views, self.grid)
        self._network = network
        # folded for inference, it is faster
        self._encoder = shared_encoder(
            seeing(network.image_encoder),
            network.variant.pixels,
            network.variant.image_size,
            device=device,
            dtype=torch.float32,
        )
        frozen = "" if recipe.merging else weights_signature(network.image_encoder)
        asked = recipe.objects, recipe.min_object
        told = repr((teacher.name, self.sides, frozen or asked, weights_signature(original.image_encoder)))
        self._kept = TensorStore(folder / f"sam-clip-{hashlib.blake2b(told.encode(), digest_size=8).hexdigest()}")

    def of(self, picture: Picture) -> Tensors:
        """The lesson of a patch (S, S, 3).

        Returns:
            ``vectors`` (V, D) of the views and their ``corners`` (V, 2). In stages with a frozen encoder besides the
            tokens (s, s, C) of each view, ``0`` …; in the others ``boxes`` (P, 4), and SAM's ``answers`` (P, 256, 256)
            float16 logits to them.
        """
        digest = pixel_digest(picture.image)
        return self._kept.get(digest, lambda: self._made(picture, digest))

    @torch.no_grad()
    def _made(self, picture: Picture, digest: str) -> Tensors:
        corners = corners_of(digest, self.sides, self.grid)
        crops = crops_of(picture.image, corners, self.sides, self.grid)
        # one after the other: they are of different sizes
        vectors = torch.cat([self._teacher.encode_image(crop[None]).cpu() for crop in crops])
        lesson = {"vectors": vectors, "corners": torch.from_numpy(corners)}
        return lesson | (self._rehearsal(picture, digest) if self._recipe.merging else self._views(picture, corners))

    def _views(self, picture: Picture, corners: np.ndarray) -> Tensors:
        seen = None if is_plain(self._network) else self._encoder.encode(picture.image[None])[0]
        pixels = to_tensor(picture.image[None], self._device)
        where = torch.from_numpy(corners)[:, None].to(self._device)
        views = tokens_of_views(self._network, seen, pixels, where, self.sides)
        return {str(number): tokens[0] for number, tokens in enumerate(views)}

    def _rehearsal(self, picture: Picture, digest: str) -> Tensors:
        boxes = boxes_of(picture, self._recipe.objects, self._recipe.min_object, np.random.default_rng(int(digest, 16)))
        asked = torch.from_numpy(boxes)[None].to(self._device)
        seen = self._original.encode(to_tensor(picture.image[None], self._device))
        return {"boxes": asked[0], "answers": drawn(self._original, seen.embedding, asked)[0].half()}


def is_plain(network: MergedSam) -> bool:
    """Whether the encoder is a plain vision transformer, which takes images of other sizes than a patch's."""
    return isinstance(network.image_encoder, ViTEncoder)


def grid_of(network: MergedSam) -> int:
    """Tokens that the head reads along the side of a patch."""
    return network.variant.image_size // PATCH if is_plain(network) else GRID


def tokens_of_views(
    network: MergedSam, seen: EncoderOutput | None, pixels: Tensor, corners: Tensor, sides: Sequence[int]
) -> tuple[Tensor, ...]:
    """What the head reads of views: tokens of each (B, s, s, C).

    The tokens of TinyViT, which knows patches of one size, are cut from those of the patch. A plain vision transformer
    looks at each view by itself.

    Args:
        network: has the encoder.
        seen: of the patches, see ``MergedSam.look``; only TinyViT needs it.
        pixels: (B, 3, S, S) 0..255 of the same.
        corners: (V, B, 2) int64 (x, y) of the views, in tokens.
        sides: of the views, in tokens.
    """
    channels = network.clip_head.in_dim
    if not is_plain(network):
        assert seen is not None
        tokens = tokens_of(seen, channels)
        return tuple(cut(tokens, where, side) for where, side in zip(corners, sides, strict=True))
    image = pixels.permute(0, 2, 3, 1)
    views = (cut(image, where * PATCH, side * PATCH) for where, side in zip(corners, sides, strict=True))
    return tuple(tokens_of(network.look(view.permute(0, 3, 1, 2)), channels) for view in views)


def drawn(sam: Sam, embedding: Tensor, boxes: Tensor) -> Tensor:
    """(B, P, 256, 256) logits of the single mask of boxes (B, P, 4) on embeddings (B, 256, 64, 64)."""
    embedded = embed_prompts(sam.prompt_encoder, PromptTensors(boxes=boxes))
    decoder = sam.mask_decoder
    image = decoder.image_side(embedding, sam.prompt_encoder.get_dense_pe()[0], embedded.dense)
    decoded = decoder.decode(image, embedded.sparse)
    return decoder.masks(decoder.upscale(decoded), decoder.mask_vectors(decoded, range(1))).squeeze(2)


def boxes_of(picture: Picture, count: int, smallest: int, random: np.random.Generator) -> np.ndarray:
    """(count, 4) float32 boxes of objects drawn with replacement; random ones where no object shows ``smallest`` px."""
    labels = objects_of(picture, smallest)
    if len(labels):
        masks = picture.labels == random.choice(labels, count)[:, None, None]
        return bounding_boxes(masks & picture.known)
    side = len(picture.image)
    extent = random.uniform(*_RANDOM_SIDES, (count, 2)) * side
    corner = random.random((count, 2)) * (side - extent)
    return np.concatenate([corner, corner + extent], axis=1).astype(np.float32)
