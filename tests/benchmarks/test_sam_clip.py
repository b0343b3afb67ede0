"""The benchmark of SAM-CLIP counts rightly, measures on nothing it learned from, and its page shows what was missed."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.sam_clip.measuring import balanced_accuracy, mean_iou, painted
from benchmarks.sam_clip.page import render
from benchmarks.sam_clip.study import FORGETFUL, MEAN, MERGED, PROBE, passed
from benchmarks.sam_clip.subjects import PATCH, Quarters, Scenes, class_map, drawn_scenes, shares
from benchmarks.sam_clip.teacher import Teacher, taught
from wsi_pipeline.models.image_text import ImageTextEncoder
from wsi_pipeline.models.sam_clip.prompts import Pieces

CLASSES = ("gland", "fat vacuole", "stroma")


def found(**changes: dict[str, float]) -> dict:
    """What the study gives of a subject on which all went well."""
    good = {
        "cosine": 0.95,
        "constant_cosine": 0.9,
        "centred_cosine": 0.6,
        "balanced_accuracy": 0.9,
        "together_iou": 0.3,
        "alone_iou": 0.4,
        "map_iou": 0.5,
        "refined_iou": 0.6,
        "dice": 0.85,
        "minutes": 1.0,
    }
    scores = {PROBE: good, MEAN: good, MERGED: good | {"dice": 0.84}, FORGETFUL: good | {"dice": 0.6}}
    scores = {name: one | changes.get(name.replace(" ", "_"), {}) for name, one in scores.items()}
    return {
        "classes": CLASSES,
        "train": 4,
        "test": 8,
        "groups": 2,
        "teacher": 0.92,
        "constant_iou": 0.2,
        "scores": scores,
        "curves": {name: [0.5, 0.4] for name in scores},
        "head": {"bytes": 400_000},
    }


def test_views_show_their_objects_or_the_background() -> None:
    seen = np.full((100, 100), 2)
    seen[:1, :100] = 0
    assert shares(seen, 3).tolist() == [0, 0, 1]
    seen[:10], seen[10:15, :] = 0, 1
    np.testing.assert_allclose(shares(seen, 3), [2 / 3, 1 / 3, 0])


def test_scenes_to_measure_on_are_others_in_pieces_of_a_patch() -> None:
    subject = drawn_scenes(2, 1)
    pieces = subject.test_samples()
    assert [piece.high.image.shape for piece in pieces] == [(PATCH, PATCH, 3)] * 4
    learned = Scenes(range(2), "train")
    assert {info.group for info in learned.infos}.isdisjoint({piece.info.group for piece in pieces})
    whole = class_map(Scenes([10_000], "val")[0], subject.classes)
    np.testing.assert_array_equal(class_map(pieces[1], subject.classes), whole[:PATCH, PATCH:])
    assert len(Quarters(learned, "val")) == 0


def test_ious_and_accuracies_are_means_over_the_classes_that_are_there() -> None:
    truth = np.array([[0, 0, 2, 2]])
    assert mean_iou(np.array([[0, 2, 2, 2]]), truth, 3) == (1 / 2 + 2 / 3) / 2
    assert balanced_accuracy(np.array([0, 0, 0, 1]), np.array([0, 0, 0, 1])) == 1
    assert balanced_accuracy(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1])) == 0.5


def test_the_surest_piece_is_on_top() -> None:
    masks = np.zeros((2, 8, 8), bool)
    masks[0, :, :5], masks[1, :, 3:] = True, True
    pieces = Pieces(np.array([0, 1]), masks, masks.astype(np.float32), np.array([0.9, 0.6], np.float32))
    assert painted(pieces, masks, 2)[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


def test_the_teacher_is_a_network_of_images_and_words() -> None:
    subject = drawn_scenes(2, 1)
    piece = subject.test_samples()[0]
    teacher = Teacher.of(subject.classes, taught(subject, [piece], 1))
    assert isinstance(teacher, ImageTextEncoder)
    assert teacher.name != Teacher(subject.classes).name
    vectors = teacher.encode_image(piece.high.image[None, :64, :64])
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(1))
    torch.testing.assert_close(teacher.encode_text(["stroma"]), F.normalize(teacher.words[3:], dim=1))


def test_the_page_shows_what_was_missed() -> None:
    assert all(passed(found()).values())
    missed = found(probe={"centred_cosine": 0.3}, merged={"dice": 0.5})
    assert [name for name, good in passed(missed).items() if not good] == [
        "centred cosine",
        "merging keeps Dice",
        "rehearsal matters",
    ]
    how = dict.fromkeys(
        ("teacher_steps", "probe_steps", "merge_steps", "variants", "batch", "merge_batch", "objects"), 1
    ) | {"rate": 1e-3, "merge_rate": 4e-4}
    page = render({"how": how, "subjects": {"drawn scenes": missed}}, "the command")
    assert page.count("**no**") == 3
    assert "| merged | 0.950 | 0.900 | 0.600 | 0.900 | 0.300 | 0.400 | 0.500 | 0.600 | 0.500 | 1.000 |" in page
