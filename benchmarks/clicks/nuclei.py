"""Who chooses best among what LiteMedSAM proposes for a click on a nucleus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.clicks.choosing import FULL, MIL, WAYS
from wsi_pipeline.models.builders import load_sam
from wsi_pipeline.models.resolve import sam_plan
from wsi_pipeline.models.sapnet.build import build_proposals
from wsi_pipeline.models.sapnet.network import SapNet
from wsi_pipeline.models.sapnet.proposals import Proposals
from wsi_pipeline.models.sapnet.selection import Clicks
from wsi_pipeline.models.tensor_store import TensorStore
from wsi_pipeline.training.checkpoint import put
from wsi_pipeline.training.data.clicks import Clicked, clicks_on
from wsi_pipeline.training.data.tiles import open_tiles
from wsi_pipeline.training.epochs import Patches
from wsi_pipeline.training.features import FrozenFeatures
from wsi_pipeline.training.loop import Training
from wsi_pipeline.training.sapnet_batches import KeptProposals
from wsi_pipeline.training.sapnet_head import SapNetHead
from wsi_pipeline.training.sapnet_recipe import SapNetRecipe
from wsi_pipeline.training.sources import TRAIN, VALIDATION, Joined
from wsi_pipeline.training.systems import load_recipe
from wsi_pipeline.workflow import ModelSettings

BACKBONE, CLASS = "lite-medsam", "nucleus"
CLICKS = 24
"""The most of a patch: each is asked about six times, which is what takes the time."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch of a tile with n clicks.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        points: (n, 2) float32 (x, y) px.
        proposals: for them.
        iou: (n, M) of the proposals with the outlined nuclei.
    """

    image: np.ndarray
    points: np.ndarray
    proposals: Proposals
    iou: np.ndarray


def clicked_nuclei(data: Path, folder: Path, embeddings: Path, seeds: Sequence[int], epochs: int) -> dict[str, Any]:
    """Mean IoU of the masks that ways to choose, trained on clicks in the split ``train``, take for nuclei of ``val``.

    Args:
        data: folder with a manifest.
        folder: keeps the networks.
        embeddings: keeps embeddings and proposals.
        seeds: of the networks.
        epochs: of training.

    Raises:
        DatasetError, TrainingError: see ``open_tiles`` and ``Training``.
    """
    source = Joined([open_tiles(data)], judged=False, classes=(CLASS,))
    patches = _to_measure(source, _recipe(FULL, 0, epochs), embeddings)
    iou = np.concatenate([one.iou for one in patches])
    sam = np.concatenate([np.where(one.proposals.valid, one.proposals.scores, -1).argmax(axis=1) for one in patches])
    features = FrozenFeatures.of(
        load_sam(sam_plan(ModelSettings(model="sam", backbone=BACKBONE), section="recipe")),
        embeddings,
        torch.device("cpu"),
    )
    found: dict[str, list[float]] = {}
    for way in (FULL, MIL):
        found[way] = []
        for seed in seeds:
            recipe = _recipe(way, seed, epochs)
            network = _trained(recipe, source, folder / f"{way.replace(' ', '-')}-{seed}", embeddings)
            chosen = np.concatenate([_chosen(network, features, one) for one in patches])
            found[way].append(_mean(iou, chosen))
    return {
        "tiles": {split: len(source.numbers(split)) for split in (TRAIN, VALIDATION)},
        "nuclei": len(iou),
        "epochs": epochs,
        "ways": found,
        "sam": _mean(iou, sam),
        "best": float(iou.max(axis=1).mean()),
    }


def _recipe(way: str, seed: int, epochs: int) -> SapNetRecipe:
    """The shipped one for this class, without the instance branch; a way takes parts out of it."""
    parts = ("refine", "guidance", "mining") if way == MIL else ()
    changes: dict[str, Any] = {f"selector.{part}": getattr(WAYS[MIL], part) for part in parts}
    changes |= {
        "backbone": BACKBONE,
        "classes": [CLASS],
        "instances": False,
        "points": CLICKS,
        "variants": 1,
        "epochs": epochs,
        "judged": False,
        "seed": seed,
    }
    recipe = load_recipe("sapnet", overrides=changes)
    assert isinstance(recipe, SapNetRecipe)
    return recipe


def _to_measure(source: Joined, recipe: SapNetRecipe, embeddings: Path) -> list[Patch]:
    """The middles of the tiles to measure on, with some clicks and what is proposed for them."""
    kept = KeptProposals(
        build_proposals(recipe.facts), TensorStore(embeddings / "proposals"), repr(recipe.proposer.model_dump())
    )
    clicked, whole = Patches(recipe, Clicked(source, recipe.seed)), Patches(recipe, source)
    patches = []
    for number in source.numbers(VALIDATION):
        sample, truth = clicked.plain(number), whole.plain(number).high.labels
        points, labels = clicks_on(sample.high)
        some = np.sort(np.random.default_rng(number).permutation(len(points))[:CLICKS])
        proposals = kept.of(sample, points[some])
        rows = np.flatnonzero(proposals.valid.any(axis=1))
        nuclei = truth == labels[some][rows, None, None]
        masks = proposals.take(rows).all_masks()
        both, either = masks & nuclei[:, None], masks | nuclei[:, None]
        iou = both.sum(axis=(2, 3)) / either.sum(axis=(2, 3))
        patches.append(Patch(sample.high.image, points[some][rows], proposals.take(rows), iou))
    return patches


def _trained(recipe: SapNetRecipe, source: Joined, folder: Path, embeddings: Path) -> SapNet:
    """What was trained in the folder before is not trained again."""
    training = Training(recipe, source, folder, embeddings)
    state = training.run()
    head = training.head
    assert isinstance(head, SapNetHead)
    put(head.trained, state.best)
    return head.module.eval()


@torch.no_grad()
def _chosen(network: SapNet, features: FrozenFeatures, patch: Patch) -> np.ndarray:
    """(n,) the proposals that a network chooses."""
    none = torch.zeros(len(patch.points), dtype=torch.int64)
    boxes, valid = (torch.from_numpy(part) for part in (patch.proposals.boxes, patch.proposals.valid))
    clicks = Clicks(torch.from_numpy(patch.points), none, none, boxes, valid)
    levels = network.levels(features(patch.image[None]))
    return network.select(levels, clicks, patch.image.shape[:2]).mask.numpy()


def _mean(iou: np.ndarray, chosen: np.ndarray) -> float:
    return float(iou[np.arange(len(iou)), chosen].mean())
