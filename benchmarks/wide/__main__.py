"""The command line of the benchmark."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks import wide
from benchmarks.pages import leave, page_parser, take_tiles
from benchmarks.wide.page import render
from benchmarks.wide.study import Options, run
from wsi_pipeline.errors import WsiPipelineError


def main() -> None:
    parser = page_parser(wide.__doc__)
    take_tiles(parser)
    parser.add_argument("--slide", action="append", default=[], type=Path, help="a slide to learn from besides tiles")
    parser.add_argument("--steps", type=int, default=80, help="of training")
    parser.add_argument("--lessons", type=int, default=60, help="fields that LiteMedSAM answers about")
    parser.add_argument("--limit", type=int, help="most objects of each validation tile, for a quick look")
    parser.add_argument("--weights", type=Path, help="where to leave the student's encoder")
    given = parser.parse_args()
    if min(given.steps, given.lessons) < 1:
        parser.error("--steps and --lessons have to be 1 or more")
    torch.set_num_threads(1)  # sums depend on how they are split
    options = Options(
        given.data, given.slide, given.steps, given.lessons, given.limit, given.cache_embeddings, given.weights
    )
    try:
        found = run(options)
        leave(found, render(found, command_of(options)), json_file=given.json, page_file=given.write)
    except (WsiPipelineError, ValueError) as error:
        parser.error(str(error))


def command_of(options: Options) -> str:
    """What matters to the numbers, without this machine's folders."""
    words = [f"python -m benchmarks.wide --data {options.data.name}"]
    words += [f"--slide {path.name}" for path in options.slides]
    words += [f"--steps {options.steps} --lessons {options.lessons}"]
    words += [f"--limit {options.limit}"] if options.limit else []
    return " ".join([*words, "--write docs/reference/wide-encoder.md"])


if __name__ == "__main__":
    main()
