"""The annotated examples of a workflow: which slide, which outline, which class. No network is needed for that."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import shapely
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.errors import PromptError, SlideError, WorkflowError
from wsi_pipeline.models.matcher.settings import Example, MatcherSettings
from wsi_pipeline.prompts.qupath import read_qupath_prompts
from wsi_pipeline.qupath.origin import Origin
from wsi_pipeline.slides.slide import Slide, slide_handle
from wsi_pipeline.workflow import QuPathPrompts

UNNAMED = "Similar"
"""Class of what looks like an outline without one."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outline:
    """An example: one outline on a slide.

    Attributes:
        slide: where it is.
        geometry: level-0 px of the uncropped slide, within it.
        class_name: its own, or ``UNNAMED``.
    """

    slide: Slide
    geometry: BaseGeometry
    class_name: str


def read_outlines(settings: MatcherSettings, *, origin: Origin = "auto") -> list[Outline]:
    """Every outline of the examples, in the order of the files.

    Args:
        settings: names the files.
        origin: how QuPath opened the slides; ``auto`` takes what a file itself says, else what QuPath does.

    Raises:
        WorkflowError: there are no examples.
        SlideError, ResolutionError: a slide is missing, unreadable, or does not say its resolution.
        GeoJSONError: an annotation file cannot be read.
        PromptError: it holds no outline, or none on its slide.
    """
    if not settings.examples:
        fix = "Give --example SLIDE --example-annotation GEOJSON, or set it in the workflow"
        raise WorkflowError("there is nothing to look for", where="matcher.examples", fix=fix)
    return [outline for example in settings.examples for outline in _outlines_of(example, origin)]


def example_classes(settings: MatcherSettings, *, origin: Origin = "auto") -> tuple[str, ...]:
    """The classes of the examples in the order of their first outlines; raises as ``read_outlines``."""
    return classes_of(read_outlines(settings, origin=origin))


def classes_of(outlines: Sequence[Outline]) -> tuple[str, ...]:
    """Each class once, in the order of the first outline of each."""
    return tuple(dict.fromkeys(outline.class_name for outline in outlines))


def _outlines_of(example: Example, origin: Origin) -> Iterator[Outline]:
    if not example.slide.exists():
        raise SlideError("no such slide", where=example.slide, fix="Correct the path of the example")
    slide = slide_handle(example.slide, example.mpp)
    read = read_qupath_prompts(example.annotation, slide.info, QuPathPrompts(source="qupath"), origin)
    for warning in read.warnings:
        logger.warning("%s", warning)
    whole = shapely.box(0, 0, slide.info.width, slide.info.height)
    areas = [prompt for prompt in read.prompts if shapely.get_dimensions(prompt.geometry) == 2]
    if not areas:
        fix = "Outline an example in QuPath and export it; points and lines have no area"
        raise PromptError("holds no outline of an example", where=example.annotation, fix=fix)
    for prompt in areas:
        yield Outline(slide, shapely.intersection(prompt.geometry, whole), prompt.class_name or UNNAMED)
