"""How well a trained SAPNet chooses among what is proposed for a click on a nucleus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clicks.choosing import iou_of
from wsi_pipeline.models.registry import build_segmenter
from wsi_pipeline.models.roles import PairImages, PromptBatch
from wsi_pipeline.models.sapnet.build import build_proposals
from wsi_pipeline.models.sapnet.file import SapNetFacts
from wsi_pipeline.models.sapnet.selector import SapNetSelector
from wsi_pipeline.models.weights import sha256_of
from wsi_pipeline.training.data.augment import Augmentation, AugmentedPairs
from wsi_pipeline.training.data.clicks import Clicked, clicks_on
from wsi_pipeline.training.data.tiles import open_tiles
from wsi_pipeline.training.sources import VALIDATION, Joined
from wsi_pipeline.workflow import ModelSettings

CLASS = "nucleus"
CLICKS = 24
"""The most of a tile: each is asked about six times, which is what takes the time."""
_SEED = 0


def clicked_nuclei(data: Path, weights: Path) -> dict[str, Any]:
    """Mean IoU of the masks that are chosen for clicks on nuclei of the split ``val``, by way to choose.

    Args:
        data: folder with a manifest.
        weights: a SAPNet that was trained on the split ``train``.

    Raises:
        DatasetError, WeightsError: see ``open_tiles`` and ``build_selector``.
    """
    facts = SapNetFacts.read(weights)
    selector = build_segmenter(ModelSettings(model="sapnet-select", weights=str(weights)))
    proposals = build_proposals(facts)
    assert isinstance(selector, SapNetSelector)
    source = Joined([open_tiles(data)], classes=(CLASS,))
    plain = Augmentation.none(selector.input_size, facts.context_factor)
    clicked, whole = (AugmentedPairs(one, plain, _SEED) for one in (Clicked(source, _SEED), source))
    ious: list[np.ndarray] = []
    scores: list[np.ndarray] = []
    chosen: list[np.ndarray] = []
    for number in source.numbers(VALIDATION):
        sample, truth = clicked[number], whole[number].high.labels
        points, labels = clicks_on(sample.high)
        some = np.sort(np.random.default_rng(number).permutation(len(points))[:CLICKS])
        nuclei = truth == labels[some, None, None]
        low = None if sample.low is None else sample.low.image[None]
        pair = PairImages(sample.high.image[None], low, facts.context_factor)
        proposed = proposals.propose(proposals.encode(pair), 0, points[some])
        ious.append(iou_of(proposed.all_masks(), nuclei[:, None]))
        scores.append(np.where(proposed.valid, proposed.scores, -1))
        chosen.append(iou_of(_selected(selector, pair, points[some]), nuclei))
    iou, score = np.concatenate(ious), np.concatenate(scores)
    return {
        "file": weights.name,
        "sha256": sha256_of(weights),
        "tiles": len(ious),
        "nuclei": len(iou),
        "clicks": CLICKS,
        "chosen": float(np.concatenate(chosen).mean()),
        "sam": float(iou[np.arange(len(iou)), score.argmax(axis=1)].mean()),
        "each": iou.mean(axis=0).tolist(),
        "best": float(iou.max(axis=1).mean()),
    }


def _selected(selector: SapNetSelector, pair: PairImages, points: np.ndarray) -> np.ndarray:
    """(n, S, S) bool the masks chosen for clicks (n, 2)."""
    asked = PromptBatch(
        np.zeros(len(points), np.int64),
        points=points[:, None],
        point_labels=np.ones((len(points), 1), np.int64),
        classes=np.full(len(points), CLASS),
    )
    return selector.decode(selector.encode(pair), asked).on_patch(selector.input_size)
