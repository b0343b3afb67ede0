"""How many µm a level-0 pixel measures, and who says so.

The chain: the user, the reader's own property (OpenSlide's ``mpp-x``, OME ``PhysicalSizeX``, NGFF scale), TIFF
resolution tags, the objective's power. A source that says something no microscope does is an error when it was
meant as a pixel size, and is passed over when it is a default of some writer (TIFF tags of 72 dpi).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from wsi_pipeline.errors import ResolutionError
from wsi_pipeline.geometry import Resolution

SANE_MPP = (0.05, 20.0)
"""µm per level-0 px that a bright-field slide can have."""

MICRONS_AT_1X = 10.0
"""A camera behind a 10x objective makes pixels of about 1 µm; the usual rule of thumb."""

_MICRONS_PER_UNIT = {
    "m": 1e6, "meter": 1e6, "metre": 1e6,
    "cm": 1e4, "centimeter": 1e4, "centimetre": 1e4,
    "mm": 1e3, "millimeter": 1e3, "millimetre": 1e3,
    "um": 1.0, "micron": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "nm": 1e-3, "nanometer": 1e-3, "nanometre": 1e-3,
    "angstrom": 1e-4, "å": 1e-4,
    "in": 25400.0, "inch": 25400.0,
}  # fmt: skip

_GIVE_MPP = "Give the µm per pixel with --mpp"


@dataclass(frozen=True, slots=True)
class MppClaim:
    """One statement about the pixel size.

    Attributes:
        source: ``property``, ``tiff-tags``, ``ngff`` or ``objective``, as in ``SlideInfo.mpp_source``.
        x, y: µm per level-0 px.
        wording: the statement as found in the file, for messages.
    """

    source: str
    x: float
    y: float
    wording: str


def in_microns(value: float, unit: str) -> float | None:
    """A length in µm; None where the unit is not a length (``pixel``, ``reference frame``)."""
    factor = _MICRONS_PER_UNIT.get(unit.strip().lower().replace("µ", "u").replace("μ", "u"))
    return None if factor is None else value * factor


def claim_from_tags(x_resolution: float, y_resolution: float, unit: str) -> MppClaim | None:
    """The claim of TIFF ``XResolution``/``YResolution`` (px per unit); None where they say nothing."""
    size = in_microns(1.0, unit)
    if size is None or not (x_resolution > 0 and y_resolution > 0):
        return None
    wording = f"TIFF resolution of {x_resolution:g} px per {unit.lower()}"
    return MppClaim("tiff-tags", size / x_resolution, size / y_resolution, wording)


def claim_from_objective(power: float) -> MppClaim | None:
    """The guess 10 / power."""
    if not power > 0:
        return None
    mpp = MICRONS_AT_1X / power
    return MppClaim("objective", mpp, mpp, f"objective of {power:g}x")


def is_sane(x: float, y: float) -> bool:
    """Whether both are a pixel size a slide can have."""
    low, high = SANE_MPP
    return all(math.isfinite(v) and low <= v <= high for v in (x, y))


def resolve_mpp(
    claims: Iterable[MppClaim], *, user: float | None, where: object
) -> tuple[Resolution, str, tuple[str, ...]]:
    """Choose the pixel size.

    Args:
        claims: what the file states, most trusted first.
        user: what the user states; beats every claim.
        where: the slide, for messages.

    Returns:
        The resolution, its source (see ``SlideInfo.mpp_source``) and warnings.

    Raises:
        ResolutionError: nobody states it, or what is stated is out of 0.05 … 20 µm/px.
    """
    low, high = SANE_MPP
    if user is not None:
        if not is_sane(user, user):
            raise ResolutionError(
                f"--mpp {user:g} is out of {low:g} … {high:g} µm/px", where=where, fix="Give µm per level-0 pixel"
            )
        return Resolution(user, user), "user", ()
    passed_over: list[str] = []
    for claim in claims:
        if is_sane(claim.x, claim.y):
            return Resolution(claim.x, claim.y), claim.source, (*passed_over, *_doubts(claim))
        stated = f"{claim.wording} means {claim.x:.4g} µm/px, out of {low:g} … {high:g}"
        if claim.source in ("property", "ngff"):
            raise ResolutionError(f"its {stated}", where=where, fix=_GIVE_MPP)
        passed_over.append(f"{stated}; not used")
    reason = f" ({passed_over[0]})" if passed_over else ""
    raise ResolutionError(f"the slide does not state its µm per pixel{reason}", where=where, fix=_GIVE_MPP)


def _doubts(claim: MppClaim) -> tuple[str, ...]:
    if claim.source == "objective":
        return (f"µm per pixel guessed from the {claim.wording}: {claim.x:g}; give --mpp if you know better",)
    if abs(claim.x / claim.y - 1) > 0.1:
        return (f"pixels are not square: {claim.x:g} by {claim.y:g} µm",)
    return ()
