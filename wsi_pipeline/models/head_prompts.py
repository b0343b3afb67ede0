"""What a trained head can be asked is a fact of its file: safetensors metadata that training writes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from wsi_pipeline.errors import WeightsError

ALL_PROMPTS = frozenset({"box", "point", "mask"})
_KEY = "prompts"


def prompts_metadata(kinds: Iterable[str]) -> dict[str, str]:
    """What the file of a head trained on these kinds of prompts says."""
    return {_KEY: ",".join(sorted(kinds))}


def trained_prompts(path: Path) -> frozenset[str] | None:
    """The kinds of prompts that a weight file says it was trained on; None where it does not say.

    Raises:
        WeightsError: it is unreadable, or names kinds that do not exist.
    """
    from wsi_pipeline.models.checkpoints import read_metadata

    said = read_metadata(path).get(_KEY)
    if said is None:
        return None
    kinds = frozenset(said.split(","))
    if not kinds <= ALL_PROMPTS:
        raise WeightsError(f"was trained on unknown prompts: {said}", where=path, fix="Train it again")
    return kinds
