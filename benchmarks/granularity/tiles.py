"""What a trained Semantic-SAM makes of a click on annotated tiles, beside models of the SAM family."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.clicked_tiles import ClickedTile, clicked_tiles, iou_of, point_prompts
from wsi_pipeline.models.registry import build_segmenter
from wsi_pipeline.models.roles import Segmenter
from wsi_pipeline.models.sapnet.proposals import MaskProposals
from wsi_pipeline.models.semantic_sam.answers import GUESSES
from wsi_pipeline.models.semantic_sam.file import KIND
from wsi_pipeline.models.weights import sha256_of
from wsi_pipeline.workflow import ModelSettings

OTHERS = ("sam", "hq-sam")
SIDES = (12.0, 20.0, 32.0, 52.0, 88.0, 144.0)
"""Boxes around a click that the others are asked with, px; as many as there are answers."""

ZOOMS = {("nucleus",): 1.0, ("benign gland", "tumour region"): 0.5}
"""How much larger tiles of some classes are made: a patch holds a whole gland at half the size only."""


class Answered(NamedTuple):
    """What a model says of n clicks.

    Attributes:
        masks: (n, k, S, S) bool.
        surest: (n,) int64 the answer of the highest predicted quality.
    """

    masks: np.ndarray
    surest: np.ndarray


def clicked_objects(data: Path, weights: Path) -> dict[str, Any]:
    """IoU of answers with the objects of the split ``val`` that were clicked, by model and class.

    Args:
        data: folder with a manifest.
        weights: a Semantic-SAM that was trained on the split ``train``.

    Raises:
        DatasetError, WeightsError, WorkflowError: see ``open_tiles`` and ``build_segmenter``.
    """
    network = build_segmenter(ModelSettings(model=KIND, weights=str(weights)))
    assert isinstance(network, Segmenter)
    models = {KIND: _levels_of(network)} | {name: _boxes_of(name) for name in OTHERS}
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in models}
    classes = []
    tiles = (clicked_tiles(data, network.input_size, 1.0, names, zoom=zoom) for names, zoom in ZOOMS.items())
    for tile in chain.from_iterable(tiles):
        classes.append(tile.classes)
        for name, ask in models.items():
            masks, surest = ask(tile)
            iou = iou_of(masks, tile.objects[:, None])
            found[name].append((iou.max(axis=1), iou[np.arange(len(iou)), surest]))
    every = np.concatenate(classes)
    return {
        "file": weights.name,
        "sha256": sha256_of(weights),
        "clicks": {name: int((every == name).sum()) for name in sorted(set(every.tolist()))},
        "models": {name: _means(parts, every) for name, parts in found.items()},
    }


def _levels_of(network: Segmenter) -> Callable[[ClickedTile], Answered]:
    """Six levels of the network."""

    def ask(tile: ClickedTile) -> Answered:
        said = network.decode(network.encode(tile.pair), point_prompts(tile.points), guesses=True)
        masks = said.on_patch(network.input_size).reshape(-1, GUESSES, *tile.objects.shape[1:])
        return Answered(masks, said.iou.reshape(-1, GUESSES).argmax(axis=1))

    return ask


def _boxes_of(name: str) -> Callable[[ClickedTile], Answered]:
    """Answers of a shipped model to boxes of ``SIDES`` around the click."""
    model = build_segmenter(ModelSettings(model=name))
    assert isinstance(model, Segmenter)
    proposals = MaskProposals(model, SIDES, low_patch=False)

    def ask(tile: ClickedTile) -> Answered:
        said = proposals.propose(proposals.encode(tile.pair), 0, tile.points)
        return Answered(said.all_masks(), np.where(said.valid, said.scores, -1).argmax(axis=1))

    return ask


def _means(parts: list[tuple[np.ndarray, np.ndarray]], classes: np.ndarray) -> dict[str, dict[str, float]]:
    best, surest = (np.concatenate(some) for some in zip(*parts, strict=True))
    return {
        name: {"best": float(best[classes == name].mean()), "surest": float(surest[classes == name].mean())}
        for name in sorted(set(classes.tolist()))
    }
