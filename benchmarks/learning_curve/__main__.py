"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import learning_curve
from benchmarks.finding.choice import choose_classical
from benchmarks.finding.finders import Asked, Finder
from benchmarks.finding.tiles import read_tiles
from benchmarks.heads.subjects import DEVICE, PRECISION
from benchmarks.learning_curve.annotators import TrueBoxes, redrawn
from benchmarks.learning_curve.picture import picture
from benchmarks.learning_curve.runs import BATCH, STEPS, VARIANTS, joined, measured, trained
from wsi_pipeline.errors import DatasetError
from wsi_pipeline.files import beside
from wsi_pipeline.manifest import read_manifest
from wsi_pipeline.models.registry import find_model
from wsi_pipeline.models.segmenter import BatchedSegmenter
from wsi_pipeline.prompts.nuclei import NucleusDetector
from wsi_pipeline.training.data.samples import SampleSource
from wsi_pipeline.training.data.tiles import MANIFEST, open_tiles
from wsi_pipeline.training.sources import TRAIN, VALIDATION
from wsi_pipeline.workflow import SegmentSettings

COUNTS, SEEDS, REDRAWN = (5, 10, 20), (0, 1, 2), 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=learning_curve.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--json", type=Path, required=True, help="all numbers")
    parser.add_argument("--picture", type=Path, help="PNG")
    parser.add_argument("--cache-embeddings", type=Path, help="folder to keep embeddings in, for all runs")
    given = parser.parse_args()
    torch.set_num_threads(1)  # sums depend on how they are split
    with tempfile.TemporaryDirectory() as folder:
        found = run(given.data, Path(folder), given.cache_embeddings or Path(folder) / "embeddings")
    with beside(given.json) as partial:
        partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if given.picture:
        picture(found["scores"]).save(given.picture, optimize=True)


def run(data: Path, folder: Path, embeddings: Path) -> dict[str, Any]:
    """``scores``: number of tiles → a row of metrics for each seed; ``annotators``: who drew → the same."""
    source, tiles = open_tiles(data), list(read_tiles(data, VALIDATION))

    def rows(name: str, count: int, sources: dict[int, SampleSource]) -> Iterator[dict[str, float]]:
        for seed, mine in sources.items():
            weights = trained(mine, count, seed, folder / f"{name}-{seed}", embeddings)
            row = measured(weights, tiles, embeddings)
            print(f"{name}, seed {seed}: {row}", file=sys.stderr, flush=True)
            yield row

    scores = {str(count): list(rows(f"{count} tiles", count, dict.fromkeys(SEEDS, source))) for count in COUNTS}
    annotators = {"exact": scores[str(REDRAWN)]}
    for name, finder in finders(data, embeddings).items():
        numbers = {seed: joined(source, REDRAWN, seed).numbers(TRAIN) for seed in SEEDS}
        sources = {seed: redrawn(source, mine, datasets_of(data), finder) for seed, mine in numbers.items()}
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
    settings = SegmentSettings(model="sam")
    segmenter = find_model("sam").build(settings, device=DEVICE, dtype=PRECISION)
    assert isinstance(segmenter, BatchedSegmenter)
    segmenter.encoder.keep_in(embeddings)
    chosen = choose_classical(list(read_tiles(data, TRAIN)), segmenter.input_size)
    detectors = {name: (NucleusDetector(one.prompts()), one.mpp) for name, one in chosen.items()}
    return {"boxes": TrueBoxes(segmenter), "automatic": Asked(detectors, segmenter, settings)}


def datasets_of(data: Path) -> dict[int, str]:
    rows = read_manifest(data / MANIFEST, ("dataset",), error=DatasetError)
    return {number: row["dataset"] for number, (_, row) in enumerate(rows)}


if __name__ == "__main__":
    main()
