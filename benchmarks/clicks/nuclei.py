"""How well a trained SAPNet chooses among what is proposed for a click on a nucleus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.clicked_tiles import ClickedTile, clicked_tiles, iou_of, point_prompts
from wsi_pipeline.models.registry import build_segmenter
from wsi_pipeline.models.sapnet.build import build_proposals
from wsi_pipeline.models.sapnet.file import SapNetFacts
from wsi_pipeline.models.sapnet.guidance import point_distance_guidance
from wsi_pipeline.models.sapnet.proposals import MaskProposals, Proposals
from wsi_pipeline.models.sapnet.selector import SapNetSelector
from wsi_pipeline.models.weights import sha256_of
from wsi_pipeline.workflow import ModelSettings

CLASS = "nucleus"


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
    found = [
        _proposed(proposals, tile) | {"chosen": iou_of(_selected(selector, tile), tile.objects)}
        for tile in clicked_tiles(data, selector.input_size, facts.context_factor, (CLASS,))
    ]
    means = {name: np.concatenate([one[name] for one in found]).mean(axis=0) for name in found[0]}
    return {
        "file": weights.name,
        "sha256": sha256_of(weights),
        "tiles": len(found),
        "nuclei": sum(len(one["chosen"]) for one in found),
        "sides": list(facts.proposer.sides),
        "low_patch": facts.proposer.low_patch,
        **{name: value.tolist() for name, value in means.items()},
    }


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
