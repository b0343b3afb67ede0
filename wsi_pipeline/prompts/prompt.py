"""What a person or an earlier stage asks for: one prompt per object, in level-0 px of the uncropped slide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.granularity import Levels

PromptKind = Literal["point", "box", "mask"]
Rgb = tuple[int, int, int]


def _no_points() -> np.ndarray:
    return np.zeros((0, 2), np.float64)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One object to segment.

    Attributes:
        id: id of the source annotation (a UUID where the source had one); results carry it as ``prompt_id``.
        kind: ``point`` (ask with ``positive``/``negative``), ``box`` (ask with the bounds of ``geometry``) or
            ``mask`` (ask with the outline and its bounds).
        geometry: where it lies, level-0 px, uncropped: the point(s), the rectangle or the outline.
        positive: (K, 2) float64 points inside the object, level-0 px; may be empty.
        negative: (K, 2) float64 points outside the object, level-0 px; may be empty.
        class_name: class of the result, or None.
        color: the object's own colour (not its class's), or None.
        name: the object's own name, or None.
        object_type: ``annotation`` or ``detection``, as the source had it.
        locked: whether the source annotation was locked.
        metadata: text metadata of the source object.
        measurements: numbers measured on the source object.
        level: the granularity that is wanted, see ``granularity``; None where the model chooses.
        source: id of the source annotation where several prompts came of it; None for ``id``.
    """

    id: str
    kind: PromptKind
    geometry: BaseGeometry
    positive: np.ndarray = field(default_factory=_no_points)
    negative: np.ndarray = field(default_factory=_no_points)
    class_name: str | None = None
    color: Rgb | None = None
    name: str | None = None
    object_type: str = "annotation"
    locked: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    measurements: Mapping[str, float] = field(default_factory=dict)
    level: int | None = None
    source: str | None = None

    @property
    def source_id(self) -> str:
        """Id of the source annotation."""
        return self.source or self.id

    @property
    def box(self) -> tuple[float, float, float, float]:
        """``x0, y0, x1, y1`` of the geometry, level-0 px; of no size for a single point."""
        x0, y0, x1, y1 = self.geometry.bounds
        return x0, y0, x1, y1


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Every prompt of one slide.

    Attributes:
        prompts: in the order of the source.
        rois: the area the run is limited to, level-0 px; None for the whole slide.
        warnings: one line each, for the report.
        class_colors: colour of each class that the source gave one, for the export.
    """

    prompts: list[Prompt]
    rois: BaseGeometry | None = None
    warnings: list[str] = field(default_factory=list)
    class_colors: Mapping[str, Rgb] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)


def at_levels(prompts: list[Prompt], levels: Levels) -> list[Prompt]:
    """The prompts, each once for every level of granularity; a level's class is added to that of the prompt.

    Args:
        prompts: of one slide.
        levels: that are wanted, with their classes; none: the prompts stay as they are.
    """
    if not levels:
        return prompts
    several = len(levels) > 1
    return [
        replace(
            prompt,
            id=f"{prompt.id}/level {level}" if several else prompt.id,
            source=prompt.id if several else None,
            class_name=": ".join(filter(None, (prompt.class_name, name))) or None,
            level=level,
        )
        for prompt in prompts
        for level, name in levels
    ]


def points_as_boxes(prompts: list[Prompt], width: float, height: float) -> list[Prompt]:
    """The same prompts, with a box of the given size (level-0 px) around the points of each point prompt."""
    return [_as_box(prompt, width / 2, height / 2) if prompt.kind == "point" else prompt for prompt in prompts]


def _as_box(prompt: Prompt, across: float, down: float) -> Prompt:
    x0, y0, x1, y1 = prompt.box
    return replace(prompt, kind="box", geometry=shapely.box(x0 - across, y0 - down, x1 + across, y1 + down))
