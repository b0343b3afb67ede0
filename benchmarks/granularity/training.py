"""Networks of the benchmark, which a folder remembers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.nested_scenes import OBJECTS, PARTS
from wsi_pipeline.models.semantic_sam.file import SemanticFacts, load_semantic_sam
from wsi_pipeline.models.semantic_sam.mini import MiniSemanticSam
from wsi_pipeline.training.loop import Training
from wsi_pipeline.training.result import write_result
from wsi_pipeline.training.semantic_sam_recipe import SemanticRecipe
from wsi_pipeline.training.sources import Joined
from wsi_pipeline.training.systems import load_recipe

MANY, BY_SIZE, ONE = MATCHINGS = ("many-to-many", "by-size", "many-to-one")


class Trained(NamedTuple):
    """A network as its file has it.

    Attributes:
        network: in evaluation mode.
        levels: numbers of its answers, the coarsest first.
        steps: that were taken.
        minutes: that they took.
    """

    network: MiniSemanticSam
    levels: tuple[int, ...]
    steps: int
    minutes: float


def scene_recipe(matching: str, seed: int, epochs: int, changes: dict[str, Any]) -> SemanticRecipe:
    """The shipped recipe for drawn scenes: clicks alone, nearly one scale, and the names that the scenes have."""
    for_scenes: dict[str, Any] = {
        "matching": matching,
        "seed": seed,
        "epochs": epochs,
        "boxes": 0.0,
        "zoom": (0.9, 1.1),
        "variants": 1,
        "min_object": 64,
        "judged": False,
        "network.objects": OBJECTS,
        "network.parts": PARTS,
        "optimiser.decay_after": max(1, epochs * 3 // 5),
    }
    recipe = load_recipe("semantic-sam", overrides=for_scenes | changes)
    assert isinstance(recipe, SemanticRecipe)
    return recipe


def trained(recipe: SemanticRecipe, source: Joined, folder: Path, embeddings: Path) -> Trained:
    """A network trained by a recipe; what was trained in the folder before is not trained again.

    Raises:
        TrainingError: the folder is of another run.
        WeightsError, OutputError: backbone or folder cannot be used.
    """
    training = Training(recipe, source, folder, embeddings)
    state = training.run()
    path = write_result(training, {"drawn scenes": source}, folder)
    minutes = sum(row["seconds"] for row in state.history) / 60
    return Trained(load_semantic_sam(path), SemanticFacts.read(path).levels, state.updates, minutes)
