"""Prompts as a user might give them, made up from ground-truth masks.

HQ-SAM, PA-SAM and WSI-SAM train alike: every image is asked with its object's box, with points inside it, or with a
spoilt mask of it, drawn at random. What differs stands in a ``PromptRecipe``. Coordinates of the published training
are the numbers of px, so that a box of a single px has no extent (SAM's prompt encoder moves them to the px's centre).

Shapes: B images, P objects on each; targets (B, P, S, S) float in [0, 1], soft where a mask was resized.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.models.prompt_embedding import PromptTensors
from wsi_pipeline.models.segmenter import MASK_SIZE
from wsi_pipeline.training.draws import normal, uniform
from wsi_pipeline.training.losses import INSIDE

Kind = Literal["box", "point", "mask"]

_BAND_SCALE = 8
_BAND_THRESHOLD = 0.01


@dataclass(frozen=True, slots=True)
class KindWeights:
    """How often each kind of prompt is drawn, relative to the others."""

    box: float
    point: float
    mask: float


@dataclass(frozen=True, slots=True)
class PromptRecipe:
    """How one system's prompts are simulated.

    Attributes:
        weights: of the kinds.
        jitter: a box's centre moves by up to this share of half its size, its size changes by up to this share; 0 to 1.
        points: K, positive points of a prompt.
        mask_values: what px outside and inside a mask prompt are; the published training feeds 0 and 255, not logits.
        pad_points: fill up with points of label -1 when a mask has fewer than K px. Otherwise as published: when a
            batch's masks do not all give the same number of points, none of its images is asked with points.
        weights_without_points: of the kinds in that case.
        to_edges: boxes end at the far edges of the last px, as drawn ones do; published: at these px's numbers.

    Raises:
        ValueError: ``jitter`` is not within 0 and 1, so that boxes could turn inside out.
    """

    weights: KindWeights
    weights_without_points: KindWeights
    to_edges: bool = False
    jitter: float = 0.0
    points: int = 10
    mask_values: tuple[float, float] = (0.0, 255.0)
    pad_points: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"box jitter of {self.jitter}; it is a share of the box's size, 0 to 1")


HQ_PROMPTS = PromptRecipe(KindWeights(1, 1, 1), KindWeights(1, 0, 1))
"""HQ-SAM's ``train/train.py``."""
PA_PROMPTS = PromptRecipe(KindWeights(4, 2, 1), KindWeights(2, 0, 1))
"""PA-SAM's ``train.py``: it names seven combinations, of which the first kind named is taken."""
WSI_PROMPTS = PromptRecipe(KindWeights(1, 1, 1), KindWeights(1, 0, 1), jitter=0.2)
"""WSI-SAM's ``train.py`` of its first commit."""


class PromptGroup(NamedTuple):
    """The images of a batch that are asked with one kind of prompt.

    Attributes:
        images: (b,) int64, their numbers in the batch.
        prompts: (b, P) prompts.
    """

    images: Tensor
    prompts: PromptTensors


class PairPromptGroup(NamedTuple):
    """The same for patch pairs: ``high`` and ``low`` are the same prompts in the frames of the two patches."""

    images: Tensor
    high: PromptTensors
    low: PromptTensors


@dataclass(frozen=True, slots=True)
class PromptSimulator:
    """Makes up prompts by a recipe.

    Prompts depend on the targets and the generator's state only; a generator on the CPU gives the same ones for
    targets on any device, apart from rounding.

    Args:
        recipe: how.
        mask_size: M, side in px of mask prompts.
    """

    recipe: PromptRecipe
    mask_size: int = MASK_SIZE

    def draw(self, targets: Tensor, generator: torch.Generator) -> list[PromptGroup]:
        """Draw a kind of prompt for each image, and prompts of that kind for its objects.

        Args:
            targets: (B, P, S, S).
            generator: source of all draws.

        Returns:
            At most one group per kind; every image is in one of them.
        """
        weights = self._weights(targets)
        kinds: tuple[Kind, ...] = ("box", "point", "mask")
        shares = torch.tensor([weights.box, weights.point, weights.mask], dtype=torch.float32, device=generator.device)
        drawn = torch.multinomial(shares, len(targets), replacement=True, generator=generator).to(targets.device)
        groups = []
        for number, kind in enumerate(kinds):
            images = (drawn == number).nonzero().squeeze(1)
            if len(images):
                groups.append(PromptGroup(images, self.of_kind(kind, targets[images], generator)))
        return groups

    def draw_pairs(self, targets: Tensor, context_factor: float, generator: torch.Generator) -> list[PairPromptGroup]:
        """Draw prompts for the high patches of pairs, and carry them over to the low ones.

        The published training carries boxes over, but draws points and mask noise anew in the low patch's own target.
        In use there is only one prompt, so here both branches are trained on the same one; for the published way,
        call ``of_kind`` on the low patches' targets.

        Args:
            targets: (B, P, S, S) in the high patches.
            context_factor: c, how much farther the low patch sees; a point p goes to ``p / c + S/2 (1 - 1/c)``.
            generator: source of all draws.
        """
        size = targets.shape[-1]
        return [
            PairPromptGroup(images, high, high.in_low_patch(size, context_factor))
            for images, high in self.draw(targets, generator)
        ]

    def of_kind(self, kind: Kind, targets: Tensor, generator: torch.Generator) -> PromptTensors:
        """Prompts (B, P) of one kind for the objects of targets (B, P, S, S)."""
        if kind == "box":
            return PromptTensors(boxes=self._boxes(targets, generator))
        if kind == "point":
            inside = targets > INSIDE
            keys = uniform(inside.shape, generator, inside.device)
            points, labels = points_inside(inside, keys, self.recipe.points)
            return PromptTensors(points=points, point_labels=labels)
        return PromptTensors(masks=self._masks(targets, generator))

    def _weights(self, targets: Tensor) -> KindWeights:
        if self.recipe.pad_points:
            return self.recipe.weights
        counts = (targets > INSIDE).sum((-2, -1)).clamp(max=self.recipe.points)
        equal = bool((counts == counts.flatten()[0]).all())
        return self.recipe.weights if equal else self.recipe.weights_without_points

    def _boxes(self, targets: Tensor, generator: torch.Generator) -> Tensor:
        boxes = tight_boxes(targets > INSIDE)
        if self.recipe.to_edges:
            boxes[..., 2:] += 1
        draw = uniform(boxes.shape, generator, boxes.device)
        return jittered_boxes(boxes, draw, self.recipe.jitter, targets.shape[-1])

    def _masks(self, targets: Tensor, generator: torch.Generator) -> Tensor:
        small = F.interpolate(targets.float(), (self.mask_size, self.mask_size), mode="bilinear", align_corners=False)
        spoilt = spoilt_masks(small, normal(small.shape, generator, small.device))
        outside, inside = self.recipe.mask_values
        return outside + (inside - outside) * spoilt


def tight_boxes(inside: Tensor) -> Tensor:
    """Boxes of masks (B, P, H, W) bool: (B, P, 4) float32 numbers of the first and last column and row that are hit.

    An empty mask gets the whole image.
    """
    ends = []
    for across in (-2, -1):
        hit = inside.any(across).int()
        # of equal values argmax takes the first
        ends.append((hit.argmax(-1), hit.shape[-1] - 1 - hit.flip(-1).argmax(-1)))
    (left, right), (top, bottom) = ends
    return torch.stack([left, top, right, bottom], dim=-1).float()


def jittered_boxes(boxes: Tensor, draw: Tensor, scale: float, size: int) -> Tensor:
    """Boxes as drawn by an unsteady hand.

    Args:
        boxes: (..., 4) ``x0, y0, x1, y1`` in px.
        draw: (..., 4) uniform in [0, 1), for x and y of the centre, width and height.
        scale: the jitter of ``PromptRecipe``.
        size: S; boxes end at the patch's edges.
    """
    first, last = boxes[..., :2], boxes[..., 2:]
    extent = last - first
    move, grow = ((2 * draw - 1) * scale).split(2, dim=-1)
    centre = (first + last) / 2 + move * extent / 2
    half = extent * (1 + grow) / 2
    return torch.cat([centre - half, centre + half], dim=-1).clamp(0, size)


def points_inside(inside: Tensor, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Different px of each mask, all equally likely.

    Args:
        inside: (B, P, H, W) bool.
        keys: (B, P, H, W) uniform in [0, 1); the px with the largest keys are taken.
        count: K.

    Returns:
        (B, P, K, 2) float32 (x, y) px numbers, and (B, P, K) int64 labels of 1; a mask of fewer px is filled up with
        points (0, 0) of label -1.
    """
    best = keys.where(inside, -1).flatten(2).topk(count, dim=-1)
    found = best.values >= 0
    width = inside.shape[-1]
    points = torch.stack([best.indices % width, best.indices // width], dim=-1)
    return (points * found.unsqueeze(-1)).float(), found.long() * 2 - 1


def spoilt_masks(masks: Tensor, noise: Tensor) -> Tensor:
    """Masks with noise in a band along the contour (Mask Transfiner, Ke et al. 2022, by way of HQ-SAM).

    The band is where a mask changes when it is made eight times smaller and enlarged again.

    Args:
        masks: (B, P, M, M) float in [0, 1].
        noise: (B, P, M, M) drawn from N(0, 1).

    Returns:
        (B, P, M, M) bool.
    """
    side = masks.shape[-1]
    small = F.interpolate(masks, (side // _BAND_SCALE,) * 2, mode="bilinear", align_corners=False)
    blurred = F.interpolate(small, (side, side), mode="bilinear", align_corners=False)
    band = (masks - blurred).abs() >= _BAND_THRESHOLD
    return masks + noise * band > INSIDE
