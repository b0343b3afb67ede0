"""One training run, and how good what comes out of it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.finding.choice import pq_of
from benchmarks.finding.finders import DecoderObjects
from benchmarks.finding.study import measure, prompter_for
from benchmarks.tiles import ListedTile
from wsi_pipeline.training.data.samples import SampleSource
from wsi_pipeline.training.loop import Training
from wsi_pipeline.training.result import write_result
from wsi_pipeline.training.sources import TRAIN, Joined
from wsi_pipeline.training.systems import load_recipe
from wsi_pipeline.workflow import DomainDecoderPrompts

STEPS, VARIANTS, BATCH = 150, 3, 2


def joined(source: SampleSource, count: int, seed: int) -> Joined:
    """``count`` nuclei tiles of the training split."""
    classes = load_recipe("domain-decoder").classes
    return Joined([source], judged=False, classes=classes, samples=count, seed=seed)


def trained(source: SampleSource, count: int, seed: int, output: Path, embeddings: Path) -> Path:
    """Weights of a decoder that saw ``count`` tiles."""
    tiles = joined(source, count, seed)
    epochs = math.ceil(STEPS / math.ceil(len(tiles.numbers(TRAIN)) / BATCH))
    changes: dict[str, Any] = {"samples": count, "seed": seed, "judged": False, "variants": VARIANTS, "batch": BATCH}
    changes |= {"epochs": epochs, "optimiser.decay_after": math.ceil(epochs / 3)}
    training = Training(load_recipe("domain-decoder", None, changes), tiles, output, embeddings)
    training.run()
    return write_result(training, {"tiles": source}, output)


def measured(weights: Path, tiles: Sequence[ListedTile], embeddings: Path) -> dict[str, float]:
    """Dice, the mean over tiles, and PQ of all objects, of the decoder's own instances."""
    prompter = prompter_for(DomainDecoderPrompts(source="domain-decoder", weights=str(weights)), embeddings)
    finder = DecoderObjects(prompter, prompter.model.size)
    scores = measure(weights.parent.name, finder, tiles)
    dice = sum(one.ratios()["dice"] for one in scores) / len(scores)
    return {"dice": round(dice, 4), "pq": round(pq_of(scores), 4)}
