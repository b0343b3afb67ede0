"""Prompted mode: at which resolution a prompt is asked about, and on which patch pair.

Both follow from the prompt alone. Resolutions are a ladder, the working one times powers of two; pairs stand on a
lattice, as fine as the object needs. So prompts that lie close share a pair without knowing of each other, and no
answer depends on which other prompts there are, on their order, or on how they are cut into tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.prompts.prompt import Prompt
from wsi_pipeline.tiling.plan import PatchPair

CONTEXT = 1 / 8
"""Share of the patch side that stays free beside an object which shares its pair with others."""

FINEST_LATTICE = 16
"""Pairs stand at least this part of a patch side apart; an object that needs them closer gets a pair of its own."""

SAME_RESOLUTION = 0.07
"""Steps of the ladder by which level 0 may be missed (5 %), as in ``Slide.working_grid``."""

Box = tuple[float, float, float, float]


class PairKey(NamedTuple):
    """A pair: its step on the ladder and the working-grid px of its high patch's corner."""

    step: int
    x: int
    y: int


@dataclass(frozen=True)
class Placement:
    """The rules of one run.

    Attributes:
        grid: the working grid.
        input_size: S, patch side in px.
        object_share: share of the patch side that an object should fill at most.
        context_factor: of the low patches.
    """

    grid: PixelGrid
    input_size: int
    object_share: float
    context_factor: float

    @property
    def finest_step(self) -> int:
        """The step nearest to level 0 that asks for no finer pixels than the slide has."""
        return math.ceil(-math.log2(min(self.grid.to_level0.sx, self.grid.to_level0.sy)) - SAME_RESOLUTION)

    def box_of(self, prompt: Prompt) -> Box:
        """Where a prompt is, px of the working grid: its outline, or its positive points."""
        if prompt.kind == "point" and len(prompt.positive):
            corners = np.array([prompt.positive.min(axis=0), prompt.positive.max(axis=0)])
        else:
            corners = np.reshape(prompt.box, (2, 2))
        (x0, y0), (x1, y1) = self.grid.to_level0.inverse().apply(corners)
        return float(x0), float(y0), float(x1), float(y1)

    def step_of(self, prompt: Prompt) -> int:
        """The finest step at which the object fills no more than ``object_share`` of the patch.

        The size of what a point means is not known; it is asked about at the working resolution first.
        """
        box = self.box_of(prompt)
        side = max(box[2] - box[0], box[3] - box[1], 1e-9)
        fitting = math.ceil(math.log2(side / (self.object_share * self.input_size)) - 1e-9)
        lowest = max(self.finest_step, 0) if prompt.kind == "point" else self.finest_step
        return max(fitting, lowest)

    def pair_of(self, prompt: Prompt, step: int) -> PairKey:
        """The pair that answers a prompt at a step of the ladder."""
        x0, y0, x1, y1 = self.box_of(prompt)
        unit, size = 2.0**step, self.input_size
        side = max(x1 - x0, y1 - y0) / unit
        if prompt.kind == "point":
            side = max(side, self.object_share * size)
        stride = self._stride(side) * unit
        center = ((x0 + x1) / 2, (y0 + y1) / 2)
        if stride:
            center = (_cell(center[0], stride), _cell(center[1], stride))
        return PairKey(step, round(center[0] - size * unit / 2), round(center[1] - size * unit / 2))

    def _stride(self, side: float) -> float:
        """Px between pairs that leave ``CONTEXT`` beside an object of ``side`` px; 0 where it must be centred."""
        size = self.input_size
        part = 2
        while part <= FINEST_LATTICE:
            stride = size / part
            if stride / 2 + side / 2 <= size * (0.5 - CONTEXT):
                return stride
            part *= 2
        return 0.0

    def to_grid(self, key: PairKey) -> Affine2D:
        """From px of the pair's high patch to px of the working grid; both offsets are whole."""
        return Affine2D(2.0**key.step, 2.0**key.step, key.x, key.y)

    def to_patch(self, key: PairKey) -> Affine2D:
        """From level-0 px to px of the pair's high patch."""
        return self.to_grid(key).inverse().after(self.grid.to_level0.inverse())

    def pair(self, key: PairKey) -> PatchPair:
        """The pair itself."""
        half = self.input_size / 2
        x, y = self.grid.to_level0.after(self.to_grid(key)).apply(np.array([half, half]))
        scale = (self.grid.to_level0.sx * 2.0**key.step, self.grid.to_level0.sy * 2.0**key.step)
        return PatchPair.around(
            float(x), float(y), scale=scale, size=self.input_size, context_factor=self.context_factor
        )


def _cell(value: float, stride: float) -> float:
    """The middle of the lattice cell that a value lies in."""
    return math.floor(value / stride) * stride + stride / 2


def group_prompts(prompts: Sequence[Prompt], placement: Placement, *, limit: int = 256) -> list[list[int]]:
    """Cut prompts into tasks of neighbours.

    Args:
        prompts: of one slide.
        placement: as the tasks will use it.
        limit: most prompts of a task.

    Returns:
        Indices into ``prompts``, every index once; the same tasks in the same order however the prompts were
        ordered. Prompts on one pair stay together unless they are more than a task holds.
    """
    keys = [placement.pair_of(prompt, placement.step_of(prompt)) for prompt in prompts]
    first = sorted(range(len(prompts)), key=lambda i: (_along_curve(keys[i]), keys[i], _identity(prompts[i])))
    tasks: list[list[int]] = []
    for pair in _runs(first, keys):
        for start in range(0, len(pair), limit):
            part = pair[start : start + limit]
            if tasks and len(tasks[-1]) + len(part) <= limit:
                tasks[-1].extend(part)
            else:
                tasks.append(part)
    return tasks


def _runs(order: list[int], keys: list[PairKey]) -> list[list[int]]:
    runs: list[list[int]] = []
    for index in order:
        if runs and keys[runs[-1][-1]] == keys[index]:
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs


def _identity(prompt: Prompt) -> tuple[str, Box]:
    return prompt.id, prompt.box


def _along_curve(key: PairKey) -> tuple[int, int]:
    """Place on a Z-order curve, step by step: neighbours on it are neighbours on the slide."""
    unit = 2.0**key.step
    x, y = (math.floor(v / unit) + 2**31 for v in (key.x, key.y))  # pairs may start left of or above the grid
    return key.step, _spread(x) | _spread(y) << 1


def _spread(value: int) -> int:
    """The bits of a 32-bit number with a zero between each two."""
    value &= 0xFFFFFFFF
    for shift, mask in (
        (16, 0x0000FFFF0000FFFF),
        (8, 0x00FF00FF00FF00FF),
        (4, 0x0F0F0F0F0F0F0F0F),
        (2, 0x3333333333333333),
        (1, 0x5555555555555555),
    ):
        value = (value | value << shift) & mask
    return value
