"""The command line of the benchmark."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benchmarks import naming
from benchmarks.naming.page import render
from benchmarks.naming.study import Options, run
from benchmarks.pages import leave, page_parser, take_tiles
from wsi_pipeline.errors import WsiPipelineError


def main() -> None:
    parser = page_parser(naming.__doc__)
    take_tiles(parser, without="drawn tiles alone")
    parser.add_argument("--variants", type=int, help="augmented versions of real tiles; else the recipe's")
    given = parser.parse_args()
    torch.set_num_threads(1)  # sums depend on how they are split
    try:
        with tempfile.TemporaryDirectory() as work:
            found = run(Options(Path(work), given.data, given.cache_embeddings, given.variants))
        leave(found, render(found), json_file=given.json, page_file=given.write)
    except WsiPipelineError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
