"""Where QuPath's image begins in the slide.

QuPath crops a slide to ``openslide.bounds-*`` where the format states them, so its pixel (0, 0) is then the corner of
the bounds. Everything inside this package is in uncropped level-0 px.
"""

from __future__ import annotations

from typing import Literal

from wsi_pipeline.slides.info import SlideInfo

Origin = Literal["auto", "bounds", "full"]


def resolve_origin(info: SlideInfo, origin: Origin) -> Literal["bounds", "full"]:
    """``auto`` is ``bounds`` exactly where QuPath crops."""
    if origin == "auto":
        return "bounds" if info.has_bounds else "full"
    return origin


def origin_offset(info: SlideInfo, origin: Origin) -> tuple[float, float]:
    """Level-0 px (x, y) of QuPath's pixel (0, 0): subtract when writing, add when reading."""
    if resolve_origin(info, origin) == "full":
        return 0.0, 0.0
    return info.bounds.x, info.bounds.y
