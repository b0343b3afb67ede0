"""The command line of the benchmark."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks import learning_curve
from benchmarks.finding.choice import aimed, choose_classical
from benchmarks.finding.finders import Asked, Finder, segmenter_for
from benchmarks.finding.study import nuclei_tiles
from benchmarks.heads.subjects import BACKBONE
from benchmarks.learning_curve.annotators import TrueBoxes, redrawn
from benchmarks.learning_curve.page import render
from benchmarks.learning_curve.picture import picture
from benchmarks.learning_curve.runs import BATCH, STEPS, VARIANTS, joined, measured, trained
from benchmarks.pages import leave, page_parser, take_tiles
from wsi_pipeline.training.data.samples import SampleSource
from wsi_pipeline.training.data.tiles import open_tiles
from wsi_pipeline.training.sources import TRAIN, VALIDATION
from wsi_pipeline.workflow import SegmentSettings

COUNTS, SEEDS, REDRAWN = (5, 10, 20), (0, 1, 2), 10


def main() -> None:
    parser = page_parser(learning_curve.__doc__)
    take_tiles(parser)
    parser.add_argument("--picture", type=Path, help="PNG")
    given = parser.parse_args()
    torch.set_num_threads(1)  # sums depend on how they are split
    with tempfile.TemporaryDirectory() as folder:
        found = run(given.data, Path(folder), given.cache_embeddings or Path(folder) / "embeddings")
    leave(found, render(found), json_file=given.json, page_file=given.write)
    if given.picture:
        picture(found["scores"]).save(given.picture, optimize=True)


def run(data: Path, folder: Path, embeddings: Path) -> dict[str, Any]:
    """``scores``: number of tiles → a row of metrics for each seed; ``annotators``: who drew → the same."""
    source, listed, tiles = open_tiles(data), nuclei_tiles(data, TRAIN), nuclei_tiles(data, VALIDATION)

    def rows(name: str, count: int, sources: Mapping[int, SampleSource]) -> Iterator[dict[str, float]]:
        for seed, mine in sources.items():
            weights = trained(mine, count, seed, folder / f"{name}-{seed}", embeddings)
            row = measured(weights, tiles, embeddings)
            print(f"{name}, seed {seed}: {row}", file=sys.stderr, flush=True)
            yield row

    scores = {str(count): list(rows(f"{count} tiles", count, dict.fromkeys(SEEDS, source))) for count in COUNTS}
    annotators = {"exact": scores[str(REDRAWN)]}
    for name, finder in finders(data, embeddings).items():
        sources = {}
        for seed in SEEDS:
            mine = joined(source, REDRAWN, seed).numbers(TRAIN)
            sources[seed] = redrawn(source, [tile for tile in listed if tile.number in mine], finder)
        annotators[name] = list(rows(name, REDRAWN, sources))
    return {
        "steps": STEPS,
        "variants": VARIANTS,
        "batch": BATCH,
        "redrawn": REDRAWN,
        "scores": scores,
        "annotators": annotators,
    }


def finders(data: Path, embeddings: Path) -> dict[str, Finder]:
    """Who annotates instead of a person."""
    settings = SegmentSettings(model=BACKBONE)
    segmenter = segmenter_for(settings, embeddings)
    chosen = choose_classical(nuclei_tiles(data, TRAIN), segmenter.input_size)
    return {"boxes": TrueBoxes(segmenter), "automatic": Asked(aimed(chosen), segmenter, settings)}


if __name__ == "__main__":
    main()
