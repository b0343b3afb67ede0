"""Whether an adapter learns SAM's embedding from an encoder's stages, as SAM2CLIP does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.ov_sam.adapter import Sam2ClipAdapter
from wsi_pipeline.models.preprocess import to_tensor
from wsi_pipeline.models.roles import Regions
from wsi_pipeline.models.sam import Sam, SamInput
from wsi_pipeline.training.data.samples import Sample
from wsi_pipeline.training.draws import seeded
from wsi_pipeline.training.ov_sam_batches import regions_of

WIDTH, DEPTH, HEADS, RATE = 128, 2, 4, 2e-3
GRID = 32
"""Side of what the adapter sees at once: a quarter of a map. Attention to all of a map takes sixteen times as long."""
QUARTERS = 4
"""Of maps, that a step learns from."""
CPU = torch.device("cpu")


class Stages(NamedTuple):
    """What an encoder makes of one patch.

    Attributes:
        levels: (1, C, 64, 64) outputs of its second, third and fourth stage.
        embedding: (1, 256, 64, 64).
    """

    levels: tuple[Tensor, ...]
    embedding: Tensor


class Exam(NamedTuple):
    """A patch with objects, and what the encoder makes of it."""

    sample: Sample
    stages: Stages


def distilled(
    sam: Sam, lessons: Sequence[Stages], exams: Sequence[Exam], *, chosen: slice, steps: int
) -> dict[str, Any]:
    """Distil the embedding from some stages of the same encoder; the last layers' work is to be learned.

    Args:
        sam: teacher.
        lessons: to learn from, some quarters of them a step.
        exams: to measure on.
        chosen: of the three stages, which ones the adapter is given.
        steps: of the optimiser.

    Returns:
        Explained variance on the asked samples, and the mean Dice of boxes with either embedding.
    """
    channels = [level.shape[1] for level in lessons[0].levels[chosen]]
    with seeded(0, CPU):
        adapter = Sam2ClipAdapter(channels, [16] * len(channels), GRID, WIDTH, DEPTH, HEADS)
    _start(adapter, [lesson.embedding for lesson in lessons])
    _learn(adapter, lessons, chosen, steps)
    learned = [_embedded(adapter, exam.stages.levels[chosen]) for exam in exams]
    taught = [exam.stages.embedding for exam in exams]
    return {
        "steps": steps,
        "explained": explained(taught, learned),
        "teacher": _mean_dice(sam, exams, taught),
        "learned": _mean_dice(sam, exams, learned),
    }


@torch.inference_mode()
def stages_of(sam: Sam, image: np.ndarray) -> Stages:
    """What the encoder makes of a patch (S, S, 3)."""
    outputs: list[Tensor] = []
    layers = sam.image_encoder.get_submodule("layers")
    hooks = [layer.register_forward_hook(lambda _, __, out: outputs.append(out)) for layer in layers.children()]
    seen = sam.encode(to_tensor(image[None], CPU))
    for hook in hooks:
        hook.remove()
    return Stages(tuple(level.permute(0, 3, 1, 2) for level in outputs[1:]), seen.embedding)


def explained(wanted: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Share of the variance within channels that is explained; 0 for whoever says the mean."""
    truth, guess = torch.cat(list(wanted)), torch.cat(list(found))
    spread = (truth - truth.mean(dim=(0, 2, 3), keepdim=True)).square().sum()
    return 1 - float((truth - guess).square().sum() / spread)


@torch.no_grad()
def _start(adapter: Sam2ClipAdapter, wanted: Sequence[Tensor]) -> None:
    """Give the last norm the teacher's mean and spread; from one and nought it would take as long as all the rest."""
    values = torch.cat(list(wanted))
    norm = adapter.neck.get_submodule(str(len(adapter.neck) - 1))
    norm.load_state_dict({"weight": values.std(dim=(0, 2, 3)), "bias": values.mean(dim=(0, 2, 3))})


def _learn(adapter: nn.Module, lessons: Sequence[Stages], chosen: slice, steps: int) -> None:
    """Of some random quarters of random lessons each step."""
    optimiser = torch.optim.AdamW(adapter.parameters(), lr=RATE, weight_decay=0.05)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        places = rng.integers((len(lessons), 2, 2), size=(QUARTERS, 3)).tolist()
        parts = [
            [_quarter(one, row, column) for one in (*lesson.levels[chosen], lesson.embedding)]
            for lesson, row, column in ((lessons[number], row, column) for number, row, column in places)
        ]
        *levels, wanted = (torch.cat(some) for some in zip(*parts, strict=True))
        loss = F.mse_loss(adapter(levels), wanted)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(adapter.parameters(), 5.0)
        optimiser.step()
        falling.step()


@torch.inference_mode()
def _embedded(adapter: nn.Module, levels: Sequence[Tensor]) -> Tensor:
    """(1, 256, 64, 64), put together from its quarters."""
    rows = [
        torch.cat([adapter([_quarter(level, row, column) for level in levels]) for column in range(2)], dim=3)
        for row in range(2)
    ]
    return torch.cat(rows, dim=2)


def _quarter(level: Tensor, row: int, column: int) -> Tensor:
    return level[..., row * GRID : (row + 1) * GRID, column * GRID : (column + 1) * GRID]


def _mean_dice(sam: Sam, exams: Sequence[Exam], embeddings: Sequence[Tensor]) -> float:
    pairs = zip(exams, embeddings, strict=True)
    return float(np.concatenate([_dice(sam, exam.sample, embedding) for exam, embedding in pairs]).mean())


@torch.inference_mode()
def _dice(sam: Sam, sample: Sample, embedding: Tensor) -> np.ndarray:
    """(N,) Dice of a sample's objects, each asked about with its tight box."""
    labels = np.unique(sample.high.labels)[1:]
    regions: Regions = regions_of([sample.high], [labels])
    one = SamInput(torch.zeros(3, 256, 256), (256, 256), boxes=torch.from_numpy(regions.boxes).float())
    position = sam.prompt_encoder.get_dense_pe()
    logits, _ = sam.low_res(one, EncoderOutput(embedding, embedding), position, False)
    found, truth = logits[:, 0].numpy() > 0, sample.high.labels == labels[:, None, None]
    return 2 * (found & truth).sum((1, 2)) / (found.sum((1, 2)) + truth.sum((1, 2)))
