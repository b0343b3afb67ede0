"""QuPath annotations as prompts.

| in QuPath | prompt |
| --- | --- |
| point, points tool | one prompt of as many positive points as the annotation holds |
| line, polyline | positive points spread along it |
| rectangle | box |
| any other area, cells too | its outline (mask) and its bounding box |
| points of a negative class (``Ignore*``, ``Negative``) | each is a negative point of the nearest prompt |
| area of a negative class | left out |
| area of an ROI class, or named like one (``Region*``) | limits the run |

Coordinates are px of the image QuPath opened, so the origin of the slide's bounds is added where QuPath crops.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.errors import PromptError
from wsi_pipeline.prompts.prompt import Prompt, PromptKind, PromptSet
from wsi_pipeline.qupath.classes import Rgb, clean_class_name
from wsi_pipeline.qupath.origin import Origin, origin_offset
from wsi_pipeline.qupath.reader import QuPathObject, read_objects
from wsi_pipeline.slides.info import SlideInfo
from wsi_pipeline.workflow import QuPathPrompts

POINTS_PER_LINE = 8
"""Positive points along one line."""

_NAMESPACE = uuid.UUID("5f4c1f0a-5a0e-4f43-9d6e-3f0a7f0d2c11")
_POINTS = ("Point", "MultiPoint")
_LINES = ("LineString", "MultiLineString")


def read_qupath_prompts(
    path: Path | str, info: SlideInfo, settings: QuPathPrompts, qupath_origin: Origin = "auto"
) -> PromptSet:
    """Read the prompts and regions of interest of one slide.

    Args:
        path: GeoJSON file of QuPath or of this package (``.geojson``, ``.json``, ``.gz``, ``.zip``).
        info: the slide.
        settings: which classes are regions of interest, which are negative, the class of prompts without one, and
            whether outlines are mask prompts.
        qupath_origin: how QuPath opened the slide; ``auto`` takes what the file itself says, else what QuPath does.

    Raises:
        GeoJSONError: the file cannot be read; names the feature or the line.
        PromptError: nothing to ask for, or everything lies outside the slide.
    """
    path = Path(path)
    sorting = _Sorting(path, info, settings, qupath_origin)
    for item in read_objects(path):
        sorting.add(item)
    return sorting.result()


class _Sorting:
    """Objects of one file on their way into prompts, regions and negative points."""

    def __init__(self, path: Path, info: SlideInfo, settings: QuPathPrompts, origin: Origin) -> None:
        self.path, self.info, self.settings, self.origin = path, info, settings, origin
        self.slide = shapely.box(0, 0, info.width, info.height)
        self.roi_names = _clean(settings.roi_classes)
        self.negative_names = _clean(settings.negative_classes)
        self.prompts: list[Prompt] = []
        self.ids: set[str] = set()
        self.rois: list[BaseGeometry] = []
        self.negative: list[np.ndarray] = []
        self.colors: dict[str, Rgb] = {}
        self.counts: Counter[str] = Counter()
        self.first_outside: str | None = None

    def add(self, item: QuPathObject) -> None:
        if item.class_name and item.class_color:
            self.colors.setdefault(item.class_name, item.class_color)
        outline = item.geometry if item.geometry is not None else item.nucleus
        if outline is None or item.object_type in ("root", "tmaCore"):
            self.counts["objects without an outline, TMA cores or roots are left out"] += 1
            return
        self.counts["outlines crossed themselves and were mended"] += item.repaired
        geometry = self.on_slide(outline, item)
        if not self.slide.intersects(geometry):
            self.counts["objects lie outside the slide and are left out"] += 1
            self.first_outside = self.first_outside or item.place
        elif self.is_roi(item):
            self.add_roi(geometry)
        elif item.class_name in self.negative_names:
            self.add_negative(geometry)
        else:
            self.add_prompt(item, geometry)

    def on_slide(self, geometry: BaseGeometry, item: QuPathObject) -> BaseGeometry:
        """From px of QuPath's image to level-0 px of the uncropped slide."""
        origin = self.origin
        written = item.collection.get("wsi_pipeline")
        if origin == "auto" and isinstance(written, dict) and written.get("origin") in get_args(Origin):
            origin = written["origin"]
        offset = origin_offset(self.info, origin)
        return shapely.transform(geometry, lambda xy: xy + offset) if any(offset) else geometry

    def is_roi(self, item: QuPathObject) -> bool:
        return item.class_name in self.roi_names or clean_class_name(item.name) in self.roi_names

    def add_roi(self, geometry: BaseGeometry) -> None:
        if shapely.get_dimensions(geometry) == 2:
            self.rois.append(geometry)
        else:
            self.counts["points or lines of an ROI class are left out: they have no area"] += 1

    def add_negative(self, geometry: BaseGeometry) -> None:
        if geometry.geom_type in _POINTS:
            self.negative.append(shapely.get_coordinates(geometry))
        else:
            self.counts["outlines of a negative class are left out: only points can be negative"] += 1

    def add_prompt(self, item: QuPathObject, geometry: BaseGeometry) -> None:
        kind = self.kind(item, geometry)
        if self.settings.points_only and kind != "point":
            self.counts["outlines or rectangles are no points and are left out"] += 1
            return
        points = positive_points(geometry) if kind == "point" else np.zeros((0, 2))
        self.prompts.append(
            Prompt(
                id=self.unique_id(item, geometry),
                kind=kind,
                geometry=geometry,
                positive=points,
                class_name=item.class_name or self.settings.class_name,
                color=item.color,
                name=item.name,
                object_type="annotation" if item.object_type == "annotation" else "detection",
                locked=item.locked,
                # QuPath writes objects flat; what was nested says in which object
                metadata=dict(item.metadata) | ({"parent_id": item.parent} if item.parent else {}),
                measurements=dict(item.measurements),
            )
        )

    def kind(self, item: QuPathObject, geometry: BaseGeometry) -> PromptKind:
        if geometry.geom_type in _POINTS + _LINES:
            return "point"
        rectangle = not item.is_ellipse and is_rectangle(geometry)
        return "box" if rectangle or not self.settings.use_outline else "mask"

    def unique_id(self, item: QuPathObject, geometry: BaseGeometry) -> str:
        """The source id; made from the outline where there is none, and from both where it is taken."""
        name = item.id or str(uuid.uuid5(_NAMESPACE, shapely.to_wkb(geometry, hex=True)))
        while name in self.ids:
            name = str(uuid.uuid5(_NAMESPACE, f"{name} {len(self.ids)}"))
        self.ids.add(name)
        return name

    def result(self) -> PromptSet:
        self.check_some()
        rois = shapely.union_all(self.rois) if self.rois else None
        prompts = self.inside(rois)
        if self.negative:
            prompts = self.with_negatives(prompts)
        return PromptSet(prompts, rois, self.warnings(), self.colors)

    def check_some(self) -> None:
        if self.prompts or self.rois:
            return
        if self.first_outside:
            raise PromptError(
                f"lies outside the slide {self.info.name} ({self.info.width} x {self.info.height} px), "
                "and so does every other prompt",
                where=self.first_outside,
                fix="Check that the file belongs to this slide, and set export.qupath_origin if QuPath did not crop it",
            )
        wanted = "points" if self.settings.points_only else "prompts"
        what = "holds negative points only" if self.negative else f"holds no {wanted}"
        drawn = "points" if self.settings.points_only else "points, boxes or outlines"
        raise PromptError(what, where=self.path, fix=f"Draw {drawn} in QuPath and export them")

    def inside(self, rois: BaseGeometry | None) -> list[Prompt]:
        if rois is None or not self.prompts:
            return self.prompts
        shapely.prepare(rois)
        kept = shapely.intersects(rois, np.array([prompt.geometry for prompt in self.prompts], dtype=object))
        self.counts["prompts lie outside the regions of interest and are left out"] += int((~kept).sum())
        return [prompt for prompt, keep in zip(self.prompts, kept, strict=True) if keep]

    def with_negatives(self, prompts: list[Prompt]) -> list[Prompt]:
        """Give every negative point to the nearest prompt (the first of several equally near)."""
        points = np.concatenate(self.negative)
        if not prompts:
            self.counts["negative points are left out: there is no prompt near them"] += len(points)
            return prompts
        tree = shapely.STRtree([prompt.geometry for prompt in prompts])
        pairs = tree.query_nearest(shapely.points(points), all_matches=True)
        owner = np.full(len(points), len(prompts))
        np.minimum.at(owner, pairs[0], pairs[1])
        prompts = list(prompts)
        for number in np.unique(owner):
            prompts[number] = dataclasses.replace(prompts[number], negative=points[owner == number])
        return prompts

    def warnings(self) -> list[str]:
        lines = [f"{self.path.name}: {count} {what}" for what, count in self.counts.items() if count]
        if self.first_outside:
            lines.append(f"first outside the slide: {self.first_outside.rpartition(': ')[2]}")
        return lines


def _clean(names: list[str]) -> set[str]:
    return {name for name in map(clean_class_name, names) if name}


def is_rectangle(geometry: BaseGeometry) -> bool:
    """Whether an outline is an axis-aligned rectangle of five positions, as QuPath writes rectangles."""
    if geometry.geom_type != "Polygon" or shapely.get_num_coordinates(geometry) != 5:
        return False
    return bool(geometry.area > 0 and geometry.equals(shapely.envelope(geometry)))


def positive_points(geometry: BaseGeometry) -> np.ndarray:
    """(K, 2) float64: the points themselves, or ``POINTS_PER_LINE`` points evenly along every line."""
    if geometry.geom_type in _POINTS:
        return shapely.get_coordinates(geometry)
    shares = (np.arange(POINTS_PER_LINE) + 0.5) / POINTS_PER_LINE
    lines = shapely.get_parts(geometry)[:, None]
    return shapely.get_coordinates(shapely.line_interpolate_point(lines, shares, normalized=True).ravel())
