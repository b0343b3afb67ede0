"""What training leaves: a decoder that workflows load by its path, and a card that says what it was made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from wsi_pipeline import __version__
from wsi_pipeline.files import beside
from wsi_pipeline.models.weights import sha256_of
from wsi_pipeline.training.checkpoint import put
from wsi_pipeline.training.data.samples import SampleSource
from wsi_pipeline.training.data.summary import summarise
from wsi_pipeline.training.loop import Training
from wsi_pipeline.training.sources import TRAIN


def write_result(training: Training, data: Mapping[str, SampleSource], output: Path) -> Path:
    """Write the best decoder of a finished run as ``<system>.safetensors``, and its card beside it as ``.json``.

    Args:
        training: the run; its head is set to the best weights.
        data: the data sets by name.
        output: folder.

    Returns:
        Path of the weights.

    Raises:
        OutputError: a file cannot be written.
    """
    head = training.head
    put(head.trained, training.state.best)
    path = output / f"{training.recipe.system}.safetensors"
    with beside(path) as partial:
        state = {name: _stored(value, training.recipe.save_as) for name, value in head.tensors().items()}
        partial.write_bytes(save(state, metadata=head.metadata() or None))
    with beside(path.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(_card(training, data, path), indent=2) + "\n", encoding="utf-8")
    return path


def _stored(value: Tensor, precision: str) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.half() if precision == "fp16" and value.is_floating_point() else value


def _card(training: Training, data: Mapping[str, SampleSource], path: Path) -> dict[str, Any]:
    recipe = training.recipe
    return {
        "kind": training.head.kind,
        "file": path.name,
        "sha256": sha256_of(path),
        **recipe.used_with(path.name),
        "metrics": _metrics(training),
        "data": {name: _counts(source) for name, source in data.items()},
        "groups": {
            split: sorted({training.source.infos[number].group for number in training.source.numbers(split)})
            for split in (TRAIN, training.source.judged_on)
            if split is not None
        },
        "seed": recipe.seed,
        "recipe": recipe.on_card(),
        "backbone": training.state.made_for["backbone"],
        "versions": {"wsi-pipeline": __version__, "torch": str(torch.__version__)},
    }


def _metrics(training: Training) -> dict[str, Any] | None:
    """What judged the epochs, and how it did; None where nothing did."""
    split, history = training.source.judged_on, training.state.history
    if split is None:
        return None
    judgement = training.head.judgement
    scores = ("epoch", *judgement.names)
    return {
        "what": judgement.what.format(split=split),
        "before training": {name: history[0][name] for name in scores},
        "result": {name: training.best[name] for name in scores},
    }


def _counts(source: SampleSource) -> list[dict[str, Any]]:
    """What a data set holds, by split, classes and licence."""
    return [
        {
            "split": split,
            "classes": classes,
            "licence": licence,
            "samples": row.samples,
            "objects": row.objects,
            "groups": len(row.groups),
        }
        for (split, classes, licence), row in summarise(source).items()
    ]
