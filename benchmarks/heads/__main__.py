"""The command line of the benchmark."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks import heads
from benchmarks.heads.page import render
from benchmarks.heads.study import Options, run
from benchmarks.heads.subjects import parse_heads
from benchmarks.pages import leave, page_parser, take_tiles
from wsi_pipeline.errors import WsiPipelineError


def main() -> None:
    parser = page_parser(heads.__doc__)
    take_tiles(parser)
    parser.add_argument(
        "--head", action="append", default=[], metavar="NAME[=FILE]", help="a model; without a file its default weights"
    )
    parser.add_argument("--limit", type=int, help="most objects of each tile, for a quick look")
    given = parser.parse_args()
    try:
        compared = parse_heads(given.head)
    except (WsiPipelineError, ValueError) as error:
        parser.error(str(error))
    for path in filter(None, (given.write, given.json)):
        path.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # sums depend on how they are split
    try:
        found = run(Options(given.data, compared, given.limit, given.cache_embeddings))
        leave(found, render(found, command_of(given, compared)), json_file=given.json, page_file=given.write)
    except WsiPipelineError as error:
        parser.error(str(error))


def command_of(given: argparse.Namespace, compared: dict[str, Path | None]) -> str:
    """What was typed, as far as it matters to the numbers, without this machine's folders."""
    words = ["python -m benchmarks.heads", f"--data {_shown(given.data)}"]
    words += [f"--head {name}" if file is None else f"--head {name}={_shown(file)}" for name, file in compared.items()]
    words += [f"--limit {given.limit}"] if given.limit else []
    words += [f"--write {_shown(given.write)}"] if given.write else []
    return " ".join(words)


def _shown(path: Path) -> str:
    return path.name if path.is_absolute() or ".." in path.parts else path.as_posix()


if __name__ == "__main__":
    main()
