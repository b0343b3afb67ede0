"""The whole benchmark: from samples to the dictionary behind the page."""

from __future__ import annotations

import hashlib
import itertools
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from benchmarks.sam_clip.measuring import Truth, balanced_accuracy, constant_iou, measure
from benchmarks.sam_clip.subjects import Subject
from benchmarks.sam_clip.teacher import Teacher, taught
from wsi_pipeline.files import beside
from wsi_pipeline.models.tensor_store import TensorStore
from wsi_pipeline.training.checkpoint import copied, put
from wsi_pipeline.training.data.samples import Sample
from wsi_pipeline.training.epochs import Patches, chunks, steps_of
from wsi_pipeline.training.recipe import SamClipRecipe
from wsi_pipeline.training.sam_clip_head import SamClipHead
from wsi_pipeline.training.sources import TRAIN

PROBE, MEAN, MERGED, FORGETFUL = "probe", "mean pool", "merged", "no rehearsal"
_CPU = torch.device("cpu")
_WARM_UP = 5
"""Least steps of it."""
_EVERY = 10
"""Steps whose mean loss is a point of a curve."""


@dataclass(frozen=True, slots=True)
class Options:
    """How much of it.

    Attributes:
        teacher_steps, probe_steps, merge_steps: of training.
        variants: augmented versions of each training sample.
        batch, merge_batch: patches of a step.
        objects: masks that are rehearsed on each of them in joint training.
        rate, merge_rate: of the head.
        folder: keeps what is expensive.
        weights: where to write the probe's head of the last subject, or None.
    """

    teacher_steps: int
    probe_steps: int
    merge_steps: int
    variants: int
    folder: Path
    batch: int = 24
    merge_batch: int = 2
    objects: int = 4
    rate: float = 1e-3
    merge_rate: float = 1e-4
    weights: Path | None = None

    def probe(self, subject: Subject) -> Path:
        """What the first stage writes."""
        return self.folder / f"{subject.name.replace(' ', '-')}.safetensors"


def run(subjects: Sequence[Subject], options: Options) -> dict[str, Any]:
    """Teach, train and measure on each subject.

    Raises:
        DatasetError, WeightsError, OutputError: samples, backbone or folder cannot be used.
    """
    return {
        "how": {name: getattr(options, name) for name in _TOLD},
        "subjects": {subject.name: study(subject, options) for subject in subjects},
    }


_TOLD = (
    "teacher_steps",
    "probe_steps",
    "merge_steps",
    "variants",
    "batch",
    "merge_batch",
    "objects",
    "rate",
    "merge_rate",
)


def study(subject: Subject, options: Options) -> dict[str, Any]:
    """All numbers of a subject."""
    recipe = _recipe(subject, options)
    patches, numbers = Patches(recipe, subject.source), subject.source.numbers(TRAIN)
    learned = [one for variant in range(options.variants) for one in patches.varied(numbers, variant)]
    teacher = _teacher(subject, learned, options)
    truth = Truth.of(subject, teacher, _mean_of(teacher, learned))
    words = F.normalize(teacher.words, dim=1)
    runs = {name: _Run(subject, teacher, options, name, one) for name, one in _stages(recipe, options, subject).items()}
    found = {name: one.finish(truth) for name, one in runs.items()}
    if options.weights is not None:
        options.weights.write_bytes(options.probe(subject).read_bytes())
    return {
        "classes": subject.classes,
        "train": len(numbers),
        "test": len(truth.samples),
        "groups": len({sample.info.group for sample in truth.samples}),
        "teacher": balanced_accuracy((truth.vectors @ words.mT).argmax(dim=1).numpy(), truth.shown),
        "constant_iou": constant_iou(truth, len(subject.classes)),
        "scores": {name: scores for name, (scores, _) in found.items()},
        "curves": {name: curve for name, (_, curve) in found.items()},
        "head": {"bytes": options.probe(subject).stat().st_size},
    }


class _Run:
    """A stage: trained and measured, and both kept.

    Args:
        subject: learned from and measured on.
        teacher: taught.
        options: how much.
        name: of the stage.
        recipe: of it.
    """

    def __init__(self, subject: Subject, teacher: Teacher, options: Options, name: str, recipe: SamClipRecipe) -> None:
        self._subject, self._teacher, self._options = subject, teacher, options
        self._name, self._recipe = name, recipe
        self._steps = options.merge_steps if recipe.merging else options.probe_steps

    def finish(self, truth: Truth) -> tuple[dict[str, float], list[float]]:
        """Scores by name, and losses."""
        recipe, folder = self._recipe, self._options.folder
        head = SamClipHead(recipe, _CPU, self._teacher)
        started = hashlib.sha256(b"".join(value.numpy().tobytes() for value in head.module.own_state().values()))
        # how maps are read changes nothing of what is learned
        told = recipe.model_dump(exclude={"weights": True, "shape": {"places"}})
        facts = (self._subject.name, self._teacher.name, told, self._steps)
        key = hashlib.sha256(repr((facts, started.hexdigest())).encode()).hexdigest()
        trained = TensorStore(folder / "trained").get(key, lambda: self._trained(head))
        losses, minutes = trained.pop("losses"), float(trained.pop("minutes"))
        put(head.trained, trained)
        if self._name == PROBE:
            _write(head, self._options.probe(self._subject))
        scores = TensorStore(folder / "measured").get(key, lambda: self._measured(head, truth))
        numbers = {name: float(value) for name, value in scores.items()} | {"minutes": minutes}
        say(f"{self._subject.name}, {self._name}: {numbers}")
        return numbers, losses.tolist()

    def _trained(self, head: SamClipHead) -> dict[str, Tensor]:
        begun = time.process_time()
        losses = train(head, self._recipe, self._subject, self._options.folder, self._steps)
        minutes = torch.tensor((time.process_time() - begun) / 60)
        return copied(head.trained) | {"losses": torch.tensor(losses), "minutes": minutes}

    def _measured(self, head: SamClipHead, truth: Truth) -> dict[str, Tensor]:
        frozen = None if self._recipe.merging else self._options.folder
        scores = measure(head.module, truth, self._subject, embeddings=frozen, draw=self._name != MEAN)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in scores.items()}


def _teacher(subject: Subject, learned: Sequence[Sample], options: Options) -> Teacher:
    """Taught, or found where it is kept."""
    facts = subject.name, subject.source.digest(), len(learned), options.teacher_steps
    key = hashlib.sha256(repr(facts).encode()).hexdigest()
    state = TensorStore(options.folder / "teachers").get(key, lambda: taught(subject, learned, options.teacher_steps))
    return Teacher.of(subject.classes, state)


def train(head: SamClipHead, recipe: SamClipRecipe, subject: Subject, folder: Path, steps: int) -> list[float]:
    """Train by a recipe, with a warm-up and a cosine; gives the means of so many losses after each other."""
    batches = head.batches(subject.source, folder)
    optimiser = torch.optim.AdamW(head.groups(), lr=recipe.optimiser.rate, weight_decay=recipe.optimiser.weight_decay)
    losses: list[float] = []
    for step, (epoch, chosen) in enumerate(itertools.islice(_chosen(recipe, subject), steps)):
        head.begin(epoch)
        (part,) = batches.training(chosen, epoch, step, 0)
        loss = head.loss(part)
        optimiser.zero_grad()
        loss.backward()
        clip_grad_norm_(head.trained.values(), recipe.optimiser.clip or math.inf)
        for group in optimiser.param_groups:
            group["lr"] = recipe.optimiser.rate * group["share"] * _height(step, steps)
        optimiser.step()
        losses.append(float(loss.detach()))
        if step % _EVERY == 0:
            say(f"step {step} of {steps}: {losses[-1]:.4f}")
    head.begin(1)
    return [sum(some) / len(some) for some in chunks(losses, _EVERY)]


def _height(step: int, steps: int) -> float:
    """Of the rate: a warm-up, as the first steps of Adam are as long as any, then a cosine down to 0."""
    warm = max(_WARM_UP, round(0.02 * steps))
    return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / steps)))


def _chosen(recipe: SamClipRecipe, subject: Subject) -> Any:
    """Epochs and the numbers of the samples of a step, without end."""
    for epoch in itertools.count(1):
        for batches in steps_of(recipe, subject.source.numbers(TRAIN), epoch):
            yield from ((epoch, numbers) for numbers in batches)


def _recipe(subject: Subject, options: Options) -> SamClipRecipe:
    return SamClipRecipe.model_validate(
        {
            "system": "sam-clip",
            "epochs": 1,
            "accumulate": 1,
            "words": list(subject.classes),
            "variants": options.variants,
            "batch": options.batch,
            "optimiser": {"rate": options.rate, "weight_decay": 0.1, "clip": 1.0},
        }
    )


def _stages(recipe: SamClipRecipe, options: Options, subject: Subject) -> dict[str, SamClipRecipe]:
    """Recipes by name, the probe first: others go on from what it wrote."""
    mean = recipe.shape.model_copy(update={"pool": "mean"})
    return {PROBE: recipe} | _merges(recipe, options, subject) | {MEAN: recipe.model_copy(update={"shape": mean})}


def _merges(recipe: SamClipRecipe, options: Options, subject: Subject) -> dict[str, SamClipRecipe]:
    merge = recipe.model_copy(
        update={
            "stage": "merge",
            "weights": str(options.probe(subject)),
            "batch": options.merge_batch,
            "variants": 1,
            "objects": options.objects,
            "optimiser": recipe.optimiser.model_copy(update={"rate": options.merge_rate}),
        }
    )
    return {MERGED: merge, FORGETFUL: merge.model_copy(update={"rehearsal": 0.0})}


def _mean_of(teacher: Teacher, samples: Sequence[Sample]) -> Tensor:
    vectors = [teacher.encode_image(sample.high.image[None]) for sample in samples]
    return F.normalize(torch.cat(vectors).mean(dim=0), dim=0)


def _write(head: SamClipHead, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().half().contiguous() for name, value in head.tensors().items()}
    with beside(path) as partial:
        partial.write_bytes(save(state, metadata=head.metadata()))


def passed(found: Mapping[str, Any]) -> dict[str, bool]:
    """Whether the numbers of a subject reach what they were expected to."""
    probe, merged, forgetful = (found["scores"][name] for name in (PROBE, MERGED, FORGETFUL))
    return {
        "cosine": probe["cosine"] >= 0.9,
        "above a constant": probe["cosine"] > probe["constant_cosine"],
        "centred cosine": probe["centred_cosine"] >= 0.45,
        "merging keeps the cosine": merged["cosine"] >= probe["cosine"] - 0.005,
        "merging keeps Dice": probe["dice"] - merged["dice"] < 0.02,
        "rehearsal matters": forgetful["dice"] < merged["dice"],
        "text map above a constant": probe["map_iou"] > found["constant_iou"],
        "SAM refines": probe["refined_iou"] >= probe["map_iou"] + 0.05,
        "tile class as the teacher": probe["balanced_accuracy"] >= found["teacher"] - 0.05,
    }


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
