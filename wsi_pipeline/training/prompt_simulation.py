"""Prompts as a user might give them, made up from ground-truth masks.

HQ-SAM, PA-SAM and WSI-SAM train alike: every image is asked with its object's box, with points inside it, or with a
spoilt mask of it, drawn at random. What differs stands in a ``PromptRecipe``. Coordinates of the published training
are the numbers of px, so that a box of a single px has no extent (SAM's prompt encoder moves them to the px's centre).
In use prompts come together, too: an outline with its box, a mask that is drawn again with its box and points.

Shapes: B images, P objects on each; targets (B, P, S, S) float in [0, 1], soft where a mask was resized.
"""

from __future__ import annotations

from collections.abc import Collection
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
KINDS: tuple[Kind, ...] = ("box", "point", "mask")

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
        points: K, positive points of a prompt; the most, where ``vary_points``.
        vary_points: each prompt has its own number of points: 1 to K, 0 to K beside a box or a mask.
        negative: how often there are points outside the object, too, 1 to K, near it.
        mask_values: what px outside and inside a mask prompt are; the published training feeds 0 and 255, not logits.
        pad_points: fill up with points of label -1 when a mask has fewer than K px. Otherwise as published: when a
            batch's masks do not all give the same number of points, none of its images is asked with points.
        weights_without_points: of the kinds in that case.
        to_edges: boxes end at the far edges of the last px, as drawn ones do, and points lie at centres of px;
            published: at these px's numbers.
        combined: how often points come with the object's box, and masks with points; such masks come with their own
            box. 0: never together, as published.
        smooth: how often a mask is spoilt in patches, as drawn outlines and a model's own masks are, not px by px.

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
    vary_points: bool = False
    negative: float = 0.0
    combined: float = 0.0
    smooth: float = 0.0

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
    """The images of a batch that are asked with the same kinds of prompts.

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
        """Draw kinds of prompts for each image, and prompts of these kinds for its objects.

        Args:
            targets: (B, P, S, S).
            generator: source of all draws.

        Returns:
            At most one group for the same kinds; every image is in one of them.
        """
        asked = self._kinds(targets, generator).to(targets.device)
        groups = []
        for number in range(1, 2 ** len(KINDS)):
            images = (asked == number).nonzero().squeeze(1)
            if len(images):
                kinds = [kind for bit, kind in enumerate(KINDS) if number >> bit & 1]
                groups.append(PromptGroup(images, self.of_kinds(kinds, targets[images], generator)))
        return groups

    def draw_pairs(self, targets: Tensor, context_factor: float, generator: torch.Generator) -> list[PairPromptGroup]:
        """Draw prompts for the high patches of pairs, and carry them over to the low ones.

        The published training carries boxes over, but draws points and mask noise anew in the low patch's own target.
        In use there is only one prompt, so here both branches are trained on the same one; for the published way,
        call ``of_kinds`` on the low patches' targets.

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

    def of_kinds(self, kinds: Collection[Kind], targets: Tensor, generator: torch.Generator) -> PromptTensors:
        """Prompts (B, P) of these kinds together for the objects of targets (B, P, S, S)."""
        boxes = points = labels = masks = None
        if "mask" in kinds:
            masks = self._masks(targets, generator)
        if "box" in kinds:
            boxes = self._boxes(targets, generator) if masks is None else self._boxes_of(masks, targets.shape[-1])
        if "point" in kinds:
            points, labels = self._points(targets, generator, alone=len(kinds) == 1)
        return PromptTensors(boxes, points, labels, masks)

    def _kinds(self, targets: Tensor, generator: torch.Generator) -> Tensor:
        """(B,) int64, a bit for each of ``KINDS``."""
        weights = self._weights(targets)
        shares = torch.tensor([weights.box, weights.point, weights.mask], dtype=torch.float32, device=generator.device)
        drawn = torch.multinomial(shares, len(targets), replacement=True, generator=generator)
        asked = 1 << drawn
        if self.recipe.combined:
            also = uniform(drawn.shape, generator, drawn.device) < self.recipe.combined
            box, point, mask = (1 << number for number in range(len(KINDS)))
            asked = torch.where(drawn == KINDS.index("mask"), mask + box + point * also, asked | box * also)
        return asked

    def _weights(self, targets: Tensor) -> KindWeights:
        if self.recipe.pad_points:
            return self.recipe.weights
        counts = (targets > INSIDE).sum((-2, -1)).clamp(max=self.recipe.points)
        equal = bool((counts == counts.flatten()[0]).all())
        return self.recipe.weights if equal else self.recipe.weights_without_points

    def _boxes(self, targets: Tensor, generator: torch.Generator) -> Tensor:
        inside = targets > INSIDE
        boxes = boxes_to_edges(inside) if self.recipe.to_edges else tight_boxes(inside)
        draw = uniform(boxes.shape, generator, boxes.device)
        return jittered_boxes(boxes, draw, self.recipe.jitter, targets.shape[-1])

    def _boxes_of(self, masks: Tensor, size: int) -> Tensor:
        """Tight boxes of mask prompts, px of patches of ``size``."""
        return boxes_to_edges(masks > sum(self.recipe.mask_values) / 2) * (size / self.mask_size)

    def _points(self, targets: Tensor, generator: torch.Generator, *, alone: bool) -> tuple[Tensor, Tensor]:
        """(B, P, K, 2) points and (B, P, K) labels; 2 K of them where some lie outside."""
        inside, recipe = targets > INSIDE, self.recipe
        points, labels = points_inside(inside, uniform(inside.shape, generator, inside.device), recipe.points)
        if recipe.vary_points:
            labels = _keep_some(labels, 1 if alone else 0, generator)
        if recipe.negative:
            near = neighbourhood(inside) & ~inside
            outside, taken = points_inside(near, uniform(near.shape, generator, near.device), recipe.points)
            often = uniform(taken.shape[:2], generator, taken.device) < recipe.negative
            taken = _keep_some(taken, 1, generator).where(often.unsqueeze(-1), -1)
            points, labels = torch.cat([points, outside], dim=2), torch.cat([labels, taken.where(taken < 0, 0)], dim=2)
        return (points + 0.5 if recipe.to_edges else points), labels

    def _masks(self, targets: Tensor, generator: torch.Generator) -> Tensor:
        small = F.interpolate(targets.float(), (self.mask_size, self.mask_size), mode="bilinear", align_corners=False)
        spoilt = spoilt_masks(small, self._noise(small, generator))
        outside, inside = self.recipe.mask_values
        return outside + (inside - outside) * spoilt

    def _noise(self, masks: Tensor, generator: torch.Generator) -> Tensor:
        """(B, P, M, M), of every px its own, or smooth."""
        noise = normal(masks.shape, generator, masks.device)
        if not self.recipe.smooth:
            return noise
        side = self.mask_size // _BAND_SCALE
        coarse = normal((*masks.shape[:2], side, side), generator, masks.device)
        smooth = F.interpolate(coarse, masks.shape[-2:], mode="bilinear", align_corners=False)
        often = uniform(masks.shape[:2], generator, masks.device) < self.recipe.smooth
        return smooth.where(often[..., None, None], noise)


def _keep_some(labels: Tensor, fewest: int, generator: torch.Generator) -> Tensor:
    """Labels (B, P, K) of a number of points drawn for each prompt, from ``fewest`` to K; -1 after these."""
    count = labels.shape[-1]
    draw = uniform(labels.shape[:-1], generator, labels.device).unsqueeze(-1)
    wanted = fewest + (draw * (count + 1 - fewest)).floor()
    return labels.where(torch.arange(count, device=labels.device) < wanted, -1)


def neighbourhood(inside: Tensor) -> Tensor:
    """Px of masks (B, P, H, W) bool that lie within their boxes grown by half of their size on every side."""
    boxes = boxes_to_edges(inside)
    grown = (boxes[..., 2:] - boxes[..., :2]) / 2
    first, last = (boxes[..., :2] - grown)[..., None], (boxes[..., 2:] + grown)[..., None]
    across, down = (torch.arange(side, device=inside.device) + 0.5 for side in (inside.shape[-1], inside.shape[-2]))
    columns = (across >= first[..., 0, :]) & (across <= last[..., 0, :])
    rows = (down >= first[..., 1, :]) & (down <= last[..., 1, :])
    return rows[..., :, None] & columns[..., None, :]


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


def boxes_to_edges(inside: Tensor) -> Tensor:
    """The same boxes with the far edges of the last column and row, as drawn ones have."""
    boxes = tight_boxes(inside)
    boxes[..., 2:] += 1
    return boxes


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
