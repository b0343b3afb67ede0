"""The whole benchmark: from scenes and tiles to the dictionary behind the page."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cell_scenes import CLASSES, CellScene
from benchmarks.clicks.choosing import (
    FIRST,
    FULL,
    MIL,
    WAYS,
    chosen_masks,
    mean_iou,
    of_sam,
    scenes_to_learn,
    scenes_to_measure,
    trained_selector,
)
from benchmarks.clicks.instances import average_precision, trained_branch
from benchmarks.clicks.nuclei import clicked_nuclei
from benchmarks.clicks.small_network import small_network
from wsi_pipeline.models.sapnet.network import SapNet
from wsi_pipeline.models.tensor_store import Tensors, TensorStore

ACCEPTED = "S1c"
"""The look on which parts of the method are taken out."""
CHOSEN, TRUE = "chosen masks", "true masks"
SAM_TOP, BEST = "SAM's own score", "best of the six"


@dataclass(frozen=True, slots=True)
class Options:
    """How much of it.

    Attributes:
        folder: keeps trained networks.
        data, weights: annotated tiles and a SAPNet that was trained on them; None for drawn cells alone.
        seeds: of the networks and of the scenes to learn from.
        scenes, test: to learn from and to measure on.
        steps, branch_steps: of training who chooses, and the instance branch.
    """

    folder: Path
    data: Path | None = None
    weights: Path | None = None
    seeds: Sequence[int] = (11, 12, 13)
    scenes: int = 60
    test: int = 20
    steps: int = 400
    branch_steps: int = 600


def run(options: Options) -> dict[str, Any]:
    """All numbers, for the page.

    Raises:
        DatasetError, WeightsError: of the tiles and of what was trained on them.
    """
    cells, nuclei = drawn_cells(options), None
    if options.data is not None and options.weights is not None:
        nuclei = clicked_nuclei(options.data, options.weights)
    return {"cells": cells, "nuclei": nuclei, "passed": passed(cells, nuclei)}


def drawn_cells(options: Options) -> dict[str, Any]:
    """All numbers of the drawn cells: IoU by look and way, one for each seed, and AP50 by what was learned from."""
    looks: dict[str, dict[str, list[float]]] = {}
    for look in (ACCEPTED, "S1a", "S1b"):
        ways = tuple(WAYS) if look == ACCEPTED else (FULL, MIL)
        test = scenes_to_measure(look, options.test)
        looks[look] = {way: [] for way in (FULL, FIRST, *ways[1:])}
        for seed in options.seeds:
            for way in ways:
                first, last = zip(
                    *(chosen_masks(_selector(look, way, seed, options), one) for one in test), strict=True
                )
                looks[look][way].append(mean_iou(test, last))
                if way == FULL:
                    looks[look][FIRST].append(mean_iou(test, first))
                say(f"{look}, {way}, seed {seed}: {looks[look][way][-1]:.3f}")
        looks[look][SAM_TOP] = [mean_iou(test, of_sam(test))]
        looks[look][BEST] = [mean_iou(test, [np.ones(len(one.kinds), np.int64) for one in test])]
    return {
        "seeds": list(options.seeds),
        "scenes": options.scenes,
        "test": options.test,
        "steps": options.steps,
        "branch_steps": options.branch_steps,
        "looks": looks,
        "branch": _branches(options),
    }


def _branches(options: Options) -> dict[str, list[float]]:
    """AP50 of instance branches, one for each seed."""
    found: dict[str, list[float]] = {CHOSEN: [], TRUE: []}
    test = scenes_to_measure(ACCEPTED, options.test)
    for seed in options.seeds:
        scenes = scenes_to_learn(ACCEPTED, seed, options.scenes)
        selector = _selector(ACCEPTED, FULL, seed, options)
        masks = {TRUE: [one.cells for one in scenes], CHOSEN: [_chosen(selector, one) for one in scenes]}
        for name, learned in masks.items():
            found[name].append(average_precision(_branch(scenes, learned, name, seed, options), test))
            say(f"branch on {name}, seed {seed}: {found[name][-1]:.3f}")
    return found


def _chosen(selector: SapNet, scene: CellScene) -> np.ndarray:
    """(n, S, S) bool what a network takes for the cells of a scene."""
    _, chosen = chosen_masks(selector, scene)
    return scene.proposals[np.arange(len(chosen)), chosen]


def _selector(look: str, way: str, seed: int, options: Options) -> SapNet:
    """Trained, or found where it is kept."""

    def train() -> Tensors:
        scenes = scenes_to_learn(look, seed, options.scenes)
        return trained_selector(scenes, WAYS[way], seed, options.steps).state_dict()

    network = small_network(WAYS[way], CLASSES, seed, instances=False)
    return _kept(network, (look, WAYS[way], seed, options.scenes, options.steps), train, options)


def _branch(scenes: Sequence[CellScene], masks: Sequence[np.ndarray], name: str, seed: int, options: Options) -> SapNet:
    """Trained, or found where it is kept."""
    network = small_network(WAYS[FULL], CLASSES, seed, instances=True)
    learned = hashlib.sha256(b"".join(np.packbits(one).tobytes() for one in masks)).hexdigest()
    facts = (name, learned, network.settings, seed, options.branch_steps)
    return _kept(
        network, facts, lambda: trained_branch(scenes, masks, seed, options.branch_steps).state_dict(), options
    )


def _kept(network: SapNet, facts: tuple[Any, ...], train: Any, options: Options) -> SapNet:
    shapes = [(name, tuple(value.shape)) for name, value in network.state_dict().items()]
    key = hashlib.sha256(repr((facts, shapes)).encode()).hexdigest()
    network.load_state_dict(TensorStore(options.folder).get(key, train))
    return network.eval()


def passed(cells: Mapping[str, Any], nuclei: Mapping[str, Any] | None) -> dict[str, bool]:
    """Whether the numbers reach what they were expected to."""
    found, branch = cells["looks"][ACCEPTED], cells["branch"]
    full, sam, mil = (np.mean(found[name]) for name in (FULL, SAM_TOP, MIL))
    reached = {
        "above SAM": full - sam >= 0.25,
        "above plain MIL": full - mil >= 0.25,
        "every seed above SAM": min(found[FULL]) >= sam + 0.10,
        "plumbing": np.mean(cells["looks"]["S1a"][FULL]) >= 0.95,
        "branch": np.mean(branch[CHOSEN]) >= 0.8 * np.mean(branch[TRUE]),
    }
    if nuclei is not None:
        reached["nuclei"] = nuclei["chosen"] - nuclei["sam"] >= 0.03
    return {name: bool(yes) for name, yes in reached.items()}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
