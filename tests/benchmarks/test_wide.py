"""The student starts as its shrunk teacher, learns, and its page says what the numbers say."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks are no part of the installed package

from benchmarks.heads.tiles import FAMILIES, AnnotatedTile
from benchmarks.wide import lessons
from benchmarks.wide.distillation import Distillation
from benchmarks.wide.lessons import Lesson, Source, Teaching, clear_of_edge
from benchmarks.wide.measuring import Questions
from benchmarks.wide.page import LIMIT, render
from benchmarks.wide.student import SHRINK, student_of, widened
from benchmarks.wide.study import stops
from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.models.backbones.tiny_vit import lite_medsam_encoder
from wsi_pipeline.models.coarse_prompts import bounding_boxes
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.roles import MaskBatch, PairImages, PromptBatch
from wsi_pipeline.models.sam import Sam, build_sam
from wsi_pipeline.training.data.samples import Picture

SIDE = 64


class _Exact:
    """Stands for the teacher: its masks fill the boxes."""

    input_size = SIDE

    def encode(self, pairs: PairImages) -> None:
        assert pairs.high.shape == (1, SIDE, SIDE, 3)

    def decode(self, embedding: None, prompts: PromptBatch) -> MaskBatch:
        assert prompts.boxes is not None
        px = np.arange(SIDE)
        x0, y0, x1, y1 = np.rint(prompts.boxes).T[:, :, None]
        inside = ((px >= y0) & (px < y1))[:, :, None] & ((px >= x0) & (px < x1))[:, None, :]
        logits = np.where(inside, 8, -8).astype(np.float32)
        return MaskBatch(logits, np.zeros((len(prompts), 2), np.int64), np.ones(len(prompts), np.float32))


class _Noise:
    """Stands for a slide."""

    def read_grid(self, to_level0: Affine2D, size: tuple[int, int]) -> np.ndarray:
        return np.random.default_rng(round(to_level0.tx)).integers(0, 256, (*size[::-1], 3), np.uint8)


class _SmallEncoder(nn.Module):
    """Stands for the student's: one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 256, 8, 8)

    def forward(self, pixels: Tensor) -> EncoderOutput:
        embedding = self.conv(pixels)
        return EncoderOutput(embedding, embedding)


def teaching(seed: int = 0) -> Teaching:
    return Teaching(_Exact(), [Source(_Noise(), (900, 700))], seed)  # type: ignore[arg-type]


def test_the_student_starts_as_the_teacher_of_a_shrunk_image() -> None:
    torch.manual_seed(0)
    taught = lite_medsam_encoder().eval()
    wide = widened(taught, SHRINK * SIDE, seed=0)
    pixels = torch.rand(1, 3, SHRINK * SIDE, SHRINK * SIDE)
    with torch.inference_mode():
        for mine, other in zip(wide(pixels), taught(F.avg_pool2d(pixels, SHRINK)), strict=True):
            torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


def test_only_the_encoder_is_trained_and_all_of_it() -> None:
    student = student_of(build_sam("lite_medsam"), seed=0)
    trained = {name.split(".")[0] for name, value in student.named_parameters() if value.requires_grad}
    frozen = {name.split(".")[0] for name, value in student.named_parameters() if not value.requires_grad}
    assert (trained, frozen) == ({"image_encoder"}, {"prompt_encoder", "mask_decoder"})
    assert student.variant.image_size == 512


def test_a_lesson_depends_on_seed_and_number_only() -> None:
    first, again, other = teaching().lesson(3), teaching().lesson(3), teaching(seed=1).lesson(3)
    for one, two in ((first.image, again.image), (first.boxes, again.boxes), (first.answers, again.answers)):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first.boxes, other.boxes)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_answers_stay_in_their_boxes(mirrored: bool, transposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lessons, "SIDES", (8.0, 30.0))
    lesson = teaching().lesson(0).turned(mirrored=mirrored, transposed=transposed)
    assert lesson.image.shape == (SHRINK * SIDE, SHRINK * SIDE, 3)
    assert len(lesson.boxes) == len(lesson.answers) > 0
    np.testing.assert_allclose(bounding_boxes(lesson.answers > 127), lesson.boxes, atol=1)


def test_boxes_at_the_edge_and_specks_are_left_out() -> None:
    boxes = np.array([[10, 10, 30, 30], [0, 10, 30, 30], [10, 10, 30, SIDE], [10, 10, 12, 30]], float)
    assert clear_of_edge(boxes, SIDE).tolist() == [True, False, False, False]


def test_a_field_without_answers_teaches_nothing() -> None:
    empty = Lesson(np.zeros((8, 8, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros((0, 8, 8), np.uint8))
    with pytest.raises(ValueError, match="no lesson has an answer"):
        Distillation(small_student(), [empty], seed=0)


def small_student() -> Sam:
    torch.manual_seed(0)
    student = student_of(build_sam("lite_medsam"), seed=0)
    student.image_encoder = _SmallEncoder()  # type: ignore[assignment]
    return student


def one_box() -> Lesson:
    answers = np.zeros((1, 512, 512), np.uint8)
    answers[0, 100:140, 200:260] = 255
    image = np.full((512, 512, 3), 200, np.uint8)
    image[100:140, 200:260] = 60
    return Lesson(image, np.array([[200, 100, 260, 140]], np.float32), answers)


def test_steps_lower_the_loss_and_are_the_same_for_a_seed() -> None:
    runs = []
    for _ in range(2):
        run = Distillation(small_student(), [one_box()], seed=0)
        runs.append([run.step() for _ in range(3)])
    assert runs[0] == runs[1]
    assert runs[0][-1] < runs[0][0]


def test_objects_are_in_the_same_order_for_patches_of_any_size() -> None:
    labels = np.zeros((200, 200), np.int32)
    for number in range(36):
        y, x = 4 + 33 * (number // 6), 4 + 33 * (number % 6)
        labels[y : y + 6 + number % 5, x : x + 8] = number + 1
    picture = Picture(np.zeros((200, 200, 3), np.uint8), labels, np.ones(labels.shape, bool))
    tile = AnnotatedTile(0, picture, FAMILIES["tnbc"], "tnbc", "g")
    boxes = SimpleNamespace(about=lambda patch: lambda prompts: _filled(prompts, patch.truth.shape[-1]))
    halves = SimpleNamespace(about=lambda patch: lambda prompts: _filled(prompts, patch.truth.shape[-1], odd=True))
    near, far = Questions([tile], 96), Questions([tile], 192)
    assert len(near.objects.groups) == 36
    assert (near.dice("boxes", boxes) == 1).all()
    np.testing.assert_array_equal(near.dice("halves", halves), far.dice("halves", halves))
    assert len(set(near.dice("halves", halves).tolist())) > 1


def _filled(prompts: PromptBatch, side: int, *, odd: bool = False) -> np.ndarray:
    """Boxes filled; of those of odd height the upper part alone."""
    assert prompts.boxes is not None
    masks = np.zeros((len(prompts), side, side), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, prompts.boxes.astype(int), strict=True):
        mask[y0 : y1 - 3 * (odd and (y1 - y0) % 2), x0:x1] = True
    return masks


def test_the_student_is_measured_on_its_way() -> None:
    assert stops(80) == [0, 20, 40, 80]
    assert stops(1) == [0, 1]


def numbers(lost: float) -> dict[str, Any]:
    """Numbers of a run, all made up."""
    sets = {name: {"objects": 5, "groups": 2} for name in ("nuclei", "all")}
    dice = {"ellipse in the box": 0.9, "sam": 0.8, "0": 0.7, "4": 0.72, "8": 0.8 - lost}
    return {
        "how": {
            "split": "val", "size": 256, "shrink": {"rings": 2}, "limit": None, "steps": 8, "lessons": 2, "answers": 9,
            "slides": ["a.svs"], "rate": 1e-3, "decay": 0.9,
            "bootstrap": {"replicates": 10, "seed": 0, "confidence": 0.95},
        },
        "minutes": {"teacher": 1.0, "student": 2.0},
        "sets": sets,
        "dice": {name: dict.fromkeys(sets, value) for name, value in dice.items()},
        "differences": {name: {"nuclei": [dice[name] - 0.8, -0.2, 0.0]} for name in ("0", "4", "8")},
        "losses": {"0": None, "4": 0.5, "8": 0.4},
        "speed": {"patch": 1.1, "px": 3.6, "run": 4.4},
    }  # fmt: skip


@pytest.mark.parametrize(("lost", "decided"), [(LIMIT / 2, "It passes"), (2 * LIMIT, "left out")])
def test_the_page_decides_by_the_limit(lost: float, decided: str) -> None:
    page = render(numbers(lost), "python -m benchmarks.wide")
    assert decided in page
    assert f"minus its teacher's is {-lost:+.4f} for nuclei (5)" in page
    assert "seems to be training time" in page
    assert "3.6 times as fast per px" in page
