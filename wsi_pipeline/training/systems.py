"""The systems that can be trained, and their recipes as they ship."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.settings import describe, read_settings, set_key
from wsi_pipeline.training.recipe import (
    DomainRecipe,
    HqRecipe,
    LoraRecipe,
    OvSamRecipe,
    PaRecipe,
    Recipe,
    SamClipRecipe,
    WsiRecipe,
)
from wsi_pipeline.training.sapnet_recipe import SapNetRecipe
from wsi_pipeline.training.semantic_sam_recipe import SemanticRecipe

RECIPES: dict[str, type[Recipe]] = {
    "hq-sam": HqRecipe,
    "pa-sam": PaRecipe,
    "wsi-sam": WsiRecipe,
    "domain-decoder": DomainRecipe,
    "lora-sam": LoraRecipe,
    "ov-sam": OvSamRecipe,
    "sam-clip": SamClipRecipe,
    "sapnet": SapNetRecipe,
    "semantic-sam": SemanticRecipe,
}
SYSTEMS = tuple(RECIPES)


def load_recipe(system: str, path: Path | None = None, overrides: dict[str, Any] | None = None) -> Recipe:
    """The recipe of a system that ships with the package, with changes.

    Args:
        system: one of ``SYSTEMS``.
        path: YAML file with keys that are to be otherwise.
        overrides: dotted keys and their values, e.g. ``{"optimiser.rate": 1e-4}``.

    Raises:
        TrainingError: no such system, an unreadable file, an unknown key or a wrong value.
    """
    if system not in SYSTEMS:
        raise TrainingError(f"no such system: {system}", fix=f"Train one of {', '.join(SYSTEMS)}")
    data = _read(Path(__file__).parent / "recipes" / f"{system}.yaml")
    changes = (flat(_read(path)) if path else {}) | (overrides or {})
    for key, value in changes.items():
        set_key(data, key, value, error=TrainingError, where=path or system, fix="See the recipe's keys")
    if data["system"] != system:
        raise TrainingError(f"is a recipe for {data['system']}", where=path, fix=f"Train {data['system']}")
    try:
        recipe = RECIPES[system].model_validate(data)
    except ValidationError as error:
        raise TrainingError(describe(error), where=path or system, fix="Correct the recipe") from None
    recipe.check()
    return recipe


def _read(path: Path) -> dict[str, Any]:
    return read_settings(path, error=TrainingError, what="recipe", fix="Write keys and values, e.g. `epochs: 20`")


def flat(data: dict[str, Any]) -> dict[str, Any]:
    """Keys of sections as dotted ones, so that a file can change one of them."""
    flat = {}
    for key, value in data.items():
        below = value.items() if isinstance(value, dict) else ()
        flat.update({f"{key}.{name}": inner for name, inner in below} or {str(key): value})
    return flat
