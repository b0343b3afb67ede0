"""What is seen of one class of examples on one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import nms

from wsi_pipeline.models.matcher.match import Matches, centres, correspondence, match
from wsi_pipeline.models.matcher.presence import highest, likeness, smoothed
from wsi_pipeline.models.matcher.prompts import boxes_from_components
from wsi_pipeline.models.matcher.reference import ReferenceSet, farthest
from wsi_pipeline.models.roles import Detections

MOST_TRANSPORTED = 256
"""Patches of the examples that optimal transport starts from; of more, those that differ most stand for the others."""
_GROWN = 1
"""Patches by which boxes are larger on every side: those on an outline show the surroundings, too."""
_SAME = 0.85
"""Boxes that overlap more (IoU) are asked about once."""
_FORWARD = 0.05
"""Share of the matches that are taken for chance where nothing is matched in return."""
SMALLEST = 4
"""Patches that a box, or what is alike and was not drawn, holds at least."""


@dataclass(frozen=True, slots=True)
class ClassExamples:
    """The examples of a class, as targets are compared with them.

    Attributes:
        features: (R, C) of unit length.
        inside, known: (R,) bool.
        sample: (P,) numbers of patches inside that stand for all of them.
        weights: (P,) how many each of them stands for, as shares.
        radius: of a circle as large as an example, patches.
        threshold: likeness that parts them from what surrounds them.
        surroundings: mean likeness of the latter.
    """

    features: np.ndarray
    inside: np.ndarray
    known: np.ndarray
    sample: np.ndarray
    weights: np.ndarray
    radius: float
    threshold: float
    surroundings: float

    @classmethod
    def of(cls, references: ReferenceSet, class_number: int) -> ClassExamples:
        """The examples of the n-th class; those of other classes are something else."""
        inside = references.inside(class_number)
        sample, weights = thinned(references.features, np.flatnonzero(inside))
        facts = (references.radius, references.threshold, references.surroundings)
        return cls(
            references.features,
            inside,
            references.known,
            sample,
            weights,
            *(float(one[class_number - 1]) for one in facts),
        )


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of a class on an image of g x g patches.

    Attributes:
        similarity: (P, N) of the patches that stand for the examples.
        weights: (P,) of these.
        matches: with the image's patches.
        likeness: (g, g) smoothed; above 0 where a patch is taken for the class.
        presence: see ``presence``.
    """

    similarity: np.ndarray
    weights: np.ndarray
    matches: Matches
    likeness: np.ndarray
    presence: float

    @classmethod
    def of(cls, examples: ClassExamples, target: np.ndarray, *, reverse: bool) -> Sight:
        """Look for the examples among features (N, C) of an image.

        Args:
            examples: of the class.
            target: the features.
            reverse: compare with what surrounds the examples, too: by matching in return, and in the likeness. Without,
                likeness is the similarity above the lowest of (nearly) all matches.
        """
        similarity = correspondence(examples.features, target)
        matches = match(similarity, examples.inside, examples.known, reverse=reverse)
        shape = 2 * [round(len(target) ** 0.5)]
        like = likeness(similarity, examples.inside, examples.known & ~examples.inside).reshape(shape)
        presence = highest(like, examples.radius) - examples.surroundings
        field = smoothed(like) - examples.threshold
        if not reverse:
            field = smoothed(similarity[examples.inside].max(axis=0).reshape(shape))
            field -= np.quantile(field.ravel()[matches.columns], _FORWARD)
        return cls(similarity[examples.sample], examples.weights, matches, field, presence)

    @property
    def grid(self) -> int:
        return len(self.likeness)

    def points(self, size: int) -> np.ndarray:
        """(P, 2) float32 px of an image of ``size`` px: middles of the best matches."""
        return centres(self.matches.columns[self.matches.best()], self.grid, size)

    def boxes(self, levels: int, size: int) -> np.ndarray:
        """(N, 4) float32 px of an image of ``size`` px, see ``patch_boxes``."""
        return (self.patch_boxes(levels) * (size / self.grid)).astype(np.float32)

    def detections(self, levels: int, size: int) -> Detections:
        """The same boxes, each with the middle of its likest patch, and the mean likeness of those above 0."""
        boxes, scores, points = self.patch_boxes(levels), [], []
        for x0, y0, x1, y1 in boxes:
            part = self.likeness[y0:y1, x0:x1]
            row, column = np.unravel_index(part.argmax(), part.shape)
            points.append((x0 + column + 0.5, y0 + row + 0.5))
            scores.append(part[part > 0].mean())
        scale = size / self.grid
        return Detections(
            (boxes * scale).astype(np.float32),
            np.clip(np.array(scores, np.float32), 0, 1),
            (np.array(points, np.float32) * scale).astype(np.float32).reshape(-1, 2),
        )

    def patch_boxes(self, levels: int) -> np.ndarray:
        """(N, 4) int64 patches: around what is alike at several levels and holds a match, a little grown."""
        kept = self.matches.kept if self.matches.kept.any() else slice(None)
        matched = np.zeros(self.likeness.size, bool)
        matched[self.matches.columns[kept]] = True
        ladder = np.linspace(0, max(0.0, float(self.likeness.max())), levels + 1)[:-1].tolist()
        found = boxes_from_components(self.likeness, matched.reshape(self.likeness.shape), ladder)
        large = found[(found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1]) >= SMALLEST]
        grown = np.clip(large + np.array([-_GROWN, -_GROWN, _GROWN, _GROWN]), 0, self.grid)
        first = torch.arange(len(grown), 0, -1, dtype=torch.float32)
        return grown[nms(torch.from_numpy(grown.astype(np.float32)), first, _SAME).numpy()]


def thinned(features: np.ndarray, rows: np.ndarray, most: int = MOST_TRANSPORTED) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (P,) of at most so many of the rows, and (P,) the share of all rows that each of them is nearest to."""
    if len(rows) <= most:
        return rows, np.full(len(rows), 1 / len(rows))
    chosen = rows[farthest(features[rows], most)]
    nearest = (features[rows] @ features[chosen].T).argmax(axis=1)
    return chosen, np.bincount(nearest, minlength=len(chosen)) / len(rows)
