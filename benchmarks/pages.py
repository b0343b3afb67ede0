"""What the benchmarks that write a page share: options, tables, intervals, and leaving what was found."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsi_pipeline.files import beside


def page_parser(about: str | None) -> argparse.ArgumentParser:
    """What every command line takes that writes a page."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="the page; without it, it is printed")
    parser.add_argument("--json", type=Path, help="all numbers")
    return parser


def take_tiles(parser: argparse.ArgumentParser, *, without: str | None = None) -> None:
    """Take annotated tiles, which ``without`` says what is done without, and where to keep their embeddings."""
    said = f"; without it, {without}" if without else ""
    parser.add_argument("--data", type=Path, required=without is None, help=f"folder with manifest.csv{said}")
    parser.add_argument("--cache-embeddings", type=Path, help="folder to keep embeddings in, for all runs")


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def listed(values: Iterable[object]) -> str:
    """Values in a row."""
    return ", ".join(map(str, values))


def interval(estimate: Sequence[float | None]) -> str:
    """A difference and its interval, which is left out where there is none."""
    value, low, high = estimate
    if low is None or high is None or math.isnan(low):
        return f"{value:+.3f}"
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def leave(found: Mapping[str, Any], page: str, *, json_file: Path | None, page_file: Path | None) -> None:
    """Write all numbers and the page where they are wanted; a page that is wanted nowhere is printed.

    Raises:
        OutputError: a file cannot be written.
    """
    if json_file is not None:
        _write(json_file, json.dumps(found, indent=1) + "\n")
    if page_file is None:
        print(page)
    else:
        _write(page_file, page)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path) as partial:
        partial.write_text(text, encoding="utf-8")
