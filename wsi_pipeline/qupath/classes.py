"""QuPath's classes: names as QuPath keeps them, colours as QuPath shows them.

In QuPath a class lives once per session and its first colour wins, so a standard class always shows QuPath's own
colour whatever a file says. Source: QuPath ``PathClass``, ``PathClassTools`` (0.6-0.8).
"""

from __future__ import annotations

import colorsys
import hashlib
from collections.abc import Mapping

Rgb = tuple[int, int, int]

STANDARD_COLORS: dict[str, Rgb] = {
    "Tumor": (200, 0, 0),
    "Stroma": (150, 200, 150),
    "Immune cells": (160, 90, 160),
    "Necrosis": (50, 50, 50),
    "Other": (255, 200, 0),
    "Region*": (0, 0, 180),
    "Ignore*": (180, 180, 180),
    "Positive": (250, 62, 62),
    "Negative": (112, 112, 225),
}
"""Classes every QuPath session knows, with the colours it shows."""

REGION, ARTEFACT = "Region*", "Artefact*"
"""Classes of tissue outlines and of artefacts; a name that ends in ``*`` is ignored by QuPath's classifiers."""

_OWN_COLORS: dict[str, Rgb] = {
    ARTEFACT: (130, 130, 130),
    "Nucleus": (60, 110, 220),
    "Tissue": (0, 140, 120),
    "Tumour": STANDARD_COLORS["Tumor"],
    "Epithelium": (230, 120, 60),
    "Gland": (40, 150, 220),
    "Lymphocytes": STANDARD_COLORS["Immune cells"],
    "Plasma cells": (190, 60, 140),
    "Neutrophils": (120, 60, 200),
    "Eosinophils": (240, 90, 120),
    "Macrophages": (110, 130, 60),
    "Fibroblasts": (90, 170, 110),
    "Endothelium": (170, 40, 60),
    "Adipose tissue": (245, 215, 90),
    "Muscle": (200, 100, 110),
    "Blood vessel": (150, 20, 30),
    "Erythrocytes": (230, 50, 50),
    "Nerve": (210, 190, 40),
    "Mucus": (110, 200, 215),
    "Cartilage": (80, 190, 170),
    "Bone": (200, 180, 150),
    "Mitosis": (20, 200, 60),
    "Debris": (110, 90, 70),
}
"""Classes that are common in pathology, in colours that show on haematoxylin and eosin."""

_USUAL = {name.casefold(): color for name, color in (STANDARD_COLORS | _OWN_COLORS).items()}
_DELIMITER = ":"


def split_class_name(name: str) -> list[str]:
    """The names of a class from base to most derived: ``"Tumor: Positive"`` → ``["Tumor", "Positive"]``.

    ``:`` derives a class in QuPath; blanks around a name and line breaks inside it are not allowed there, so they are
    removed or become blanks.
    """
    parts = (" ".join(part.split()) for part in name.split(_DELIMITER))
    return [part for part in parts if part]


def clean_class_name(name: str | None) -> str | None:
    """A class name as QuPath would show it, or None when nothing is left of it."""
    return None if name is None else (f"{_DELIMITER} ".join(split_class_name(name)) or None)


def is_ignored_class(name: str) -> bool:
    """Whether QuPath treats a class as not of interest (``Region*``, ``Ignore*``, ``Artefact*``)."""
    return name.rstrip().endswith("*")


def class_color(name: str, colors: Mapping[str, Rgb | None] | None = None) -> Rgb:
    """The colour of a class: QuPath's own for a standard class, then the given one, then the usual one of such a class.

    Any other has one made from its name. To QuPath ``tumor`` and ``Tumor`` are two classes; here they look alike.
    """
    clean = clean_class_name(name) or name
    if clean in STANDARD_COLORS:
        return STANDARD_COLORS[clean]
    given = None if colors is None else colors.get(name) or colors.get(clean)
    return given or _USUAL.get(clean.casefold()) or _color_from_name(clean)


def _color_from_name(name: str) -> Rgb:
    # Strong and of middle brightness, so that an outline shows on pink tissue and on white glass.
    digest = hashlib.sha256(name.encode()).digest()
    hue = int.from_bytes(digest[:2], "big") / 65536
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75 + digest[2] / 1024, 0.6 + digest[3] / 1024)
    return round(red * 255), round(green * 255), round(blue * 255)
