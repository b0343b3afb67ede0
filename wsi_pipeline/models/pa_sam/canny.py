"""Canny's edges of colour images on any device, pixel for pixel those of OpenCV's ``Canny``.

OpenCV's choices where Canny (1986) leaves room: 3 x 3 Sobel derivatives with the border repeated, |gx| + |gy| as
magnitude, the channel of greatest magnitude at every pixel, directions in four sectors told apart in fixed-point
numbers, and no gradient beyond the border.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_TANGENT_BITS = 15
_TANGENT_22 = 13573
"""tan 22.5 degrees in units of 2 ** -15."""
_GROWTH = 16
"""Steps between two looks at whether edges still grow; a look makes a GPU wait."""


def canny(images: Tensor, low: int = 10, high: int = 100) -> Tensor:
    """Edges of RGB images.

    Args:
        images: (B, 3, H, W) uint8.
        low, high: an edge has a magnitude above ``low`` and is joined to one above ``high``.

    Returns:
        (B, H, W) bool.
    """
    gx, gy = _strongest_gradient(images)
    magnitude = gx.abs() + gy.abs()
    weak = (magnitude > low) & _on_ridge(gx, gy, magnitude)
    return _joined(weak & (magnitude > high), weak)


def _strongest_gradient(images: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel derivatives (B, H, W) int32 along x and y, of each pixel's steepest channel; the first among equals."""
    padded = F.pad(images.float(), (1, 1, 1, 1), mode="replicate").int()
    gx = _difference(_smooth(padded, -2), -1)
    gy = _difference(_smooth(padded, -1), -2)
    channel = (gx.abs() + gy.abs()).argmax(dim=1, keepdim=True)
    return gx.gather(1, channel).squeeze(1), gy.gather(1, channel).squeeze(1)


def _smooth(x: Tensor, dim: int) -> Tensor:
    """1, 2, 1 along ``dim``, which loses both ends."""
    n = x.shape[dim] - 2
    return x.narrow(dim, 0, n) + 2 * x.narrow(dim, 1, n) + x.narrow(dim, 2, n)


def _difference(x: Tensor, dim: int) -> Tensor:
    """-1, 0, 1 along ``dim``, which loses both ends."""
    n = x.shape[dim] - 2
    return x.narrow(dim, 2, n) - x.narrow(dim, 0, n)


def _on_ridge(gx: Tensor, gy: Tensor, magnitude: Tensor) -> Tensor:
    """(B, H, W) bool: no neighbour along the gradient is steeper; of two equal ones the right or lower yields."""
    height, width = magnitude.shape[1:]
    padded = F.pad(magnitude, (1, 1, 1, 1))

    def above(dy: int, dx: int) -> Tensor:
        return magnitude - padded[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    horizontal = (above(0, -1) > 0) & (above(0, 1) >= 0)
    vertical = (above(-1, 0) > 0) & (above(1, 0) >= 0)
    falling = (above(-1, -1) > 0) & (above(1, 1) > 0)
    rising = (above(-1, 1) > 0) & (above(1, -1) > 0)
    across, down = gx.abs(), gy.abs() << _TANGENT_BITS
    tan_22 = across * _TANGENT_22
    tan_67 = tan_22 + (across << _TANGENT_BITS + 1)
    diagonal = torch.where((gx < 0) == (gy < 0), falling, rising)
    return torch.where(down < tan_22, horizontal, torch.where(down > tan_67, vertical, diagonal))


def _joined(strong: Tensor, weak: Tensor) -> Tensor:
    """Weak pixels that a path of weak pixels, diagonal steps allowed, joins to a strong one; (B, H, W) bool."""
    while True:
        grown = strong
        for _ in range(_GROWTH):
            grown = _dilated(grown) & weak
        if torch.equal(grown, strong):
            return grown
        strong = grown


def _dilated(x: Tensor) -> Tensor:
    """x (B, H, W) bool with its eight neighbours."""
    x = F.pad(x, (1, 1, 1, 1))
    x = x[..., :-2] | x[..., 1:-1] | x[..., 2:]
    return x[:, :-2] | x[:, 1:-1] | x[:, 2:]
