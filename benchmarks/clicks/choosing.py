"""Who chooses best among six proposals for a click on a drawn cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from benchmarks.cell_scenes import CLASSES, LOOKS, SIZE, CellScene, draw_cells
from benchmarks.clicked_tiles import iou_of
from benchmarks.clicks.small_network import small_network
from wsi_pipeline.models.coarse_prompts import bounding_boxes
from wsi_pipeline.models.preprocess import to_tensor
from wsi_pipeline.models.sapnet.network import SapNet
from wsi_pipeline.models.sapnet.refinement import nearest_proposal
from wsi_pipeline.models.sapnet.selection import Clicks
from wsi_pipeline.models.sapnet.settings import SelectorSettings
from wsi_pipeline.training.sapnet_loss import sapnet_losses

FULL, FIRST, MIL = "full", "first choice", "plain MIL"
NO_PDG, NO_NEGATIVES, NO_BMS = "without PDG", "without negatives", "without BMS"
PUBLISHED = "as published"
_SETTINGS = SelectorSettings(negatives=100, part_limit=8.0**2)
WAYS: dict[str, SelectorSettings] = {
    FULL: _SETTINGS,
    PUBLISHED: _SETTINGS.model_copy(update={"evidence": None, "negative_sizes": "image"}),
    MIL: _SETTINGS.model_copy(update={"refine": False, "guidance": "none", "mining": False, "evidence": None}),
    NO_PDG: _SETTINGS.model_copy(update={"guidance": "none"}),
    NO_NEGATIVES: _SETTINGS.model_copy(update={"negatives": 0, "part_limit": float("inf")}),
    NO_BMS: _SETTINGS.model_copy(update={"mining": False}),
}
"""Parts of the method that are used; ``FIRST`` is what the full one chooses before it looks again. ``PUBLISHED`` knows
nothing of SAM's score, and its random boxes are of any size."""
Losses = Callable[[list[Tensor], int], dict[str, Tensor]]
RATE = 1e-3
FIRST_TEST = 700_000
"""Seed of the first scene to measure on."""
FIRST_OF_SEED = 1000
"""Scenes to learn from begin at so many times the seed."""
PATCH = (SIZE, SIZE)


@cache
def scene_of(look: str, seed: int) -> CellScene:
    """A scene, drawn once."""
    return draw_cells(seed, LOOKS[look])


def scenes_to_learn(look: str, seed: int, count: int) -> list[CellScene]:
    """Others for each seed."""
    return [scene_of(look, FIRST_OF_SEED * seed + number) for number in range(count)]


def scenes_to_measure(look: str, count: int) -> list[CellScene]:
    """The same for all."""
    return [scene_of(look, FIRST_TEST + number) for number in range(count)]


def clicks_of(scene: CellScene) -> Clicks:
    """The clicks of a scene as a network takes them."""
    boxes = bounding_boxes(scene.proposals.reshape(-1, *PATCH)).reshape(*scene.proposals.shape[:2], 4)
    index = torch.zeros(len(scene.points), dtype=torch.int64)
    points, kinds = torch.from_numpy(scene.points), torch.from_numpy(scene.kinds)
    quality = torch.from_numpy(scene.sam.astype(np.float32))
    return Clicks(points, kinds, index, torch.from_numpy(boxes), quality=quality)


def pixels_of(scene: CellScene) -> Tensor:
    """(1, 3, S, S) float32 0..255."""
    return to_tensor(scene.image[None], torch.device("cpu"))


def order(count: int, steps: int, seed: int) -> Iterator[int]:
    """Numbers of the scenes of so many steps."""
    random = np.random.default_rng(seed)
    numbers = np.concatenate([random.permutation(count) for _ in range(-(-steps // count))])
    yield from numbers[:steps].tolist()


def trained_selector(scenes: Sequence[CellScene], way: SelectorSettings, seed: int, steps: int) -> SapNet:
    """A network that learned to choose."""
    network = small_network(way, CLASSES, seed, instances=False)
    generator = torch.Generator().manual_seed(seed)

    def losses(levels: list[Tensor], number: int) -> dict[str, Tensor]:
        return sapnet_losses(network, levels, clicks_of(scenes[number]), None, PATCH, generator=generator)

    return fitted(network, scenes, losses, seed, steps)


def fitted(network: SapNet, scenes: Sequence[CellScene], losses: Losses, seed: int, steps: int) -> SapNet:
    """The network after so many steps, one scene each; ``losses`` are those of a scene's maps and of its number."""
    network.train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE)
    for number in order(len(scenes), steps, seed):
        found = losses(network.levels(pixels_of(scenes[number])), number)
        optimiser.zero_grad()
        torch.stack(list(found.values())).sum().backward()
        optimiser.step()
    return network.eval()


@torch.no_grad()
def chosen_masks(network: SapNet, scene: CellScene) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the proposals that a network chooses at first, and in the end."""
    clicks = clicks_of(scene)
    chosen = network.select(network.levels(pixels_of(scene)), clicks, PATCH)
    return nearest_proposal(chosen.first.box, clicks).numpy(), chosen.mask.numpy()


def mean_iou(scenes: Sequence[CellScene], chosen: Sequence[np.ndarray]) -> float:
    """Of the chosen proposals with the whole cells, over all clicks."""
    return float(np.concatenate([ious(one, which) for one, which in zip(scenes, chosen, strict=True)]).mean())


def ious(scene: CellScene, chosen: np.ndarray) -> np.ndarray:
    """(n,) of the chosen proposals with the whole cells."""
    return iou_of(scene.proposals[np.arange(len(chosen)), chosen], scene.cells)


def of_sam(scenes: Sequence[CellScene]) -> list[np.ndarray]:
    """(n,) the proposals that SAM's own score chooses, for each scene."""
    return [scene.sam.argmax(axis=1) for scene in scenes]
