"""The command line of the benchmark."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks import finding
from benchmarks.finding.page import render
from benchmarks.finding.study import Options, run
from benchmarks.heads.subjects import parse_heads
from benchmarks.pages import leave
from wsi_pipeline.errors import WsiPipelineError


def main() -> None:
    parser = argparse.ArgumentParser(description=finding.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--decoder", type=Path, required=True, help="domain decoder")
    parser.add_argument(
        "--head", action="append", default=[], metavar="NAME[=FILE]", help="a segmenter besides the bare backbone"
    )
    parser.add_argument(
        "--adapted",
        action="append",
        default=[],
        type=Path,
        help="a LoRA-SAM; the last one is what others are compared with",
    )
    parser.add_argument("--twin", type=Path, help="the same, trained with tiles held out, to choose thresholds with")
    parser.add_argument("--write", type=Path, help="the page; without it, it is printed")
    parser.add_argument("--json", type=Path, help="all numbers")
    parser.add_argument("--cache-embeddings", type=Path, help="folder to keep embeddings in")
    given = parser.parse_args()
    torch.set_num_threads(1)  # sums depend on how they are split
    try:
        options = Options(
            data=given.data,
            decoder=given.decoder,
            heads=parse_heads(given.head),
            adapted=given.adapted,
            twin=given.twin,
            embeddings=given.cache_embeddings,
        )
        found = run(options)
        leave(found, render(found), json_file=given.json, page_file=given.write)
    except (WsiPipelineError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
