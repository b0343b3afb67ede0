"""What a network is worth on patches that nobody learned from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.sam_clip.subjects import Subject, class_map, shares
from benchmarks.sam_clip.teacher import Teacher
from wsi_pipeline.models.coarse_prompts import bounding_boxes
from wsi_pipeline.models.roles import PairImages, PromptBatch
from wsi_pipeline.models.sam_clip.build import text_encoder_of
from wsi_pipeline.models.sam_clip.model import SamClip
from wsi_pipeline.models.sam_clip.network import MergedSam
from wsi_pipeline.models.sam_clip.prompts import Pieces
from wsi_pipeline.training.batches import objects_of
from wsi_pipeline.training.data.samples import Sample
from wsi_pipeline.training.sam_clip_head import cosines
from wsi_pipeline.vocabulary import VocabularySettings

THRESHOLD, LEAST_AREA = 0.5, 200.0
"""Least probability of a px of a piece, and least area of a piece, px."""
MARGIN = 0.5
"""Masks are drawn in their box grown by this share of its size."""
LEAST_OBJECT = 100
"""px of an object that is asked about."""


class Truth(NamedTuple):
    """What is known of N patches.

    Attributes:
        samples: N patches.
        maps: (N, S, S) number of each px's class.
        shown: (N,) number of the class that each shows most of.
        vectors: (N, D) what the teacher says of them.
        mean: (D,) of unit length, what it says of patches on the whole, of others than these.
    """

    samples: Sequence[Sample]
    maps: np.ndarray
    shown: np.ndarray
    vectors: Tensor
    mean: Tensor

    @classmethod
    def of(cls, subject: Subject, teacher: Teacher, mean: Tensor) -> Truth:
        samples = subject.test_samples()
        maps = np.stack([class_map(sample, subject.classes) for sample in samples])
        shown = np.array([shares(one, len(subject.classes)).argmax() for one in maps])
        vectors = torch.cat([teacher.encode_image(sample.high.image[None]) for sample in samples])
        return cls(samples, maps, shown, vectors, mean)


def measure(
    network: MergedSam, truth: Truth, subject: Subject, *, embeddings: Path | None, draw: bool
) -> dict[str, float]:
    """All numbers of a network.

    Args:
        network: trained.
        truth: to compare with.
        subject: names the classes.
        embeddings: folder to keep them in, or None.
        draw: whether the decoder is asked, too; if not, what it is for is left out.
    """
    model = SamClip(network, text_encoder_of(network))
    model.encoder.keep_in(embeddings)
    vocabulary = VocabularySettings.model_validate({"classes": list(subject.classes)})
    said, classes, dice, last = [], [], [], len(subject.classes) - 1
    together, alone, coarse, refined = (np.zeros_like(truth.maps) for _ in range(4))
    for row, sample in enumerate(truth.samples):
        embedding = model.encode(PairImages(sample.high.image[None]))
        said.append(model.meaning(embedding).pooled)
        classes.append(model.classify(embedding, vocabulary)[0].argmax())
        for places, canvas in (("together", together), ("alone", alone), ("both", coarse)):
            network.clip_head.places = places
            text_map = model.text_map(embedding, vocabulary)
            (pieces,) = model.pieces(text_map, range(last), threshold=THRESHOLD, min_area=LEAST_AREA)
            canvas[row] = painted(pieces, pieces.masks, last)
        if draw:
            masks = model.outline(embedding, [pieces], margin=MARGIN).on_patch(len(sample.high.image))
            refined[row] = painted(pieces, masks, last)
            dice += box_dice(model, embedding, sample)
    known = [_annotated(sample, subject) for sample in truth.samples]
    drawn = {"refined_iou": _iou(refined, truth, known), "dice": float(np.mean(dice))} if draw else {}
    return (
        cosines(torch.cat(said), truth.vectors, truth.mean)
        | {"balanced_accuracy": balanced_accuracy(np.array(classes), truth.shown)}
        | {"together_iou": _iou(together, truth, known), "alone_iou": _iou(alone, truth, known)}
        | {"map_iou": _iou(coarse, truth, known)}
        | drawn
    )


def painted(pieces: Pieces, masks: np.ndarray, last: int) -> np.ndarray:
    """(S, S) int64 classes of pieces drawn as ``masks`` (N, S, S), the surest on top; ``last`` elsewhere."""
    canvas = np.full(masks.shape[1:], last, np.int64)
    for row in np.argsort(pieces.scores, kind="stable"):
        canvas[masks[row]] = pieces.classes[row]
    return canvas


def box_dice(model: SamClip, embedding: object, sample: Sample) -> list[float]:
    """Dice of what the decoder draws in the box of each object."""
    labels = objects_of(sample.high, LEAST_OBJECT)
    if not len(labels):
        return []
    masks = sample.high.labels == labels[:, None, None]
    asked = PromptBatch(np.zeros(len(labels), np.int64), boxes=bounding_boxes(masks))
    found = model.decode(embedding, asked, margin=MARGIN).on_patch(masks.shape[1])  # type: ignore[arg-type]
    common = (found & masks).sum((1, 2))
    values: list[float] = (2 * common / (found.sum((1, 2)) + masks.sum((1, 2)))).tolist()
    return values


def mean_iou(found: np.ndarray, truth: np.ndarray, count: int) -> float:
    """Mean over the classes that are there, over all px together."""
    values = []
    for number in range(count):
        one, other = found == number, truth == number
        if other.any():
            values.append((one & other).sum() / (one | other).sum())
    return float(np.mean(values))


def balanced_accuracy(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the classes that are there of the share that is named rightly."""
    return float(np.mean([(found[truth == number] == number).mean() for number in np.unique(truth)]))


def constant_iou(truth: Truth, count: int) -> float:
    """The mean IoU of a map of the most frequent class."""
    most = np.bincount(truth.maps.ravel(), minlength=count).argmax()
    return mean_iou(np.full_like(truth.maps, most), truth.maps, count)


def _annotated(sample: Sample, subject: Subject) -> list[int]:
    """Numbers of the classes that somebody looked for on a patch."""
    return [number for number, name in enumerate(subject.classes) if name in sample.info.class_names]


def _iou(found: np.ndarray, truth: Truth, known: Sequence[Sequence[int]]) -> float:
    """Mean IoU of maps in which what nobody looked for is of the last class."""
    last = int(truth.maps.max())
    seen = np.stack([np.where(np.isin(one, here), one, last) for one, here in zip(found, known, strict=True)])
    return mean_iou(seen, truth.maps, last + 1)
