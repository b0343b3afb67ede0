"""What can be asked about objects: heads, their backbone, and an ellipse."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.heads.tiles import AskedPatch
from wsi_pipeline.errors import WeightsError
from wsi_pipeline.models.registry import find_model
from wsi_pipeline.models.resolve import DEFAULT_BACKBONE
from wsi_pipeline.models.roles import PromptBatch
from wsi_pipeline.models.segmenter import BatchedSegmenter
from wsi_pipeline.models.weights import sha256_of
from wsi_pipeline.segment.decoding import decode_in_calls
from wsi_pipeline.workflow import ModelSettings, SegmentSettings

MARGIN = SegmentSettings().window_margin
DEVICE, PRECISION = "cpu", "fp32"
BACKBONE = "sam"

Ask = Callable[[PromptBatch], np.ndarray]
"""Prompts to (N, S, S) bool masks."""


class Subject(Protocol):
    """Something that draws masks."""

    def about(self, patch: AskedPatch) -> Ask:
        """Look at a patch once, to be asked about it in several ways."""
        ...


class Ellipse:
    """The ellipse that fills the box, which is what a box says of a round object without any image."""

    def about(self, patch: AskedPatch) -> Ask:
        size = patch.truth.shape[-1]

        def ask(prompts: PromptBatch) -> np.ndarray:
            assert prompts.boxes is not None
            return inscribed(prompts.boxes, size)

        return ask


class Model:
    """A head, or a bare backbone.

    Args:
        segmenter: answers.
        embeddings: folder to keep embeddings in, for all models of one backbone; None keeps none.

    Attributes:
        prompt_kinds: what it takes, of ``box``, ``point`` and ``mask``.
    """

    def __init__(self, segmenter: BatchedSegmenter, embeddings: Path | None) -> None:
        segmenter.encoder.keep_in(embeddings)
        self._segmenter = segmenter
        self.prompt_kinds = segmenter.prompt_kinds

    def about(self, patch: AskedPatch) -> Ask:
        embedding = self._segmenter.encode(patch.pair)
        size = self._segmenter.input_size

        def ask(prompts: PromptBatch) -> np.ndarray:
            masks = np.zeros((len(prompts), size, size), bool)
            for rows, answers in decode_in_calls(self._segmenter, embedding, prompts, margin=MARGIN):
                masks[rows] = answers.on_patch(size)
            return masks

        return ask


def inscribed(boxes: np.ndarray, size: int) -> np.ndarray:
    """(N, S, S) bool: px whose centres are in the ellipses in boxes (N, 4) ``x0, y0, x1, y1``."""
    line = np.arange(size) + 0.5
    x0, y0, x1, y1 = boxes.astype(np.float64).T[:, :, None]
    across, down = (
        np.square((line - (first + last) / 2) / np.maximum((last - first) / 2, 1e-9))
        for first, last in ((x0, x1), (y0, y1))
    )
    inside: np.ndarray = down[:, :, None] + across[:, None, :] <= 1
    return inside


def parse_heads(words: list[str]) -> dict[str, Path | None]:
    """Weight files by system, of ``NAME`` and ``NAME=FILE``.

    Raises:
        ValueError: one is named twice, is the backbone, or takes no prompts.
        WorkflowError: there is no such model.
    """
    found: dict[str, Path | None] = {}
    for word in words:
        name, _, file = word.partition("=")
        if "Segmenter" not in find_model(name).roles:
            raise ValueError(f"{name} takes no prompts")
        if name in found or name == BACKBONE:
            raise ValueError(f"{name} is compared already")
        found[name] = Path(file) if file else None
    return found


def settings_of(system: str, weights: Path | None) -> ModelSettings:
    """How a system is asked with weights; the card that training leaves beside them says what else they need.

    Args:
        system: ``sam``, ``hq-sam``, ``pa-sam`` or ``wsi-sam``.
        weights: a file, or None for the model's default.

    Raises:
        WeightsError: the card is of another system.
    """
    if weights is None:
        return ModelSettings(model=system)
    known = card_of(weights).get("segment", {})
    if known.get("model", system) != system:
        raise WeightsError(f"is of {known['model']}", where=weights, fix=f"Give it as --head {known['model']}=…")
    settings = {"model": system, "backbone": DEFAULT_BACKBONE, **known, "weights": str(weights)}
    return ModelSettings.model_validate(settings)


def card_of(weights: Path) -> dict[str, Any]:
    """What training wrote beside a weight file; empty where there is nothing.

    Raises:
        WeightsError: it cannot be read.
    """
    path = weights.with_suffix(".json")
    if not path.is_file():
        return {}
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot be read ({error})", where=path, fix="Take it away, or write it anew") from None
    return card


def build(settings: ModelSettings, embeddings: Path | None) -> Model:
    """The model of a section, ready to be asked.

    Raises:
        WorkflowError, WeightsError: there is no such model, or its files do not fit.
    """
    segmenter = find_model(settings.model).build(settings, device=DEVICE, dtype=PRECISION)
    assert isinstance(segmenter, BatchedSegmenter)
    return Model(segmenter, embeddings)


def origin_of(settings: ModelSettings, groups: Collection[str]) -> dict[str, Any]:
    """Where a model's weights are from, as plain data.

    Args:
        settings: the model.
        groups: of the tiles it is measured on.

    Returns:
        ``files``: name and digest by role; ``knows``: by split, which of the groups its training saw, or None where
        no card says.
    """
    paths = find_model(settings.model).weight_files(settings)
    cards = [card["groups"] for path in paths.values() if "groups" in (card := card_of(path))]
    return {
        "files": {role: {"file": path.name, "sha256": sha256_of(path)} for role, path in paths.items()},
        "knows": {split: sorted(set(groups) & set(names)) for split, names in cards[0].items()} if cards else None,
    }
