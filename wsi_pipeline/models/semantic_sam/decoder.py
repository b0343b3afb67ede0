"""Six queries for each prompt, which settle on masks of six granularities layer by layer.

Layout: B images, n prompts on each, six queries for each prompt, features of C channels.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_pipeline.models.semantic_sam.answers import GUESSES, Answers, Features, Shapes
from wsi_pipeline.models.semantic_sam.deformable import MultiScaleDeformableAttention
from wsi_pipeline.models.semantic_sam.ellipses import EllipseHead, ellipses_at
from wsi_pipeline.models.semantic_sam.pixel_decoder import LEVELS
from wsi_pipeline.models.semantic_sam.positions import box_sine, cell_centres, inverse_sigmoid

_RARE = 0.01
"""Probability that untrained heads give every class, so that the focal loss starts small (Lin et al. 2017)."""


class Judged(NamedTuple):
    """What a layer's queries say, masks not yet drawn.

    Attributes:
        vectors: (B, n, 6, C) whose products with ``Features.masks`` are the masks; with ellipses, followed by quadrics.
        quality, boxes, objects, parts: as of ``Answers``.
    """

    vectors: Tensor
    quality: Tensor
    boxes: Tensor
    objects: Tensor | None
    parts: Tensor | None

    def drawn(self, features: Features) -> Answers:
        """The same with all masks."""
        return Answers(draw(features, self.vectors), *self[1:])


def draw(features: Features, vectors: Tensor) -> Tensor:
    """Masks (B, ..., h, w) of ``Judged.vectors`` (B, ..., C)."""
    shape = (features.masks.shape[-2], features.masks.shape[-1])
    products, quadrics = _apart(vectors.flatten(1, -2), features)
    masks = products @ features.masks.flatten(2)
    if quadrics is not None:
        masks = masks + ellipses_at(quadrics, cell_centres((shape,), masks.device))
    return masks.unflatten(1, vectors.shape[1:-1]).unflatten(-1, shape)


def draw_at(features: Features, vectors: Tensor, places: Tensor) -> Tensor:
    """The same masks at places alone: (B, n, g, k) of vectors (B, n, g, C) at places (B, n, k, 2) x, y."""
    products, quadrics = _apart(vectors, features)
    values = F.grid_sample(features.masks, 2 * places - 1, align_corners=False)
    masks = torch.einsum("bcnk,bngc->bngk", values, products)
    return masks if quadrics is None else masks + ellipses_at(quadrics, places)


def _apart(vectors: Tensor, features: Features) -> tuple[Tensor, Tensor | None]:
    """What is multiplied with features, and the quadrics, if masks are drawn with ellipses."""
    width = features.masks.shape[1]
    return vectors[..., :width], vectors[..., width:] if vectors.shape[-1] > width else None


class DecoderLayer(nn.Module):
    """Queries look at each other, then at the image around their boxes.

    Norms are numbered as published: that of the attention which comes first is the second.

    Args:
        width: C.
        heads: of both attentions.
        points: places that each head looks at on each level.
        ffn: width of the hidden layer.
    """

    def __init__(self, width: int, *, heads: int, points: int, ffn: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.cross_attn = MultiScaleDeformableAttention(width, levels=LEVELS, heads=heads, points=points)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, ffn)
        self.linear2 = nn.Linear(ffn, width)
        self.norm3 = nn.LayerNorm(width)

    def forward(
        self, state: Tensor, position: Tensor, references: Tensor, values: Tensor, shapes: Shapes, *, isolate: bool
    ) -> Tensor:
        """States (B, n, 6, C) of queries with that position, looking at values around references (B, n, 6, 4)."""
        state = self.norm2(state + self._among_themselves(state, position, isolate=isolate))
        query, around = (state + position).flatten(1, 2), references.flatten(1, 2).unsqueeze(2)
        seen = self.cross_attn(query, around, values, shapes)
        state = self.norm1(state + seen.view_as(state))
        return self.norm3(state + self.linear2(F.relu(self.linear1(state))))

    def _among_themselves(self, state: Tensor, position: Tensor, *, isolate: bool) -> Tensor:
        """What queries of a prompt, or of all prompts on an image, make of each other."""
        apart = (0, 1) if isolate else (1, 2)
        value, query = state.flatten(*apart), (state + position).flatten(*apart)
        seen, _ = self.self_attn(query, query, value, need_weights=False)
        return seen.view_as(state)


class GranularityDecoder(nn.Module):
    """Answers prompts on features.

    Args:
        width: C.
        layers: of the decoder.
        heads, points, ffn: of each.
        objects, parts: how many classes of objects and of parts are told apart.
        ellipses: whether masks are drawn with ellipses, too; not published.
    """

    def __init__(
        self,
        width: int,
        *,
        layers: int,
        heads: int,
        points: int,
        ffn: int,
        objects: int = 0,
        parts: int = 0,
        ellipses: bool = False,
    ) -> None:
        super().__init__()
        self._width = width
        # its second row was published and is never used
        self.label_enc = nn.Embedding(2, width)
        self.pb_embedding = nn.Embedding(2, width)
        self.mask_tokens = nn.Embedding(GUESSES, width)
        self.layers = nn.ModuleList(DecoderLayer(width, heads=heads, points=points, ffn=ffn) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.ref_point_head = MLP(2 * width, width, width, 2)
        self.bbox_embed = MLP(width, width, 4, 3)
        self.mask_embed = MLP(width, width, width, 3)
        self.iou_prediction_head = MLP(width, width, 1, 3)
        self.object_head = _class_head(width, objects)
        self.part_head = _class_head(width, parts)
        self.ellipse_head = EllipseHead(width) if ellipses else None
        # boxes start where they are
        nn.init.zeros_(self.bbox_embed.layers[-1].weight)
        nn.init.zeros_(self.bbox_embed.layers[-1].bias)

    def values(self, features: Features) -> list[Tensor]:
        """What the layers look at on images, the same for all prompts."""
        layers = cast("list[DecoderLayer]", list(self.layers))
        return [layer.cross_attn.values(features.memory) for layer in layers]

    def forward(
        self, features: Features, boxes: Tensor, kinds: Tensor, *, isolate: bool, every_layer: bool
    ) -> list[Judged]:
        """What the last layer says, or every layer in turn.

        Args:
            features: B images.
            boxes: (B, n, 4) cx, cy, w, h as shares of the image.
            kinds: (B, n) int64 ``POINT`` or ``BOX``.
            isolate: whether prompts do not see each other, as in published training; published inference lets them, so
                that answers there depend on what else is asked.
            every_layer: whether all of them are wanted.
        """
        content = self.label_enc.weight[0] + self.pb_embedding(kinds)
        state = content.unsqueeze(2) + self.mask_tokens.weight
        references = boxes.unsqueeze(2).expand(-1, -1, GUESSES, -1)
        judged = []
        for layer, values in zip(self.layers, features.values or self.values(features), strict=True):
            position = self.ref_point_head(box_sine(references, self._width // 2))
            state = layer(state, position, references, values, features.shapes, isolate=isolate)
            if every_layer or layer is self.layers[-1]:
                judged.append(self._judge(state, references))
            references = self._moved(references, state).detach()
        return judged

    def _judge(self, state: Tensor, references: Tensor) -> Judged:
        # twice, as published
        state = self.norm(self.norm(state))
        vectors, boxes = self.mask_embed(state), self._moved(references, state)
        if self.ellipse_head is not None:
            vectors = torch.cat([vectors, self.ellipse_head.quadrics(state, boxes)], dim=-1)
        return Judged(
            vectors,
            self.iou_prediction_head(state).squeeze(-1),
            boxes,
            None if self.object_head is None else self.object_head(state),
            None if self.part_head is None else self.part_head(state),
        )

    def _moved(self, references: Tensor, state: Tensor) -> Tensor:
        return (inverse_sigmoid(references) + self.bbox_embed(state)).sigmoid()


def _class_head(width: int, classes: int) -> nn.Linear | None:
    """One vector for each class, compared with states."""
    if not classes:
        return None
    head = nn.Linear(width, classes)
    nn.init.constant_(head.bias, -math.log((1 - _RARE) / _RARE))
    return head
