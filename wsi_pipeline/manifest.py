"""Tables of images, one row each: ``manifest.csv``, or the same in Parquet."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from wsi_pipeline.errors import WsiPipelineError

Error = type[WsiPipelineError]
Row = tuple[int, dict[str, Any]]
"""Line number and cells."""

MANIFEST_SUFFIXES = (".csv", ".parquet")


def read_manifest(path: Path, needed: Collection[str], *, error: Error) -> list[tuple[int, dict[str, str]]]:
    """Line number and cells of every row; a cell that is not there is empty.

    Args:
        path: a CSV file in UTF-8.
        needed: columns there have to be.
        error: what to raise when it cannot be read, or lacks one of them.
    """
    return list(_csv_rows(path, needed, error))


def stream_manifest(path: Path, needed: Collection[str], *, error: Error) -> Iterator[Row]:
    """The rows of a CSV or Parquet file one after the other.

    Cells of Parquet keep their type, and are None where empty; its lines are counted from 1. See ``read_manifest``.
    """
    return _parquet_rows(path, needed, error) if path.suffix.lower() == ".parquet" else _csv_rows(path, needed, error)


def file_of(manifest: Path, name: str) -> Path:
    """The file a manifest names: beside it, or beside its folder where it is there only."""
    beside, above = manifest.parent / name, manifest.resolve().parent.parent / name
    return above if not beside.exists() and above.exists() else beside


def _csv_rows(path: Path, needed: Collection[str], error: Error) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            _check_columns(path, list(reader.fieldnames or ()), needed, error)
            for row in reader:
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        fix = f"Give a folder with a {path.name} in UTF-8, or the file itself"
        raise error(f"cannot be read ({problem})", where=path, fix=fix) from None


def _parquet_rows(path: Path, needed: Collection[str], error: Error) -> Iterator[Row]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with closing(ParquetFile(path)) as file:
            _check_columns(path, file.schema_arrow.names, needed, error)
            rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
            yield from enumerate(rows, start=1)
    except (OSError, pyarrow.ArrowException) as problem:
        said = str(problem).splitlines()[0]
        raise error(f"cannot be read ({said})", where=path, fix="Give a readable Parquet file") from None


def _check_columns(path: Path, columns: Sequence[str], needed: Collection[str], error: Error) -> None:
    missing = [name for name in needed if name not in columns]
    if missing:
        raise error(f"has no column {', '.join(missing)}", where=path, fix=f"It has {', '.join(columns) or 'none'}")
    twice = sorted({name for name in columns if columns.count(name) > 1 and name})
    if twice:
        raise error(f"has several columns {', '.join(twice)}", where=path, fix="Keep one of each")
