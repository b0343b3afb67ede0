"""Prompt tokens that networks make up: they go to SAM's mask decoder where embedded points and boxes else would.

A linear layer gives twice the width of a token; one half of the numbers goes through a sine, as the prompt encoder's
position codes do, and the other is added (RSPrompter).
"""

from __future__ import annotations

from torch import Tensor, nn

from wsi_pipeline.models.mask_decoder import CHANNELS

POOLED = 14
"""Cells along the side of a pooled region that tokens are made of."""


def tokens_of(numbers: Tensor, points: int) -> Tensor:
    """Tokens (..., K, 256) of a last layer's numbers (..., K * 512): sine of the even ones plus the odd ones."""
    pairs = numbers.unflatten(-1, (points, CHANNELS, 2))
    return pairs[..., 0].sin() + pairs[..., 1]


class RegionTokens(nn.Module):
    """K tokens for each pooled region (keys of RSPrompter's ``roi_head.mask_head``).

    Args:
        width: channels of the regions.
        points: K.
    """

    def __init__(self, width: int = CHANNELS, points: int = 5) -> None:
        super().__init__()
        self.points = points
        self.point_emb = nn.Sequential(
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(width * (POOLED // 2) ** 2, CHANNELS),
            nn.ReLU(),
            nn.Linear(CHANNELS, CHANNELS),
            nn.ReLU(),
            nn.Linear(CHANNELS, 2 * CHANNELS * points),
        )

    def forward(self, regions: Tensor) -> Tensor:
        """(n, K, 256) of regions (n, width, 14, 14)."""
        return tokens_of(self.point_emb(regions), self.points)
