"""Points of a mask at which its loss is computed: most of them where the prediction is unsure.

PointRend's way of training (Kirillov et al. 2020, section 3.1), taken over by HQ-SAM. A point's uncertainty is that of
the logit read there, not that of the map's nearest cells: between a cell of -1 and one of 1 the prediction is unsure
although neither cell is.

Points are (x, y) in [0, 1], 0 and 1 being the map's edges, so that the same points can be read from maps of any size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.training.draws import uniform


@dataclass(frozen=True, slots=True)
class PointSampling:
    """How many points a mask gets, and which; PointRend's symbols, HQ-SAM's numbers (its ``train/utils/loss_mask.py``).

    Attributes:
        count: N, points of a mask.
        oversampling: k; k N candidates are drawn uniformly.
        importance: beta; of N points, this share are the most uncertain candidates, the others uniform.
    """

    count: int = 112 * 112
    oversampling: float = 3.0
    importance: float = 0.75

    @property
    def candidates(self) -> int:
        return int(self.oversampling * self.count)

    @property
    def uncertain(self) -> int:
        return int(self.importance * self.count)

    @property
    def uniform(self) -> int:
        return self.count - self.uncertain


def sample_points(logits: Tensor, sampling: PointSampling, generator: torch.Generator) -> Tensor:
    """Points for B x P masks.

    Args:
        logits: (B, P, h, w) predictions; no gradient flows through the choice.
        sampling: how many.
        generator: source of all draws.

    Returns:
        (B, P, N, 2) float32 (x, y) in [0, 1], the uncertain points first.
    """
    leading, device = logits.shape[:2], logits.device
    candidates = uniform((*leading, sampling.candidates, 2), generator, device)
    others = uniform((*leading, sampling.uniform, 2), generator, device)
    return torch.cat([uncertain_points(logits, candidates, sampling.uncertain), others], dim=2)


def uncertain_points(logits: Tensor, candidates: Tensor, count: int) -> Tensor:
    """The ``count`` candidates (B, P, K, 2) where logits (B, P, h, w) are nearest to 0, the most unsure first."""
    distance = read_at(logits.detach(), candidates).abs()
    nearest = distance.topk(count, dim=-1, largest=False).indices
    return candidates.gather(2, nearest.unsqueeze(-1).expand(-1, -1, -1, 2))


def read_at(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps (B, P, H, W) bilinearly at points (B, P, K, 2) as (B, P, K) float32.

    Cell centres are at (i + 0.5) / W. Outside the map is 0, so within half a cell of its edge values fade towards 0,
    as in the published code.
    """
    grid = 2 * points.flatten(0, 1).unsqueeze(1) - 1
    values = F.grid_sample(maps.float().flatten(0, 1).unsqueeze(1), grid, mode="bilinear", align_corners=False)
    return values.view(points.shape[:3])
