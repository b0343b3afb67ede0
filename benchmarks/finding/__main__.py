"""The command line of the benchmark."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks import finding
from benchmarks.finding.page import render
from benchmarks.finding.study import Options, run
from benchmarks.heads.subjects import parse_heads
from benchmarks.pages import leave, page_parser, take_tiles
from wsi_pipeline.errors import WsiPipelineError


def main() -> None:
    parser = page_parser(finding.__doc__)
    take_tiles(parser)
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
