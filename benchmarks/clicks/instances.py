"""An instance branch that learns from the masks that were chosen, and from the true ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.cell_scenes import CLASSES, CellScene
from benchmarks.clicked_tiles import iou_of
from benchmarks.clicks.choosing import FULL, PATCH, WAYS, fitted, pixels_of
from benchmarks.clicks.small_network import small_network
from wsi_pipeline.models.coarse_prompts import bounding_boxes
from wsi_pipeline.models.roles import objects_on_patch
from wsi_pipeline.models.sapnet.network import SapNet
from wsi_pipeline.models.sapnet.segmenter import instances_of
from wsi_pipeline.training.sapnet_loss import solo_losses

MATCH_IOU, MIN_SCORE, MOST = 0.5, 0.05, 100


def trained_branch(scenes: Sequence[CellScene], masks: Sequence[np.ndarray], seed: int, steps: int) -> SapNet:
    """A network whose instance branch learned masks (n, S, S) bool of each scene's cells."""
    network = small_network(WAYS[FULL], CLASSES, seed, instances=True)

    def losses(levels: list[Tensor], number: int) -> dict[str, Tensor]:
        kinds, learned = torch.from_numpy(scenes[number].kinds), masks[number]
        boxes = torch.from_numpy(bounding_boxes(learned))
        return solo_losses(network, levels, torch.zeros_like(kinds), kinds, boxes, torch.from_numpy(learned)[:, None])

    return fitted(network, scenes, losses, seed, steps)


def average_precision(network: SapNet, scenes: Sequence[CellScene]) -> float:
    """AP50: precision at each right object, the surest first, over all objects there are; a mean over the kinds."""
    found = [_judged(network, scene) for scene in scenes]
    scores, kinds, right = (np.concatenate(parts) for parts in zip(*found, strict=True))
    true = np.concatenate([scene.kinds for scene in scenes])
    return float(np.mean([_area(scores[kinds == one], right[kinds == one], (true == one).sum()) for one in (0, 1)]))


def _area(scores: np.ndarray, right: np.ndarray, there: int) -> float:
    hits = right[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].sum() / there)


@torch.no_grad()
def _judged(network: SapNet, scene: CellScene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, kinds and whether they are right (k,), of the objects found on a scene; a cell is found once."""
    (solos,) = network.predict(network.levels(pixels_of(scene)), PATCH, min_score=MIN_SCORE, max_objects=MOST)
    masks, scores, kinds = objects_on_patch(instances_of(solos, PATCH[0]), PATCH[0])
    right, taken = np.zeros(len(scores), bool), np.zeros(len(scene.kinds), bool)
    for row in range(len(scores)):
        iou = iou_of(masks[row], scene.cells) * (scene.kinds == kinds[row] - 1) * ~taken
        if iou.max() >= MATCH_IOU:
            right[row] = taken[iou.argmax()] = True
    return scores, kinds - 1, right
