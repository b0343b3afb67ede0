"""Training patches as tensors: embeddings, and the masks of some of their objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.mask_decoder import CellWindows
from wsi_pipeline.models.preprocess import to_tensor
from wsi_pipeline.models.prompt_embedding import PromptTensors
from wsi_pipeline.models.windows import CELLS, Windows
from wsi_pipeline.training.data.samples import Picture, Sample

Encode = Callable[[np.ndarray], EncoderOutput]


@dataclass(frozen=True, slots=True)
class View:
    """One patch of each of B pairs.

    Attributes:
        seen: what the encoder sees.
        targets: (B, P, S, S) float32, masks of P objects, 0 where nothing is known.
        known: (B, 1, S, S) bool; of windows (B, P, s, s).
    """

    seen: EncoderOutput
    targets: Tensor
    known: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> View:
        """The same with another leading axis; ``change`` gets tensors (B, ...)."""
        return View(EncoderOutput(*map(change, self.seen)), change(self.targets), change(self.known))

    def within(self, windows: CellWindows | None) -> View:
        """Targets and what is known (B, P, s, s) in the prompts' windows; None for all of the patch."""
        if windows is None:
            return self
        cell = self.targets.shape[-1] // CELLS
        rows, columns = (_px_of(cells, cell) for cells in windows)
        image = torch.arange(len(rows), device=rows.device)[:, None, None, None]
        prompt = torch.arange(rows.shape[1], device=rows.device)[None, :, None, None]
        px = rows[..., :, None], columns[..., None, :]
        return replace(self, targets=self.targets[image, prompt, *px], known=self.known[image, 0 * prompt, *px])

    def separate(self) -> View:
        """As of ``Batch``."""
        count = self.targets.shape[1]
        apart = self.map(lambda part: part.repeat_interleave(count, dim=0))
        return replace(apart, targets=self.targets.flatten(0, 1).unsqueeze(1))


@dataclass(frozen=True, slots=True)
class Batch:
    """B pairs with P objects each.

    Attributes:
        high, low: the patches; low is None for models that look at one.
        pixels: (B, 3, S, S) float32 0..255 of the high patches.
    """

    high: View
    low: View | None
    pixels: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """As of ``View``."""
        return Batch(self.high.map(change), self.low.map(change) if self.low else None, change(self.pixels))

    def separate(self) -> Batch:
        """B * P pairs with one object each: a mask prompt changes the image's tokens, so each needs its own image."""
        low = None if self.low is None else self.low.separate()
        return Batch(self.high.separate(), low, self.pixels.repeat_interleave(self.high.targets.shape[1], dim=0))


def windows_around(boxes: Tensor, margin: float, size: int) -> CellWindows:
    """Windows of one side that hold boxes (B, P, 4) of a patch of ``size`` px, grown by ``margin`` of their size.

    Unlike in use they have no halo: their outermost two px, far from the object, are as if the image ended there.
    """
    found = Windows.around(boxes.flatten(0, 1).cpu().numpy(), margin, size)
    side = int(found.side.max())
    start = np.clip(found.start - (side - found.side)[:, None] // 2, 0, CELLS - side)
    first = torch.from_numpy(start).to(boxes.device).unflatten(0, boxes.shape[:2])
    cells = torch.arange(side, device=boxes.device)
    return CellWindows(rows=first[..., 1:] + cells, columns=first[..., :1] + cells)


def _px_of(cells: Tensor, cell: int) -> Tensor:
    """(B, P, h * cell) numbers of the px of cells (B, P, h)."""
    return (cells[..., None] * cell + torch.arange(cell, device=cells.device)).flatten(-2)


def separate_prompts(prompts: PromptTensors) -> PromptTensors:
    """The prompts (B, P) of ``Batch.separate``: (B * P, 1)."""
    parts = (prompts.boxes, prompts.points, prompts.point_labels, prompts.masks)
    return PromptTensors(*(None if part is None else part.flatten(0, 1).unsqueeze(1) for part in parts))


def objects_of(picture: Picture, smallest: int) -> np.ndarray:
    """(N,) labels of the objects that show at least ``smallest`` px of themselves, ascending."""
    labels, counts = np.unique(picture.labels[picture.known], return_counts=True)
    return labels[(labels > 0) & (counts >= smallest)]


def batch_of(
    samples: Sequence[Sample], chosen: Sequence[np.ndarray], encode: Encode, device: torch.device, *, pairs: bool
) -> Batch:
    """Put samples together.

    Args:
        samples: B samples of the encoder's size, with a low patch if ``pairs``.
        chosen: (P,) labels of the objects wanted of each.
        encode: gives the embeddings.
        device: of the result.
        pairs: whether the low patches are wanted.
    """
    highs = [sample.high for sample in samples]
    low = None
    if pairs:
        low = _view([sample.low for sample in samples if sample.low is not None], chosen, encode, device)
    pixels = to_tensor(np.stack([picture.image for picture in highs]), device)
    return Batch(_view(highs, chosen, encode, device), low, pixels)


def _view(pictures: Sequence[Picture], chosen: Sequence[np.ndarray], encode: Encode, device: torch.device) -> View:
    known = np.stack([picture.known for picture in pictures])[:, None]
    masks = [picture.labels == numbers[:, None, None] for picture, numbers in zip(pictures, chosen, strict=True)]
    return View(
        encode(np.stack([picture.image for picture in pictures])),
        torch.from_numpy(np.stack(masks) & known).to(device).float(),
        torch.from_numpy(known).to(device),
    )
