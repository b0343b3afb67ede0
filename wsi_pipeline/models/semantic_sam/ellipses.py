"""Ellipses that masks are drawn with besides the features: inside one a mask is likely, far from it it is not.

Features tell what a place looks like, which neighbouring cells of a kind have in common; which of them is meant is a
matter of where it is. The published network learns that from a billion masks; a small one is told.

Layout: each ellipse is a quadric, (..., 6) factors of 1, x, y, x², xy and y².
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

TERMS = 6
"""Of a quadric in x and y."""
_LEAST = 0.08
"""Side of a box that smaller ones count as, share of the image's: steeper quadrics cost float32 its last digits."""
_REACH = 2.0
"""Squared distance from a box's middle at which untrained ellipses end, half sides: that of its corners."""
_FAR = 20.0
"""As a logit, the least that an ellipse says of a place: farther is not surer."""


def ellipses_at(quadrics: Tensor, places: Tensor) -> Tensor:
    """Logits (..., g, k) of g quadrics (..., g, 6) at k places (..., k, 2) x, y, shares of the image; float32 whatever
    autocast says, as they are small differences of large numbers."""
    # with 0 in the middle of the image, products stay small
    x, y = (places - 0.5).unbind(-1)
    terms = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], dim=-1)
    with torch.autocast(quadrics.device.type, enabled=False):
        return (quadrics.float() @ terms.mT).clamp_min(-_FAR)


class EllipseHead(nn.Linear):
    """From states to quadrics, which begin as the ellipses through the corners of boxes.

    Of its six numbers one makes the ellipse larger, two move it, two make it thinner and one slants it.

    Args:
        width: C.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, TERMS)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def quadrics(self, state: Tensor, boxes: Tensor) -> Tensor:
        """Quadrics (..., 6) of states (..., C) and boxes (..., 4) cx, cy, w, h.

        Boxes learn nothing from masks: theirs would not end where the object ends, but where the ellipse should.
        """
        more, right, down, thin_x, thin_y, slant = self(state).float().unbind(-1)
        cx, cy, w, h = boxes.detach().float().unbind(-1)
        w, h = w.clamp_min(_LEAST), h.clamp_min(_LEAST)
        cx, cy = cx - 0.5 + right * w, cy - 0.5 + down * h
        # a (x + s y)² + b y² around the middle
        a, b, s = (2 * thin_x.exp() / w) ** 2, (2 * thin_y.exp() / h) ** 2, slant * w / h
        xx, xy, yy = a, 2 * a * s, a * s * s + b
        end = _REACH + more - (xx * cx * cx + xy * cx * cy + yy * cy * cy)
        return torch.stack([end, 2 * xx * cx + xy * cy, 2 * yy * cy + xy * cx, -xx, -xy, -yy], dim=-1)
