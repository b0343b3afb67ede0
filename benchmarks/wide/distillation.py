"""Training the student on its teacher's answers."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from benchmarks.wide.lessons import PROBABILITY, Lesson
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.mask_decoder import CellWindows
from wsi_pipeline.models.preprocess import to_tensor
from wsi_pipeline.models.prompt_embedding import PromptTensors, embed_prompts
from wsi_pipeline.models.sam import Sam
from wsi_pipeline.training.batches import View, windows_around
from wsi_pipeline.training.checkpoint import Average, copied, put
from wsi_pipeline.training.losses import mask_loss

RATE, CLIP, DECAY = 2e-4, 1.0, 0.98
"""Of AdamW, of the gradient's length, and of the average of the weights."""
WINDOW = 0.5
"""Masks are compared in the box and as much of its size around it, as they are drawn in use."""


class Distillation:
    """A training run of the student's encoder.

    Args:
        student: is trained in place.
        lessons: to learn from; those without answers are left out.
        seed: of the order of lessons and of how they are turned.

    Raises:
        ValueError: no lesson has an answer.
    """

    def __init__(self, student: Sam, lessons: Sequence[Lesson], seed: int) -> None:
        self._student, self._seed = student, seed
        self._lessons = [lesson for lesson in lessons if len(lesson.boxes)]
        if not self._lessons:
            raise ValueError("no lesson has an answer: give more lessons, or other pictures")
        self._trained = dict(student.image_encoder.named_parameters())
        self._average = Average(DECAY, copied(self._trained))
        self._optimiser = torch.optim.AdamW(self._trained.values(), lr=RATE)

    @property
    def steps(self) -> int:
        """How many were taken."""
        return self._average.updates

    def step(self) -> float:
        """Learn from one lesson; gives the loss before that."""
        random = np.random.default_rng((self._seed, self.steps))
        lesson = self._lessons[random.integers(len(self._lessons))]
        mirrored, transposed = random.random(2) < 0.5
        loss = answer_loss(self._student, lesson.turned(mirrored=mirrored, transposed=transposed))
        self._optimiser.zero_grad()
        loss.backward()
        clip_grad_norm_(self._trained.values(), CLIP)
        self._optimiser.step()
        self._average.update(self._trained)
        return float(loss.detach())

    def averaged(self) -> Sam:
        """A copy of the student with the average of its weights so far."""
        student = copy.deepcopy(self._student)
        put(dict(student.image_encoder.named_parameters()), self._average.values)
        return student


def answer_loss(student: Sam, lesson: Lesson) -> Tensor:
    """How far the student's answers are from the teacher's, in windows around the boxes; scalar."""
    boxes = torch.from_numpy(lesson.boxes)[None]
    targets = torch.from_numpy(lesson.answers)[None].float() / PROBABILITY
    windows = windows_around(boxes, WINDOW, len(lesson.image))
    seen = student.encode(to_tensor(lesson.image[None], torch.device("cpu")))
    logits = _answers(student, seen, PromptTensors(boxes=boxes), windows)
    wanted = View(seen, targets, torch.ones_like(targets[:, :1], dtype=torch.bool)).within(windows).targets
    enlarged = F.interpolate(logits, wanted.shape[-2:], mode="bilinear", align_corners=False)
    return mask_loss(enlarged.flatten(2), wanted.flatten(2)).total()


def _answers(student: Sam, seen: EncoderOutput, prompts: PromptTensors, windows: CellWindows | None) -> Tensor:
    """(B, P, h, w) logits of the single mask."""
    embedded = embed_prompts(student.prompt_encoder, prompts)
    decoder = student.mask_decoder
    image = decoder.image_side(seen.embedding, student.prompt_encoder.get_dense_pe()[0], embedded.dense)
    decoded = decoder.decode(image, embedded.sparse)
    vectors = decoder.mask_vectors(decoded, range(1))
    return decoder.masks(decoder.upscale(decoded, windows), vectors).squeeze(2)
