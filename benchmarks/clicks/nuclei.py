"""How well a trained SAPNet chooses among what is proposed for a click on a nucleus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.clicked_tiles import ClickedTile, clicked_tiles, iou_of, point_prompts
from wsi_pipeline.evaluation.labels import Labels
from wsi_pipeline.evaluation.metrics import Counts, ratios, score
from wsi_pipeline.models.registry import build_segmenter
from wsi_pipeline.models.roles import Instances, InstanceSegmenter, objects_on_patch
from wsi_pipeline.models.sapnet.build import build_proposals
from wsi_pipeline.models.sapnet.file import SapNetFacts
from wsi_pipeline.models.sapnet.guidance import point_distance_guidance
from wsi_pipeline.models.sapnet.proposals import MaskProposals, Proposals
from wsi_pipeline.models.sapnet.selector import SapNetSelector
from wsi_pipeline.models.weights import sha256_of
from wsi_pipeline.training.sapnet_head import MIN_SCORE, MOST
from wsi_pipeline.workflow import ModelSettings

CLASS = "nucleus"
BRANCH, OUTLINED = "sapnet, from clicks", "lora-sam, from outlines"
MPP = 0.25
"""What px are taken to measure, µm; the data sets do not all say."""


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
    tiles = list(clicked_tiles(data, selector.input_size, facts.context_factor, (CLASS,)))
    found = [_proposed(proposals, tile) | {"chosen": iou_of(_selected(selector, tile), tile.objects)} for tile in tiles]
    means = {name: np.concatenate([one[name] for one in found]).mean(axis=0) for name in found[0]}
    return {
        "file": weights.name,
        "sha256": sha256_of(weights),
        "tiles": len(found),
        "nuclei": sum(len(one["chosen"]) for one in found),
        "sides": list(facts.proposer.sides),
        "low_patch": facts.proposer.low_patch,
        **{name: value.tolist() for name, value in means.items()},
        "without": {
            name: _found_alone(settings, tiles)
            for name, settings in (
                (BRANCH, ModelSettings(model="sapnet", weights=str(weights))),
                (OUTLINED, ModelSettings(model="lora-sam")),
            )
        },
    }


def _found_alone(settings: ModelSettings, tiles: Sequence[ClickedTile]) -> dict[str, float]:
    """F1 at IoU 0.5 and panoptic quality of what a model finds without clicks, over all nuclei."""
    finder = build_segmenter(settings)
    assert isinstance(finder, InstanceSegmenter)
    counts = []
    for tile in tiles:
        (groups,) = finder.find(tile.pair, mpp=MPP, min_score=MIN_SCORE, max_objects=MOST)
        counts.append(score(Labels.of(tile.labels), Labels.of(_painted(groups, tile.labels.shape[0]))).counts)
    found = ratios(Counts(*np.sum(np.array(counts), axis=0)))
    return {"f1": float(found["f1"]), "pq": float(found["pq"])}


def _painted(groups: Sequence[Instances], size: int) -> np.ndarray:
    """(S, S) int32 objects, the surest on top."""
    labels = np.zeros((size, size), np.int32)
    masks, _, _ = objects_on_patch(groups, size)
    for number, mask in enumerate(masks[::-1], start=1):
        labels[mask] = number
    return labels


def _proposed(proposals: MaskProposals, tile: ClickedTile) -> dict[str, np.ndarray]:
    """IoU (n,) of what is chosen without training, and (n, M) of all proposals."""
    proposed = proposals.propose(proposals.encode(tile.pair), 0, tile.points)
    iou = iou_of(proposed.all_masks(), tile.objects[:, None])
    score = np.where(proposed.valid, proposed.scores, -1)

    def by(scores: np.ndarray) -> np.ndarray:
        taken: np.ndarray = iou[np.arange(len(iou)), scores.argmax(axis=1)]
        return taken

    guided = np.where(proposed.valid, proposed.scores * _guidance(proposed, tile), -1)
    return {"sam": by(score), "guided": by(guided), "best": iou.max(axis=1), "each": iou}


def _guidance(proposed: Proposals, tile: ClickedTile) -> np.ndarray:
    """(n, M) S^dis."""
    points, boxes = torch.from_numpy(tile.points), torch.from_numpy(proposed.boxes)
    same = torch.zeros(len(points), dtype=torch.int64)
    return point_distance_guidance(points, same, same, boxes).numpy()


def _selected(selector: SapNetSelector, tile: ClickedTile) -> np.ndarray:
    """(n, S, S) bool the masks chosen for clicks."""
    asked = point_prompts(tile.points, np.full(len(tile.points), CLASS))
    return selector.decode(selector.encode(tile.pair), asked).on_patch(selector.input_size)
