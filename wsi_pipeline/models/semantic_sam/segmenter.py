"""Semantic-SAM at work: clicks and boxes of a pipeline, answered at the granularity that is asked for.

Of each prompt the wanted answers alone are drawn, within its window. What the decoder's layers look at is computed once
for the images that are asked about, so that many small calls cost little more than a large one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wsi_pipeline.models.collected import Collected
from wsi_pipeline.models.encoding import PatchEncoder, shared_encoder
from wsi_pipeline.models.placing import placed, suited
from wsi_pipeline.models.preprocess import to_tensor
from wsi_pipeline.models.roles import MaskBatch, PairImages, PromptBatch
from wsi_pipeline.models.sam import Sam
from wsi_pipeline.models.segmenter import MASK_SIZE
from wsi_pipeline.models.semantic_sam.answers import GUESSES, Features
from wsi_pipeline.models.semantic_sam.asking import Asked
from wsi_pipeline.models.semantic_sam.decoder import Judged, draw
from wsi_pipeline.models.semantic_sam.file import PROMPTS
from wsi_pipeline.models.semantic_sam.mini import MiniSemanticSam
from wsi_pipeline.models.semantic_sam.model import SemanticSam
from wsi_pipeline.models.semantic_sam.network import SemanticNetwork
from wsi_pipeline.models.windows import CELLS, Windows, cut_windows, plan_calls

PUBLISHED_SIZE = 640
"""Side in px of the patches of the published network, which takes any: that of its demonstration."""


@dataclass(slots=True)
class SemanticEmbedding:
    """B encoded patches.

    Attributes:
        features: of all of them.
    """

    features: Features
    _last: tuple[list[int], Features] | None = field(default=None, init=False)

    def of(self, images: np.ndarray, network: SemanticNetwork) -> Features:
        """Features of some of them, ready to be asked again."""
        key = images.tolist()
        if self._last is None or self._last[0] != key:
            some = self.features._replace(masks=self.features.masks[key], memory=self.features.memory[key])
            self._last = key, some._replace(values=network.decoder.values(some))
        return self._last[1]


class Said(NamedTuple):
    """What a call says of p prompts on each of b images.

    Attributes:
        rows: (b, p) int64 numbers of the prompts.
        asked: the prompts.
        features: of the images.
        judged: six answers to each.
    """

    rows: np.ndarray
    asked: Asked
    features: Features
    judged: Judged


class SemanticSegmenter:
    """Answers clicks and boxes; see ``roles.Segmenter``.

    Without a level, an answer is the one of the surest quality among those that suit the prompt's points. The predicted
    IoU is that of the Dice which the network predicts.

    Args:
        network: answers.
        see: gives what the network makes features of, of (B, S, S, 3) uint8 RGB patches.
        size: S.
        levels: the number of the answer of each level, the coarsest first.
        device: where the network is.
        encoder: what others share, if ``see`` asks it.
    """

    uses_low_patch = False
    mask_size = MASK_SIZE
    n_guesses = GUESSES
    prompt_kinds = PROMPTS

    def __init__(
        self,
        network: SemanticNetwork,
        see: Callable[[np.ndarray], Any],
        size: int,
        levels: Sequence[int],
        *,
        device: torch.device,
        encoder: PatchEncoder | None = None,
    ) -> None:
        self.input_size, self.encoder = size, encoder
        self._network, self._see, self._device = network.eval(), see, device
        self._levels = torch.tensor(levels, device=device)
        # so what queries and drawn masks take up stays bounded
        self._prompts_per_call = suited(device, cpu=64, gpu=256)
        self._images_per_call = suited(device, cpu=1, gpu=8)

    @torch.inference_mode()
    def encode(self, pairs: PairImages) -> SemanticEmbedding:
        """Embed B pairs once; the low patches are not looked at."""
        step = self._images_per_call
        parts = [
            self._network.features(self._see(pairs.high[start : start + step])) for start in range(0, len(pairs), step)
        ]
        masks, memory = (torch.cat([getattr(part, name) for part in parts]) for name in ("masks", "memory"))
        return SemanticEmbedding(Features(masks, memory, parts[0].shapes))

    @torch.inference_mode()
    def decode(
        self, embedding: SemanticEmbedding, prompts: PromptBatch, *, margin: float | None = None, guesses: bool = False
    ) -> MaskBatch:
        """Answer N prompts.

        Args:
            embedding: what ``encode`` returned.
            prompts: the questions, and the levels they ask for.
            margin: with a box prompt, give only a window that holds the box grown by this share of its size on every
                side; None gives the whole patch.
            guesses: give the answers of all levels to each prompt, the coarsest first, instead of one.

        Returns:
            Windows of one size; px that one prompt's own window does not reach are ``BACKGROUND_LOGIT``.

        Raises:
            PromptError: see ``Asked.of``.
        """
        n, each = len(prompts), GUESSES if guesses else 1
        if margin is None or prompts.boxes is None:
            windows = Windows.whole(n)
        else:
            windows = Windows.around(prompts.boxes, margin, self.input_size)
        size, collected = self.input_size, Collected(windows.repeated(each), self.input_size)
        for said in self.ask(embedding, prompts, windows.side):
            wanted = self._wanted(said, guesses)
            masks = draw(said.features, said.judged.vectors.take_along_dim(wanted.unsqueeze(-1), dim=2))
            dice = said.judged.quality.take_along_dim(wanted, dim=2).clamp(max=1)
            rows = (each * said.rows[..., None] + np.arange(each)).ravel()
            corner = torch.from_numpy(collected.corner[rows]).to(self._device)
            side = int(windows.side[said.rows.flat[0]]) * (size // CELLS)
            cut = cut_windows(masks.flatten(0, 2), (size, size), corner, side)
            collected.put(rows, cut, (dice / (2 - dice)).flatten())
        return collected.masks

    def ask(self, embedding: SemanticEmbedding, prompts: PromptBatch, side: np.ndarray) -> Iterator[Said]:
        """Answer N prompts before masks are drawn, call by call, those of one ``side`` (N,) together.

        Raises:
            PromptError: see ``Asked.of``.
        """
        asked = Asked.of(prompts, self.input_size, self._device)
        for call in plan_calls(prompts.image_index, side, self._prompts_per_call, self._images_per_call):
            features = embedding.of(call.images, self._network)
            here = asked.take(torch.from_numpy(call.rows).to(self._device))
            (judged,) = self._network.judge(features, here.boxes, here.kinds)
            yield Said(call.rows, here, features, judged)

    def _wanted(self, said: Said, guesses: bool) -> Tensor:
        """(b, p, k) numbers of the answers to give."""
        if guesses:
            return self._levels.expand(*said.rows.shape, -1)
        if said.asked.levels is not None:
            return self._levels[said.asked.levels - 1].unsqueeze(-1)
        return said.asked.best(said.judged, said.features).unsqueeze(-1)


def on_sam(
    network: MiniSemanticSam, sam: Sam, levels: Sequence[int], *, device: str | torch.device, dtype: torch.dtype
) -> SemanticSegmenter:
    """The small network on a SAM's encoder, which others share.

    Args:
        network: computes in float32.
        sam: the backbone.
        levels: as of ``SemanticSegmenter``.
        device, dtype: where to compute, and what the encoder computes in.
    """
    where = torch.device(device)
    encoder = shared_encoder(sam.image_encoder, sam.variant.pixels, sam.variant.image_size, device=where, dtype=dtype)
    return SemanticSegmenter(
        placed(network, where, torch.float32),
        lambda images: encoder.encode(images)[0],
        encoder.size,
        levels,
        device=where,
        encoder=encoder,
    )


def published(
    network: SemanticSam, levels: Sequence[int], *, device: str | torch.device, dtype: torch.dtype
) -> SemanticSegmenter:
    """The published network; arguments as of ``on_sam``, of which the backbone computes in ``dtype``."""
    where = torch.device(device)
    network = placed(network, where, torch.float32)
    network.backbone.to(dtype)
    return SemanticSegmenter(network, lambda images: to_tensor(images, where), PUBLISHED_SIZE, levels, device=where)
