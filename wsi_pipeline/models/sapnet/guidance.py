"""Point Distance Guidance: a proposal that holds other clicks of its class is a group, and counts less."""

from __future__ import annotations

from torch import Tensor


def point_distance_guidance(points: Tensor, labels: Tensor, image_index: Tensor, boxes: Tensor) -> Tensor:
    """S^dis, before its exponent d is applied.

    Distances enter as their square root, as in the published code.

    Args:
        points: (n, 2) float32 (x, y) px.
        labels: (n,) int64 classes.
        image_index: (n,) int64 image of each.
        boxes: (n, M, 4) float32 proposals ``x0, y0, x1, y1`` px.

    Returns:
        (n, M) float32: 1 where no other click of the class and image lies in the box, else sigmoid(1 / W) > 0.5.
    """
    same = (labels[:, None] == labels) & (image_index[:, None] == image_index)
    same.fill_diagonal_(False)
    inside = ((boxes[:, :, None, :2] < points) & (points < boxes[:, :, None, 2:])).all(dim=-1) & same[:, None]
    roots = (points[:, None] - points).square().sum(dim=-1).sqrt().sqrt()
    total = (inside * roots[:, None]).sum(dim=-1)
    # clicks in one place give W = 0 and sigmoid of infinity, which is 1
    return total.reciprocal().sigmoid()
