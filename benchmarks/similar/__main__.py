"""The command line of the benchmark."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks import similar
from benchmarks.pages import leave
from benchmarks.similar.page import render
from benchmarks.similar.study import run
from wsi_pipeline.errors import WsiPipelineError


def main() -> None:
    parser = argparse.ArgumentParser(description=similar.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with manifest.csv; without it, drawn tissue alone")
    parser.add_argument("--write", type=Path, help="the page; without it, it is printed")
    parser.add_argument("--json", type=Path, help="all numbers")
    parser.add_argument("--cache-embeddings", type=Path, help="folder to keep embeddings in")
    given = parser.parse_args()
    torch.set_num_threads(1)  # sums depend on how they are split
    try:
        found = run(given.data, given.cache_embeddings)
        leave(found, render(found), json_file=given.json, page_file=given.write)
    except WsiPipelineError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
