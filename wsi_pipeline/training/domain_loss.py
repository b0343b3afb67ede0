"""What training makes of a domain decoder's maps."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.models.domain_decoder.decoder import DomainMaps
from wsi_pipeline.training.domain_target import Target
from wsi_pipeline.training.losses import mask_loss

_SMOOTH_L1_BETA = 0.1
"""Error of the distance up to which smooth L1 is a parabola."""
_DISTANCE_WEIGHT = 8.0
"""Weight of the distances' error, which is small as most px are background; with 1, touching nuclei grow together."""


def domain_loss(maps: DomainMaps, target: Target) -> Tensor:
    """Binary cross entropy and Dice of the masks and smooth L1 of the distances, a scalar; known px count alone."""
    known = target.known.flatten(2)
    error = F.smooth_l1_loss(maps.distances, target.distances, beta=_SMOOTH_L1_BETA, reduction="none").flatten(2)
    distance = (error * known).sum(-1) / known.sum(-1).clamp(min=1)
    masks = mask_loss(maps.masks.flatten(2), target.masks.flatten(2), where=known).total()
    return masks + _DISTANCE_WEIGHT * distance.mean()
