"""The command line of the benchmark."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks import clicks
from benchmarks.clicks.page import render
from benchmarks.clicks.study import Options, run
from benchmarks.pages import leave, page_parser
from wsi_pipeline.errors import WsiPipelineError


def main() -> None:
    parser = page_parser(clicks.__doc__)
    parser.add_argument("--data", type=Path, help="folder with manifest.csv; without it, drawn cells alone")
    parser.add_argument("--weights", type=Path, help="a SAPNet that was trained on the tiles")
    parser.add_argument("--folder", type=Path, required=True, help="keeps trained networks, for all runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13], help="of the networks")
    given = parser.parse_args()
    torch.set_num_threads(1)  # sums depend on how they are split
    try:
        options = Options(given.folder, given.data, given.weights, given.seeds)
        found = run(options)
        leave(found, render(found), json_file=given.json, page_file=given.write)
    except WsiPipelineError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
