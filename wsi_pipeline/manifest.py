"""Tables of images, one row each: ``manifest.csv``."""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path

from wsi_pipeline.errors import WsiPipelineError


def read_manifest(
    path: Path, needed: Collection[str], *, error: type[WsiPipelineError]
) -> list[tuple[int, dict[str, str]]]:
    """Line number and cells of every row; a cell that is not there is empty.

    Args:
        path: a CSV file in UTF-8.
        needed: columns there have to be.
        error: what to raise when it cannot be read, or lacks one of them.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            columns = list(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        fix = f"Give a folder with a {path.name} in UTF-8, or the file itself"
        raise error(f"cannot be read ({problem})", where=path, fix=fix) from None
    missing = [name for name in needed if name not in columns]
    if missing:
        raise error(f"has no column {', '.join(missing)}", where=path, fix=f"It has {', '.join(columns) or 'none'}")
    return rows


def file_of(manifest: Path, name: str) -> Path:
    """The file a manifest names: beside it, or beside its folder where it is there only."""
    beside, above = manifest.parent / name, manifest.resolve().parent.parent / name
    return above if not beside.exists() and above.exists() else beside
