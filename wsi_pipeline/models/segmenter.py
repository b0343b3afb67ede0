"""What the segmenters of the SAM family share: batching, windows, placement on a device.

On a CPU images are decoded one at a time: larger batches are slower there, and an image's masks then do not depend on
its neighbours in the batch, to the last bit. On a GPU images and prompts are batched.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.errors import PromptError
from wsi_pipeline.models.coarse_prompts import prompts_of_masks
from wsi_pipeline.models.collected import BACKGROUND_LOGIT, Collected
from wsi_pipeline.models.encoding import shared_encoder
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.mask_decoder import PX_PER_CELL, CellWindows
from wsi_pipeline.models.placing import placed, suited
from wsi_pipeline.models.prompt_embedding import PromptTensors
from wsi_pipeline.models.roles import MaskBatch, PairImages, PromptBatch
from wsi_pipeline.models.windows import CELLS, Windows, plan_calls

if TYPE_CHECKING:
    from wsi_pipeline.models.sam import Sam

MASK_SIZE = CELLS * PX_PER_CELL
"""Side in px of low-resolution masks, as prompts and before up-scaling."""


@dataclass(frozen=True, slots=True)
class PairEmbedding:
    """B encoded pairs.

    Attributes:
        high: the high patches' encoder output.
        low: the low patches', or None where the model does not look at them.
        context_factor: how much farther the low patches see.
        guide: what a model needs of the high patches' pixels besides; None for most.
    """

    high: EncoderOutput
    low: EncoderOutput | None
    context_factor: float
    guide: Any = None


Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class DecoderCall:
    """P prompts on each of b images, to be answered at once.

    Attributes:
        images: (b,) int64, numbers of the images within their embedding.
        prompts: (b, P) prompts.
        windows: cells to draw; None for all.
        guesses: whether all guesses are wanted.
        memo: what earlier calls of the same ``decode`` left for ``per_image``.
    """

    images: Tensor
    prompts: PromptTensors
    windows: CellWindows | None
    guesses: bool
    memo: dict[str, Any]

    def per_image(self, name: str, compute: Callable[[], Value]) -> Value:
        """``compute()``, or what it gave under that name when the same images were asked about the last time."""
        key = self.images.tolist()
        of_images, value = self.memo.get(name, (None, None))
        if of_images != key:
            value = compute()
            self.memo[name] = key, value
        return value

    def image_side(self, compute: Callable[[], Value]) -> Value:
        """What decoding needs of the images: shared by calls, unless masks of the prompts are part of it."""
        return compute() if self.prompts.masks is not None else self.per_image("image side", compute)


class BatchedSegmenter(ABC):
    """Base of the segmenters; a subclass says how prompts on an embedding are answered.

    Weights are read when the segmenter is made; the given model is not changed, and later changes of it may or may
    not be seen.

    Args:
        sam: the model whose image and prompt encoder to use.
        device: where to compute.
        dtype: what to compute in; coordinates and results stay float32.
        decode_batch: most prompts of an image decoded at once; None for what suits the device.
        multimask: whether a prompt's mask is the best of three guesses by predicted IoU instead of the single mask;
            None: for single points, which are ambiguous. Models that have no guesses give the single mask.
        prompt_kinds: what the model was trained to answer; None: what its backbone was.
    """

    uses_low_patch = False
    mask_size = MASK_SIZE
    n_guesses = 1

    def __init__(
        self,
        sam: Sam,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        decode_batch: int | None = None,
        multimask: bool | None = None,
        prompt_kinds: frozenset[str] | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.dtype = dtype
        self.variant = sam.variant
        self.input_size = sam.variant.image_size
        self.prompt_kinds = sam.variant.prompt_kinds if prompt_kinds is None else prompt_kinds
        self._multimask = multimask
        self._decode_batch = decode_batch or suited(self.device, cpu=8, gpu=64)
        self._images_per_call = suited(self.device, cpu=1, gpu=16)
        self.encoder = shared_encoder(
            sam.image_encoder, sam.variant.pixels, self.input_size, device=self.device, dtype=dtype
        )
        # coordinates need float32 whatever the rest computes in
        self._prompt_encoder = placed(sam.prompt_encoder, self.device, torch.float32)
        with torch.inference_mode():
            self._position = self._prompt_encoder.get_dense_pe()[0]

    def encode(self, pairs: PairImages) -> PairEmbedding:
        """Embed B pairs once; the low patches only where the model looks at them.

        Raises:
            ValueError: it does, and they are missing; or patches of another size.
        """
        if not self.uses_low_patch:
            (high,) = self.encoder.encode(pairs.high)
            return PairEmbedding(high, None, pairs.context_factor)
        if pairs.low is None:
            raise ValueError("the model looks at pairs of patches; the low ones are missing")
        high, low = self.encoder.encode(pairs.high, pairs.low)
        return PairEmbedding(high, low, pairs.context_factor)

    @abstractmethod
    def _answer(self, embedding: PairEmbedding, asked: DecoderCall) -> tuple[Tensor, Tensor]:
        """Answer P prompts on each of b images with K masks each.

        Args:
            embedding: what ``encode`` returned.
            asked: the prompts; K is ``n_guesses`` if it wants guesses, else 1.

        Returns:
            (b, P, K, 4h', 4w') float32 logits and (b, P, K) float32 predicted IoU.
        """

    def _ambiguous(self, asked: DecoderCall) -> Tensor | None:
        """(b, P) bool: prompts whose mask is the best of three guesses; None for none."""
        if self._multimask is None and not asked.guesses:
            return asked.prompts.ambiguous() if self.variant.guesses else None
        return asked.prompts.all_of_them() if self.variant.guesses and self._multimask is not False else None

    @torch.inference_mode()
    def decode(
        self, embedding: PairEmbedding, prompts: PromptBatch, *, margin: float | None = None, guesses: bool = False
    ) -> MaskBatch:
        """Answer N prompts.

        Args:
            embedding: what ``encode`` returned.
            prompts: the questions, in px of the high patch.
            margin: with a box prompt, decode only a window that holds the box grown by this share of its size on
                every side; None decodes the whole patch.
            guesses: give ``n_guesses`` masks for each prompt, one after the other, instead of one.

        Returns:
            Windows of one size; px that one prompt's own window does not reach are ``BACKGROUND_LOGIT``.

        Raises:
            PromptError: prompts of a kind the model was not trained for, or none at all.
        """
        self._check(prompts)
        n = len(prompts)
        if n == 0:
            empty = np.zeros((0, self.input_size, self.input_size), np.float32)
            return MaskBatch(empty, np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
        if margin is None or prompts.boxes is None:
            windows = Windows.whole(n)
        else:
            windows = Windows.around(prompts.boxes, margin, self.input_size)
        answers = self.n_guesses if guesses else 1
        canvas = Canvas(windows.repeated(answers), self.input_size)
        memo: dict[str, Any] = {}
        # a mask changes the image's tokens, so such a prompt has an image of its own
        chunk, images = self._decode_batch if prompts.masks is None else 1, self._images_per_call
        for call in plan_calls(prompts.image_index, windows.side, chunk, images):
            tensors = PromptTensors.of(prompts, call.rows, self.device)
            index = torch.from_numpy(call.images).to(self.device)
            cells = cells_to_draw(windows, call.rows, self.device)
            logits, iou = self._answer(embedding, DecoderCall(index, tensors, cells, guesses, memo))
            rows = answers * call.rows.reshape(-1, 1) + np.arange(answers)
            canvas.put(rows.ravel(), logits.flatten(0, 2), iou.flatten())
        return canvas.masks()

    def refine(
        self,
        embedding: PairEmbedding,
        coarse: np.ndarray,
        image_index: np.ndarray,
        *,
        margin: float | None = None,
        points: int = 0,
    ) -> MaskBatch:
        """Sharper masks from coarse logits (N, M, M) over the whole high patch, M = ``mask_size``.

        The model is asked with the mask's bounding box, with points on its middle line and with the mask itself, as
        far as it knows such prompts. A mask without any px above 0 stays empty.
        """
        px = self.input_size / self.mask_size
        prompts = prompts_of_masks(coarse, image_index, self.prompt_kinds, px=px, points=points)
        answer = self.decode(embedding, prompts, margin=margin)
        empty = ~(coarse > 0).any(axis=(1, 2))
        answer.logits[empty] = BACKGROUND_LOGIT
        answer.iou[empty] = 0
        return answer

    def _check(self, prompts: PromptBatch) -> None:
        given = {"box": prompts.boxes, "point": prompts.points, "mask": prompts.masks}
        kinds = {kind for kind, values in given.items() if values is not None}
        known = ", ".join(sorted(self.prompt_kinds))
        if not kinds:
            raise PromptError("a prompt needs a box, a point or a mask", where=self.variant.name)
        if not kinds <= self.prompt_kinds:
            unknown = ", ".join(sorted(kinds - self.prompt_kinds))
            fix = f"Use {known} prompts, or another model"
            raise PromptError(f"the model was not trained for {unknown} prompts", where=self.variant.name, fix=fix)


def cells_to_draw(windows: Windows, rows: np.ndarray, device: torch.device) -> CellWindows | None:
    """The cells to draw for prompts ``rows`` (b, P), whose windows are of one side; None for all."""
    drawn = windows.drawn()
    side = int(drawn.side[rows.flat[0]])
    if side == CELLS:
        return None
    first = torch.from_numpy(drawn.start[rows]).to(device)
    cells = torch.arange(side, device=device)
    return CellWindows(rows=first[..., 1:] + cells, columns=first[..., :1] + cells)


class Canvas:
    """Collects the masks of N prompts.

    Args:
        windows: one for each.
        size: side of the patch, px.
    """

    def __init__(self, windows: Windows, size: int) -> None:
        self._windows, self._drawn = windows, windows.drawn()
        self._cell, self._collected = size // CELLS, Collected(windows, size)

    def put(self, rows: np.ndarray, logits: Tensor, iou: Tensor) -> None:
        """Take drawn logits (n, 4h', 4w') and the IoU (n,) of prompts ``rows`` (n,) with windows of one side."""
        self._collected.put(rows, self._trim(self._to_patch_px(logits), rows), iou)

    def masks(self) -> MaskBatch:
        return self._collected.masks

    def _to_patch_px(self, logits: Tensor) -> Tensor:
        """One value per patch px; the drawn window's edge is either the patch's or within the halo."""
        factor = self._cell // PX_PER_CELL
        if factor == 1:
            return logits
        return F.interpolate(logits.unsqueeze(1), scale_factor=factor, mode="bilinear", align_corners=False).squeeze(1)

    def _trim(self, logits: Tensor, rows: np.ndarray) -> Tensor:
        """Cut the halo off (n, H, W) logits."""
        side = int(self._windows.side[rows[0]]) * self._cell
        if side == logits.shape[-1]:
            return logits
        inset = (self._windows.start[rows] - self._drawn.start[rows]) * self._cell
        first = torch.from_numpy(inset).to(logits.device)
        px = torch.arange(side, device=logits.device)
        n = torch.arange(len(rows), device=logits.device)
        return logits[n[:, None, None], (first[:, 1:] + px)[:, :, None], (first[:, :1] + px)[:, None, :]]
