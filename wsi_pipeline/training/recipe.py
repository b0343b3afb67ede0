"""What a head is trained with: one YAML file for each system, checked as a whole before anything runs.

The recipes that ship, ``recipes/*.yaml``, name the papers' values where they differ from them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.models.lora_sam.settings import LoraSamParts
from wsi_pipeline.models.resolve import BACKBONES
from wsi_pipeline.settings import Section, describe, read_settings, set_key
from wsi_pipeline.workflow import ModelSettings

System = Literal["hq-sam", "pa-sam", "wsi-sam", "domain-decoder", "lora-sam"]
SYSTEMS: tuple[str, ...] = get_args(System)


class Optimiser(Section):
    """AdamW (Loshchilov & Hutter 2019); without weight decay it is Adam."""

    rate: float = Field(1e-3, gt=0, description="learning rate")
    decay_after: int | None = Field(None, ge=1, description="epochs after which the rate falls, again and again")
    decay_factor: float = Field(0.1, gt=0, le=1, description="what it is multiplied by")
    warm_up: int = Field(0, ge=0, description="steps in which the rate rises to its full height")
    clip: float | None = Field(None, gt=0, description="longest gradient; longer ones are shortened")
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)

    def rate_in(self, epoch: int, done: int) -> float:
        """The rate in an epoch, the first being 1, after so many steps of the whole run."""
        decays = (epoch - 1) // self.decay_after if self.decay_after else 0
        return self.rate * self.decay_factor**decays * min(1.0, (done + 1) / max(1, self.warm_up))


class PromptShares(Section):
    """How often each kind of prompt is drawn, relative to the others; kinds the backbone does not take are left out."""

    box: float = Field(1, ge=0)
    point: float = Field(1, ge=0)
    mask: float = Field(1, ge=0)
    jitter: float = Field(0.1, ge=0, le=1, description="of boxes, a share of their size")


class Recipe(Section):
    """All that a training run depends on besides its data."""

    system: System
    backbone: str = Field("lite-medsam", description="frozen")
    weights: str | None = Field(None, description="heads to start from; null starts from the backbone's own decoder")
    hq_head: str | None = Field(
        None, description="wsi-sam: an HQ-SAM head that both decoders start from; the low token adds nothing at first"
    )
    trained: Literal["branch", "decoder"] = Field(
        "branch", description="the system's own tensors, as published, or the whole mask decoder"
    )
    with_sam_mask: bool = Field(
        False, description="hq-sam, wsi-sam: the loss sees the sum with SAM's mask, as users do, not the branch alone"
    )
    edges: Literal["published", "image"] = Field("published", description="pa-sam: see segment.edges")
    mine_after: int = Field(5, ge=0, description="pa-sam: epochs before points are mined")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: products in bfloat16, sums in float32")
    seed: int = Field(0, ge=0)
    epochs: int = Field(ge=1)
    patience: int = Field(5, ge=1, description="epochs without a better boundary IoU after which training ends")
    variants: int = Field(4, ge=1, description="augmented versions of each sample; each is encoded once")
    classes: tuple[str, ...] = Field(
        (), description="of objects to train on; samples of others are left out; empty: all"
    )
    samples: int | None = Field(None, ge=1, description="train on so many samples only, drawn by the seed; null: all")
    low_patch: bool = Field(True, description="domain-decoder: look at the low patch, too")
    lora: LoraSamParts = Field(LoraSamParts(), description="lora-sam: adapter, pyramid and heads")
    mask_dice: float = Field(0.0, ge=0, description="lora-sam: weight of Dice beside the cross entropy of masks")
    recompute: bool = Field(False, description="lora-sam: keep less of the encoder in memory and compute it twice")
    mpp: float | None = Field(
        None, gt=0, description="µm per px at which annotations over slides are read; null: the slide's finest"
    )
    context_factor: float = Field(2.0, gt=1, le=16, description="how much farther the low patch sees")
    objects: int = Field(8, ge=1, description="objects of a patch asked for at once")
    judged: bool = Field(True, description="whether epochs are judged; if not, all are trained and the last one counts")
    hold_out: float = Field(
        0.0, ge=0, lt=1, description="share of the training groups that epochs are judged on; 0: the samples marked val"
    )
    judged_objects: int | None = Field(None, ge=1, description="of a sample that epochs are judged on; null: all")
    window_margin: float | None = Field(
        0.5,
        ge=0,
        description="hq-sam, wsi-sam: share of a box by which masks may reach beyond it; null: no limit",
    )
    min_object: int = Field(16, ge=1, description="px of the patch; smaller objects are left out")
    batch: int = Field(1, ge=1, description="patches computed at once")
    accumulate: int = Field(4, ge=1, description="batches of one step of the optimiser")
    save_as: Literal["fp32", "fp16"] = Field("fp32", description="numbers in the file of the result")
    ema: float = Field(0.99, ge=0, lt=1, description="decay of the averaged weights, which are the result")
    optimiser: Optimiser = Optimiser()
    prompts: PromptShares = PromptShares()

    @property
    def model(self) -> ModelSettings:
        """The model to start from; without weights, the plain backbone and not the head that ships for it."""
        weights = self.weights or BACKBONES[self.backbone].weights
        return ModelSettings(model=self.system, backbone=self.backbone, weights=weights, edges=self.edges)

    def what_counts(self) -> dict[str, Any]:
        """All that has to stay the same when a run goes on: how long it may last is not part of it."""
        of_others = set() if self.system == "lora-sam" else {"lora", "mask_dice"}
        return self.model_dump(mode="json", exclude={"epochs", "patience", "save_as", "recompute"} | of_others)


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
    changes = (_flat(_read(path)) if path else {}) | (overrides or {})
    for key, value in changes.items():
        set_key(data, key, value, error=TrainingError, where=path or system, fix="See the recipe's keys")
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise TrainingError(describe(error), where=path or system, fix="Correct the recipe") from None
    _check(recipe, system, path)
    return recipe


def _check(recipe: Recipe, system: str, where: Path | None) -> None:
    if recipe.system != system:
        raise TrainingError(f"is a recipe for {recipe.system}", where=where, fix=f"Train {recipe.system}")
    if recipe.backbone not in BACKBONES:
        raise TrainingError(
            f"no such backbone: {recipe.backbone}", where="backbone", fix=f"Use one of {', '.join(BACKBONES)}"
        )
    kinds = BACKBONES[recipe.backbone].prompt_kinds
    if not any(getattr(recipe.prompts, kind) for kind in kinds):
        raise TrainingError(
            f"{recipe.backbone} takes none of these prompts", where="prompts", fix=f"Raise {' or '.join(sorted(kinds))}"
        )


def _read(path: Path) -> dict[str, Any]:
    return read_settings(path, error=TrainingError, what="recipe", fix="Write keys and values, e.g. `epochs: 20`")


def _flat(data: dict[str, Any]) -> dict[str, Any]:
    """Keys of sections as dotted ones, so that a file can change one of them."""
    flat = {}
    for key, value in data.items():
        below = value.items() if isinstance(value, dict) else ()
        flat.update({f"{key}.{name}": inner for name, inner in below} or {str(key): value})
    return flat
