"""The published baselines, for any image-text network: no training, no segmenter's encoder.

*Image-crop* looks at every object by itself, *feature-crop* once at the tile.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from wsi_pipeline.models.image_text import ImageTextEncoder, MapEncoder
from wsi_pipeline.models.preprocess import to_tensor
from wsi_pipeline.models.regions import among_used, box_rows, chunks, mask_px, pool_boxes, pool_masks
from wsi_pipeline.models.roles import PairImages, Regions
from wsi_pipeline.models.text import class_scores, class_vectors
from wsi_pipeline.vocabulary import VocabularySettings

CROPS_AT_ONCE = 32
REGIONS_AT_ONCE = 256
_GLASS = 255.0
"""What is taken out of an image looks like what lies beside tissue."""


class ImageCropRecogniser:
    """Every region is cut out of the image and looked at by itself; see ``roles.Recogniser``.

    Args:
        encoder: looks at images and words.
        vocabulary: the C classes.
        background: whether what surrounds a region within its box is shown; else it is white.

    Raises:
        WorkflowError: the encoder does not know a word.
    """

    input_size: int | None = None
    uses_low_patch = False

    def __init__(self, encoder: ImageTextEncoder, vocabulary: VocabularySettings, *, background: bool = True) -> None:
        self._encoder, self.class_names = encoder, vocabulary.names
        self._classes, self._background = class_vectors(encoder, vocabulary), background

    def encode(self, pairs: PairImages) -> np.ndarray:
        """Nothing can be done before the regions are known: the high patches themselves."""
        return pairs.high

    @torch.inference_mode()
    def recognise(self, embedding: np.ndarray, regions: Regions) -> np.ndarray:
        """(N, C) float32 probabilities of the classes of N regions."""
        told = [torch.zeros(0, len(self.class_names))]
        for some in chunks(regions, CROPS_AT_ONCE):
            crops = cut_out(embedding, some, self._encoder.image_size)
            if not self._background:
                inside = shrunk_masks(some, self._encoder.image_size)
                crops = inside * crops + (1 - inside) * _GLASS
            pixels = crops.round().byte().permute(0, 2, 3, 1).numpy()
            told.append(_probabilities(self._encoder, self._encoder.encode_image(pixels), self._classes))
        return np.asarray(torch.cat(told).numpy())


class SeenImages(NamedTuple):
    """Maps (B, C, h, w) of images whose side is ``size`` px."""

    maps: Tensor
    size: int


class FeatureCropRecogniser:
    """The image is looked at once and regions are cut out of its map; see ``roles.Recogniser``.

    Where the network's head takes a grid, as that of CLIP's ResNets, it gets the region's box; else the mean under the
    mask.

    Args:
        encoder: looks at images and words.
        vocabulary: the C classes.

    Raises:
        WorkflowError: the encoder does not know a word.
    """

    input_size: int | None = None
    uses_low_patch = False

    def __init__(self, encoder: MapEncoder, vocabulary: VocabularySettings) -> None:
        self._encoder, self.class_names = encoder, vocabulary.names
        self._classes = class_vectors(encoder, vocabulary)

    def encode(self, pairs: PairImages) -> SeenImages:
        """Embed B high patches once."""
        maps = [self._encoder.encode_map(image[None]) for image in pairs.high]
        return SeenImages(torch.cat(maps), pairs.high.shape[1])

    @torch.inference_mode()
    def recognise(self, embedding: SeenImages, regions: Regions) -> np.ndarray:
        """(N, C) float32 probabilities of the classes of N regions."""
        told = [torch.zeros(0, len(self.class_names))]
        for some in chunks(regions, REGIONS_AT_ONCE):
            vectors = self._encoder.encode_pooled(crop_map(self._encoder, embedding, some))
            told.append(_probabilities(self._encoder, vectors, self._classes))
        return np.asarray(torch.cat(told).numpy())


def crop_map(encoder: MapEncoder, seen: SeenImages, regions: Regions) -> Tensor:
    """N regions of maps as ``MapEncoder.encode_pooled`` takes them."""
    if encoder.pool_grid is not None:
        rows = box_rows(regions.image_index, regions.boxes, seen.maps.device)
        return pool_boxes(seen.maps, rows, size=seen.size, grid=encoder.pool_grid)
    return pool_masks(seen.maps, regions, size=seen.size)


def cut_out(images: np.ndarray, regions: Regions, size: int) -> Tensor:
    """(N, 3, size, size) 0..255: the boxes of regions in images (B, S, S, 3), squashed where they are no squares."""
    used, regions = among_used(regions)
    pixels = to_tensor(images[used], torch.device("cpu"))
    return roi_align(pixels, box_rows(regions.image_index, regions.boxes), (size, size), aligned=True)


def shrunk_masks(regions: Regions, size: int) -> Tensor:
    """(N, 1, size, size) in 0..1: the regions' masks in their boxes, resized as ``cut_out`` does it."""
    boxes = regions.boxes - np.tile(regions.boxes[:, :2], 2)
    height, width = int(boxes[:, 3].max()), int(boxes[:, 2].max())
    rows, x, y = mask_px(regions.masks, boxes)
    canvas = torch.zeros(len(regions), 1, height, width)
    canvas[torch.from_numpy(rows), 0, torch.from_numpy(y), torch.from_numpy(x)] = 1
    return roi_align(canvas, box_rows(np.arange(len(regions)), boxes), (size, size), aligned=True)


def _probabilities(encoder: ImageTextEncoder, vectors: Tensor, classes: Tensor) -> Tensor:
    return F.softmax(class_scores(vectors, classes, encoder.logit_scale), dim=1).cpu()
