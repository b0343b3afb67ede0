"""The part of RSPrompter's query prompter that makes prompt tokens."""

from __future__ import annotations

from torch import Tensor, nn

from wsi_pipeline.models.lora_sam.tokens import tokens_of
from wsi_pipeline.models.mask_decoder import CHANNELS


class QueryTokens(nn.Module):
    """K tokens for each query of a transformer (keys of RSPrompter's ``panoptic_head``).

    Args:
        width: of the queries.
        points: K.
    """

    def __init__(self, width: int = 128, points: int = 5) -> None:
        super().__init__()
        self.points = points
        half = width // 2
        self.point_emb = nn.Sequential(
            nn.Linear(width, half),
            nn.ReLU(),
            nn.Linear(half, half),
            nn.ReLU(),
            nn.Linear(half, 2 * CHANNELS * points),
        )

    def forward(self, queries: Tensor) -> Tensor:
        """(..., K, 256) of queries (..., width)."""
        return tokens_of(self.point_emb(queries), self.points)
