"""Fingerprints that tell when old results no longer count, and the record of what made a result."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wsi_pipeline import __version__
from wsi_pipeline.files import beside

_LIBRARIES = ("torch", "segment-anything", "openslide-python", "tifffile", "zarr", "distributed", "shapely", "numpy")


def fingerprint_of(parts: dict[str, Any]) -> str:
    """16 hex digits of the SHA-256 of ``parts`` in canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def host_facts() -> dict[str, Any]:
    """What this machine and its libraries are."""
    return {
        "wsi_pipeline": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "libraries": {name: version(name) for name in _LIBRARIES},
    }


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write JSON beside ``path`` and rename it."""
    with beside(path) as partial:
        partial.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in ``path``, or None when there is none or it is damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None
