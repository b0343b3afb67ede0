"""The command line of the benchmark."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks import granularity
from benchmarks.granularity.page import render
from benchmarks.granularity.study import Options, run
from benchmarks.pages import leave, page_parser
from wsi_pipeline.errors import WsiPipelineError


def main() -> None:
    parser = page_parser(granularity.__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder that keeps embeddings and networks")
    parser.add_argument("--scenes", type=int, nargs=2, default=(80, 6), help="to learn from, and to measure on")
    parser.add_argument("--epochs", type=int, default=20, help="each with all scenes to learn from")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the networks and of all draws")
    parser.add_argument("--data", type=Path, help="folder with manifest.csv; without it, drawn scenes alone")
    parser.add_argument("--weights", type=Path, help="a Semantic-SAM that was trained on the tiles")
    given = parser.parse_args()
    torch.set_num_threads(1)  # sums depend on how they are split
    train, test = given.scenes
    try:
        found = run(Options(given.output, train, test, given.epochs, given.seeds, given.data, given.weights))
        leave(found, render(found, command_of(given)), json_file=given.json, page_file=given.write)
    except (WsiPipelineError, ValueError) as error:
        parser.error(str(error))


def command_of(given: argparse.Namespace) -> str:
    """The command of a page, without where the user keeps files."""
    train, test = given.scenes
    seeds = " ".join(map(str, given.seeds))
    how = f"--scenes {train} {test} --epochs {given.epochs} --seeds {seeds}"
    tiles = "" if given.data is None or given.weights is None else f" --data tiles --weights {given.weights.name}"
    return f"python -m benchmarks.granularity --output DIR {how}{tiles}"


if __name__ == "__main__":
    main()
