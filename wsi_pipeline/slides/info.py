"""The facts about a slide that later stages need without opening it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from wsi_pipeline.geometry import Region, Resolution


@dataclass(frozen=True, slots=True)
class SlideInfo:
    """What is known of a slide once it was opened.

    Attributes:
        path: the file or folder as given.
        name: file name without its slide suffix; the default slide id.
        width, height: level-0 px, uncropped.
        resolution: µm per level-0 px.
        mpp_source: ``user``, ``property``, ``tiff-tags``, ``ngff`` or ``objective`` (a guess, with a warning).
        bounds: the scanned part, level-0 px; the whole slide where the format does not say.
        has_bounds: whether the format states bounds (``openslide.bounds-*``), as QuPath then crops to them.
        level_sizes: (width, height) of every level, finest first.
        reader: ``openslide``, ``tiff``, ``ngff`` or ``image``.
        vendor: the format as the reader names it.
        fingerprint: short hash of what identifies the pixels (size, head, tail and dimensions of the file).
        associated: names of the associated images (label, macro, thumbnail).
        warnings: one line each, for the report.
    """

    path: str
    name: str
    width: int
    height: int
    resolution: Resolution
    mpp_source: str
    bounds: Region
    has_bounds: bool
    level_sizes: tuple[tuple[int, int], ...]
    reader: str
    vendor: str
    fingerprint: str
    associated: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SlideInfo:
        """The facts that ``dataclasses.asdict`` and JSON made plain."""
        plain = {f.name: data[f.name] for f in fields(cls)}
        plain["resolution"] = Resolution(**plain["resolution"])
        plain["bounds"] = Region(**plain["bounds"])
        plain["level_sizes"] = tuple((width, height) for width, height in plain["level_sizes"])
        for name in ("associated", "warnings"):
            plain[name] = tuple(plain[name])
        return cls(**plain)
