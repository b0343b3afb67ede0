"""Who names objects how well: the region head, simpler ways with the same encoder, and ways that must not be enough."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from benchmarks.naming.objects import Objects
from wsi_pipeline.models.text import class_scores
from wsi_pipeline.training.checkpoint import put
from wsi_pipeline.training.data.samples import SampleSource
from wsi_pipeline.training.loop import Training
from wsi_pipeline.training.ov_sam_head import OvSamHead
from wsi_pipeline.training.progress import Silence
from wsi_pipeline.training.recipe import OvSamRecipe
from wsi_pipeline.training.sources import Joined

DRAWS = 1000
"""Of groups, for intervals."""


def trained_head(recipe: OvSamRecipe, source: SampleSource, embeddings: Path, output: Path) -> OvSamHead:
    """The region head as the recipe trains it, after its last epoch."""
    samples = Joined([source], judged=False, classes=recipe.classes, seed=recipe.seed)
    training = Training(recipe, samples, output, embeddings, reporter=Silence())
    training.run()
    head = training.head
    assert isinstance(head, OvSamHead)
    put(head.trained, training.state.best)
    head.module.eval()
    return head


@torch.inference_mode()
def scores_of(head: OvSamHead, objects: Objects, words: Tensor | None = None) -> np.ndarray:
    """(N, K) logits for the head's own classes, or for words (K, P, D)."""
    if words is None:
        return head.logits(objects.features).numpy()
    return class_scores(head.module(objects.features), words, float(head.module.scale)).numpy()


def by_nearest_mean(seen: np.ndarray, names: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Names (M,) by the cosine with each class's mean; channels are brought to one scale before."""
    scaler = StandardScaler().fit(seen)
    seen, asked = scaler.transform(seen), scaler.transform(asked)
    kinds = np.unique(names)
    means = np.stack([seen[names == name].mean(axis=0) for name in kinds])
    cosines = asked @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    said: np.ndarray = kinds[cosines.argmax(axis=1)]
    return said


def by_linear_model(seen: np.ndarray, names: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Names (M,) by logistic regression in which every class counts the same."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000))
    said: np.ndarray = model.fit(seen, names).predict(asked)
    return said


def without_head(seen: Objects, asked: Objects) -> dict[str, np.ndarray]:
    """What is said without a region head, by way."""
    return {
        "feature-crop, nearest class mean": by_nearest_mean(seen.means, seen.names, asked.means),
        "feature-crop, linear model": by_linear_model(seen.means, seen.names, asked.means),
        "colour under the mask": by_linear_model(seen.colours, seen.names, asked.colours),
        "size of mask and box": by_linear_model(seen.sizes, seen.names, asked.sizes),
        "colour of the whole patch": by_linear_model(seen.tiles, seen.names, asked.tiles),
    }


def judged(said: np.ndarray, objects: Objects) -> dict[str, Any]:
    """Accuracy, balanced accuracy with its 95 % interval over groups, and recall and number of each class."""
    right = said == objects.names
    groups = np.unique(objects.groups)
    rows = [np.flatnonzero(objects.groups == group) for group in groups]
    rng = np.random.default_rng(0)
    drawn = [np.concatenate([rows[n] for n in rng.integers(len(rows), size=len(rows))]) for _ in range(DRAWS)]
    around = np.quantile([_balanced(right[draw], objects.names[draw]) for draw in drawn], [0.025, 0.975])
    recall = {name: float(right[objects.names == name].mean()) for name in np.unique(objects.names).tolist()}
    return {
        "accuracy": float(right.mean()),
        "balanced": [_balanced(right, objects.names), *around.tolist()],
        "recall": recall,
    }


def held_out(scores: np.ndarray, names: Sequence[str], name: str, objects: Objects) -> dict[str, float]:
    """How a class that was never shown is told from the others by its words.

    Args:
        scores: (N, K) logits.
        names: the K classes.
        name: the one that was held out.
        objects: those that were asked about.
    """
    said, mine = np.array(names)[scores.argmax(axis=1)], objects.names == name
    own = scores[:, list(names).index(name)] - np.delete(scores, list(names).index(name), axis=1).max(axis=1)
    return {
        "balanced": _balanced(said == objects.names, objects.names),
        "recall": float((said[mine] == name).mean()),
        "false": float((said[~mine] == name).mean()),
        "auroc": float(roc_auc_score(mine, own)),
    }


def _balanced(right: np.ndarray, names: np.ndarray) -> float:
    return float(np.mean([right[names == name].mean() for name in np.unique(names)]))
