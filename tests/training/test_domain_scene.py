"""Five made-up tiles teach the domain decoder, on the real frozen encoder, what no colour threshold can tell apart.

Round nuclei are wanted; spindle-shaped ones of overlapping darkness are not, and every tile has another stain, blur and
brightness.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from wsi_pipeline.training.data.samples import Picture, Sample, SampleInfo
from wsi_pipeline.training.domain_batches import DomainBatch, DomainBatches
from wsi_pipeline.training.domain_head import DomainHead
from wsi_pipeline.training.sources import Joined
from wsi_pipeline.training.systems import load_recipe

SIDE, TAUGHT, TESTED, STEPS = 256, 5, 5, 45
HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])


def tile(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(S, S, 3) uint8 and (S, S) int32 labels of the round nuclei."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    blue, labels = np.full((SIDE, SIDE), 0.05), np.zeros((SIDE, SIDE), np.int32)
    taken = np.zeros((SIDE, SIDE), bool)
    for number in range(int(random.integers(22, 41))):
        cx, cy, angle, strength = (
            *random.uniform(12, SIDE - 12, 2),
            random.uniform(0, np.pi),
            random.uniform(0.55, 1.25),
        )
        is_round = number % 2 == 0
        a, b = random.uniform(8, 12, 2) if is_round else (random.uniform(14, 20), random.uniform(3, 5))
        across = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        down = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        inside = (across / a) ** 2 + (down / b) ** 2 < 1
        if (taken & ndimage.binary_dilation(inside, iterations=2)).any():
            continue
        taken |= inside
        blue[inside] += 0.7 * strength
        labels[inside & is_round] = number + 1
    density = blue[..., None] * HAEMATOXYLIN + 0.25 * random.uniform(0.6, 1.6) * EOSIN
    image = np.exp(-density) * random.uniform(0.7, 1.35, 3) ** 0.5 + random.normal(0, 0.02, (SIDE, SIDE, 3))
    image = ndimage.gaussian_filter(image, (*[random.uniform(0.6, 1.8)] * 2, 0))
    return (np.clip(image, 0, 1) * 255).astype(np.uint8), labels


class Scene:
    """The tiles; the first ``TAUGHT`` are for training."""

    def __init__(self) -> None:
        self.infos = tuple(
            SampleInfo(f"t{n}", f"p{n}", "train" if n < TAUGHT else "val", ("nucleus",), "CC0-1.0")
            for n in range(TAUGHT + TESTED)
        )

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, index: int) -> Sample:
        image, labels = tile(index)
        picture = Picture(image, labels, np.ones(labels.shape, bool))
        return Sample(self.infos[index], picture, ("nucleus",) * int(labels.max()))


def dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (predicted & truth).sum() / max(1, predicted.sum() + truth.sum()))


def by_colour(numbers: range, threshold: float) -> float:
    """Mean Dice of a threshold on red."""
    tiles = [tile(number) for number in numbers]
    return float(np.mean([dice(image[..., 0] < threshold, labels > 0) for image, labels in tiles]))


@pytest.mark.slow
def test_five_tiles_beat_the_best_colour_threshold(tmp_path: Path) -> None:
    recipe = load_recipe("domain-decoder", None, {"low_patch": False})
    head = DomainHead(recipe, torch.device("cpu"))
    batches: DomainBatches = head.batches(Joined([Scene()]), tmp_path)
    shown: list[DomainBatch] = [part for number in range(TAUGHT + TESTED) for part in batches.validation(number)]
    optimiser = torch.optim.AdamW(head.trained.values(), lr=recipe.optimiser.rate, weight_decay=1e-4)
    head.begin(1)
    for step in range(STEPS):
        optimiser.zero_grad()
        head.loss(shown[step % TAUGHT]._replace(seed=step)).backward()
        optimiser.step()
    head.module.eval()
    with torch.no_grad():
        scores = [float(head.scores(part)[0, 0]) for part in shown[TAUGHT:]]
    best = max(np.arange(60, 220, 8), key=lambda threshold: by_colour(range(TAUGHT), threshold))
    colour = by_colour(range(TAUGHT, TAUGHT + TESTED), best)
    print(f"Dice {np.mean(scores):.3f}, by colour {colour:.3f}")
    assert np.mean(scores) >= 0.80
    assert np.mean(scores) >= colour + 0.10
