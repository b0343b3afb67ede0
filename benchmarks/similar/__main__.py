"""The command line of the benchmark."""

from __future__ import annotations

import torch

from benchmarks import similar
from benchmarks.pages import leave, page_parser, take_tiles
from benchmarks.similar.page import render
from benchmarks.similar.study import run
from wsi_pipeline.errors import WsiPipelineError


def main() -> None:
    parser = page_parser(similar.__doc__)
    take_tiles(parser, without="drawn tissue alone")
    given = parser.parse_args()
    torch.set_num_threads(1)  # sums depend on how they are split
    try:
        found = run(given.data, given.cache_embeddings)
        leave(found, render(found), json_file=given.json, page_file=given.write)
    except WsiPipelineError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
