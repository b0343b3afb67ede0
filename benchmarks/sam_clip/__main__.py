"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks import sam_clip
from benchmarks.pages import leave, page_parser
from benchmarks.sam_clip.page import render
from benchmarks.sam_clip.study import Options, run
from benchmarks.sam_clip.subjects import annotated_tiles, drawn_scenes
from wsi_pipeline.errors import WsiPipelineError


def main() -> None:
    parser = page_parser(sam_clip.__doc__)
    parser.add_argument("--data", type=Path, help="folder with manifest.csv; without it, drawn scenes only")
    parser.add_argument("--scenes", type=int, nargs=2, default=(72, 12), help="to learn from, and to measure on")
    parser.add_argument("--teacher-steps", type=int, default=400)
    parser.add_argument("--probe-steps", type=int, default=300)
    parser.add_argument("--merge-steps", type=int, default=40)
    parser.add_argument("--variants", type=int, default=3, help="augmented versions of each training tile")
    parser.add_argument("--threads", type=int, default=1, help="sums depend on how they are split")
    parser.add_argument("--cache", type=Path, help="folder that keeps what is expensive, so that a run can go on")
    parser.add_argument("--weights", type=Path, help="write the last subject's head of the first stage")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            options = Options(
                teacher_steps=given.teacher_steps,
                probe_steps=given.probe_steps,
                merge_steps=given.merge_steps,
                variants=given.variants,
                folder=given.cache or Path(temporary),
                weights=given.weights,
            )
            subjects = [drawn_scenes(*given.scenes)] + ([annotated_tiles(given.data)] if given.data else [])
            found = run(subjects, options)
        leave(found, render(found, command_of(given)), json_file=given.json, page_file=given.write)
    except (WsiPipelineError, ValueError) as error:
        parser.error(str(error))


def command_of(given: argparse.Namespace) -> str:
    """The command of a page, without where the user keeps files."""
    data = f" --data {given.data.name}" if given.data else ""
    steps = f"--teacher-steps {given.teacher_steps} --probe-steps {given.probe_steps} --merge-steps {given.merge_steps}"
    scenes = " ".join(map(str, given.scenes))
    return f"python -m benchmarks.sam_clip{data} --scenes {scenes} --variants {given.variants} \\\n    {steps}"


if __name__ == "__main__":
    main()
