"""Networks of the benchmark: recipes, and training that a folder remembers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.nested_scenes import OBJECTS, PARTS
from wsi_pipeline.training.checkpoint import put
from wsi_pipeline.training.loop import Training
from wsi_pipeline.training.semantic_sam_head import SemanticHead
from wsi_pipeline.training.semantic_sam_recipe import SemanticRecipe
from wsi_pipeline.training.sources import Joined
from wsi_pipeline.training.systems import load_recipe

MANY, ONE = MATCHINGS = ("many-to-many", "many-to-one")


class Trained(NamedTuple):
    """A network.

    Attributes:
        head: with the weights of the result.
        steps: that were taken.
        minutes: that they took.
    """

    head: SemanticHead
    steps: int
    minutes: float


def scene_recipe(matching: str, seed: int, epochs: int) -> SemanticRecipe:
    """The shipped recipe for drawn scenes: clicks alone, one scale, and the names that the scenes have."""
    changes: dict[str, Any] = {
        "matching": matching,
        "seed": seed,
        "epochs": epochs,
        "boxes": 0.0,
        "zoom": (0.8, 1.25),
        "variants": 3,
        "min_object": 24,
        "judged": False,
        "network.objects": OBJECTS,
        "network.parts": PARTS,
        "optimiser.decay_after": max(1, epochs * 2 // 5),
    }
    return semantic_recipe(changes)


def semantic_recipe(changes: dict[str, Any]) -> SemanticRecipe:
    recipe = load_recipe("semantic-sam", overrides=changes)
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
    head = training.head
    assert isinstance(head, SemanticHead)
    put(head.trained, state.best)
    head.module.eval()
    minutes = sum(row["seconds"] for row in state.history) / 60
    return Trained(head, state.updates, minutes)
