"""A small network of images and words that learns from labelled tiles: it stands for the CLIP that is not here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.sam_clip.subjects import Subject, class_map, shares
from wsi_pipeline.models.image_text.class_table import ClassTable
from wsi_pipeline.models.preprocess import to_tensor
from wsi_pipeline.training.data.samples import Sample
from wsi_pipeline.training.draws import seeded
from wsi_pipeline.vocabulary import VocabularySettings

DIM, SCALE = 64, 10.0
"""Length of vectors, and what cosines are multiplied by."""
WIDTHS = (32, 64, 96, 128)
SIDES = (256, 128, 64)
"""px of the views that it learns from."""
RATE, BATCH, SEED = 2e-3, 24, 0
_CPU = torch.device("cpu")


class Teacher(nn.Module):
    """Convolutions, each of which halves the image, mean and maximum over it, and a vector for each class.

    Plays ``ImageTextEncoder``.

    Args:
        classes: the words that it knows.
    """

    dim, logit_scale, reads_sentences, image_size = DIM, SCALE, False, SIDES[0]

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.GELU())
                for before, after in zip((3, *WIDTHS), WIDTHS, strict=False)
            )
        )
        self.projection = nn.Linear(2 * WIDTHS[-1], DIM)
        self.words = nn.Parameter(torch.randn(len(classes), DIM))
        self._classes = VocabularySettings.model_validate({"classes": list(classes)}).classes

    @classmethod
    def of(cls, classes: Sequence[str], state: Mapping[str, Tensor]) -> Teacher:
        """One with parameters that ``taught`` gave."""
        teacher = cls(classes)
        teacher.load_state_dict(dict(state))
        return teacher.eval().requires_grad_(False)

    @property
    def name(self) -> str:
        """Tells it from others."""
        digest = hashlib.blake2b(digest_size=8)
        for value in self.state_dict().values():
            digest.update(value.numpy().tobytes())
        return f"tile teacher {digest.hexdigest()}"

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, D) vectors of unit length of (B, 3, h, w) pixels 0..255, of any size."""
        seen = self.layers(pixels / 127.5 - 1)
        return F.normalize(self.projection(torch.cat([seen.mean((2, 3)), seen.amax((2, 3))], dim=1)), dim=1)

    @torch.no_grad()
    def encode_image(self, images: np.ndarray) -> Tensor:
        """See ``ImageTextEncoder``; images keep their size."""
        vectors: Tensor = self(to_tensor(images, _CPU))
        return vectors

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """See ``TextEncoder``; it knows its classes only."""
        return ClassTable(self._classes, self.words, SCALE).encode_text(texts)


def taught(subject: Subject, samples: Sequence[Sample], steps: int) -> dict[str, Tensor]:
    """Parameters of a teacher that says what share each class has of the objects on a view.

    Args:
        subject: names the classes.
        samples: patches to learn from, each many times: other views of them, turned otherwise.
        steps: of training.
    """
    with seeded(SEED, _CPU):
        teacher = Teacher(subject.classes)
    optimiser = torch.optim.AdamW(teacher.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    for pixels, target in _views(subject, samples, steps):
        logits = SCALE * teacher(pixels) @ F.normalize(teacher.words, dim=1).mT
        loss = F.cross_entropy(logits, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return teacher.state_dict()


def _views(subject: Subject, samples: Sequence[Sample], steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pixels (B, 3, s, s) and shares of the classes (B, K) of each step."""
    maps, count = [class_map(sample, subject.classes) for sample in samples], len(subject.classes)
    random = np.random.default_rng(SEED)
    for step in range(steps):
        side = SIDES[step % len(SIDES)]
        images, targets = [], []
        for number in random.integers(len(samples), size=BATCH):
            x, y = random.integers(0, maps[number].shape[1] - side, 2, endpoint=True)
            window = slice(y, y + side), slice(x, x + side)
            turned = np.rot90(samples[number].high.image[window], random.integers(4))
            images.append(turned[:, ::-1] if random.random() < 0.5 else turned)
            targets.append(shares(maps[number][window], count))
        yield to_tensor(np.stack(images), _CPU), torch.tensor(np.array(targets), dtype=torch.float32)
