"""What a head is trained with: one YAML file for each system, checked as a whole before anything runs.

The recipes that ship, ``recipes/*.yaml``, name the papers' values where they differ from them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.models.lora_sam.settings import LoraSamParts
from wsi_pipeline.models.resolve import BACKBONES
from wsi_pipeline.models.sam_clip.facts import HeadShape
from wsi_pipeline.settings import Section
from wsi_pipeline.vocabulary import TEMPLATES, Classes, VocabularySettings
from wsi_pipeline.workflow import ModelSettings


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
    """How often each kind of prompt is drawn, relative to the others; the head is asked with these kinds in use."""

    box: float = Field(1, ge=0)
    point: float = Field(1, ge=0)
    mask: float = Field(1, ge=0)
    combined: float = Field(
        0.3, ge=0, le=1, description="how often points come with a box, and masks, which then always do, with points"
    )
    jitter: float = Field(0.1, ge=0, le=1, description="of boxes, a share of their size")
    points: int = Field(5, ge=1, description="most points inside an object; the number is drawn")
    negative: float = Field(0.3, ge=0, le=1, description="how often there are up to as many outside, too")
    smooth: float = Field(
        0.5, ge=0, le=1, description="how often masks are spoilt in patches, as drawn ones are, and not px by px"
    )

    @property
    def kinds(self) -> frozenset[str]:
        """Those that are drawn."""
        return frozenset(kind for kind in ("box", "point", "mask") if getattr(self, kind))


class Recipe(Section):
    """All that a training run depends on besides its data; a subclass for each system adds what is its own."""

    may_change: ClassVar[frozenset[str]] = frozenset({"epochs", "patience", "save_as"})
    """Keys that a run which goes on may have otherwise."""
    files: ClassVar[tuple[str, ...]] = ("weights",)
    """Keys that name weights, by catalogue or by path."""
    from_points: ClassVar[bool] = False
    """Whether a point in each object is all that is known of it; else annotations over slides are outlines."""

    system: str
    backbone: str = Field("lite-medsam", description="what the system stands on")
    weights: str | None = Field(None, description="trained weights to start from; null starts from the backbone alone")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: products in bfloat16, sums in float32")
    seed: int = Field(0, ge=0)
    epochs: int = Field(ge=1)
    patience: int = Field(5, ge=1, description="epochs without a better score after which training ends")
    classes: tuple[str, ...] = Field(
        (), description="of objects to train on; samples of others are left out; empty: all"
    )
    samples: int | None = Field(None, ge=1, description="train on so many samples only, drawn by the seed; null: all")
    mpp: float | None = Field(
        None, gt=0, description="µm per px at which annotations over slides are read; null: the slide's finest"
    )
    context_factor: float = Field(2.0, gt=1, le=16, description="how much farther the low patch sees")
    judged: bool = Field(True, description="whether epochs are judged; if not, all are trained and the last one counts")
    hold_out: float = Field(
        0.0, ge=0, lt=1, description="share of the training groups that epochs are judged on; 0: the samples marked val"
    )
    batch: int = Field(1, ge=1, description="patches computed at once")
    accumulate: int = Field(4, ge=1, description="batches of one step of the optimiser")
    save_as: Literal["fp32", "fp16"] = Field("fp32", description="numbers in the file of the result")
    ema: float = Field(0.99, ge=0, lt=1, description="decay of the averaged weights, which are the result")
    optimiser: Optimiser = Optimiser()

    @property
    def model(self) -> ModelSettings:
        """The model to start from; without weights, the plain backbone and not the head that ships for it."""
        weights = self.weights or BACKBONES[self.backbone].weights
        return ModelSettings(model=self.system, backbone=self.backbone, weights=weights)

    def used_with(self, weights: str) -> dict[str, Any]:
        """The section of a workflow that uses the result, by its name."""
        return {"segment": self.model.model_dump(include={"model", "backbone", "edges"}) | {"weights": weights}}

    def what_counts(self) -> dict[str, Any]:
        """All that has to stay the same when a run goes on: how long it may last is not part of it."""
        return self.model_dump(mode="json", exclude=set(self.may_change))

    def on_card(self) -> dict[str, Any]:
        """All of it, for others to read: files without the folders they were in."""
        told = self.model_dump(mode="json")
        return told | {key: Path(told[key]).name for key in self.files if told[key] is not None}

    def check(self) -> None:
        """Raises:
        TrainingError: keys do not fit each other.
        """
        if self.backbone not in BACKBONES:
            fix = f"Use one of {', '.join(BACKBONES)}"
            raise TrainingError(f"no such backbone: {self.backbone}", where="backbone", fix=fix)


class FrozenRecipe(Recipe):
    """Of a system whose encoder is frozen, so that its embeddings can be kept."""

    variants: int = Field(4, ge=1, description="augmented versions of each sample; each is encoded once")


class PromptedRecipe(FrozenRecipe):
    """Of a mask decoder that answers prompts."""

    trained: Literal["branch", "decoder"] = Field(
        "branch", description="the system's own tensors, as published, or the whole mask decoder"
    )
    objects: int = Field(8, ge=1, description="objects of a patch asked for at once")
    min_object: int = Field(16, ge=1, description="px of the patch; smaller objects are left out")
    judged_objects: int | None = Field(None, ge=1, description="of a sample that epochs are judged on; null: all")
    prompts: PromptShares = PromptShares()

    def check(self) -> None:
        super().check()
        if not self.prompts.kinds:
            raise TrainingError("no prompts are ever drawn", where="prompts", fix="Raise box, point or mask")
        if self.prompts.mask and self.prompts.combined and not self.prompts.box:
            fix = "Raise box, or set mask or combined to 0"
            raise TrainingError("masks come with boxes, which are never drawn alone", where="prompts", fix=fix)


class HqRecipe(PromptedRecipe):
    """HQ-SAM's."""

    with_sam_mask: bool = Field(
        False, description="the loss sees the sum with SAM's mask, as users do, not the branch alone"
    )
    window_margin: float | None = Field(
        0.5, ge=0, description="share of a box by which masks may reach beyond it; null: no limit"
    )


class WsiRecipe(HqRecipe):
    """WSI-SAM's."""

    files = (*HqRecipe.files, "hq_head")

    hq_head: str | None = Field(
        None, description="an HQ-SAM head that both decoders start from; the low token adds nothing at first"
    )


class PaRecipe(PromptedRecipe):
    """PA-SAM's."""

    edges: Literal["published", "image"] = Field("published", description="see segment.edges")
    mine_after: int = Field(5, ge=0, description="epochs before points are mined")

    @property
    def model(self) -> ModelSettings:
        return super().model.model_copy(update={"edges": self.edges})


class DomainRecipe(FrozenRecipe):
    """The domain decoder's."""

    low_patch: bool = Field(True, description="look at the low patch, too")


class LoraRecipe(Recipe):
    """LoRA-SAM's."""

    may_change = Recipe.may_change | {"recompute"}
    files = (*Recipe.files, "decoder")

    lora: LoraSamParts = Field(LoraSamParts(), description="adapter, pyramid and heads")
    decoder: str | None = Field(
        None, description="route domain-decoder: a trained one of high patches alone that the head starts from"
    )
    objects: int = Field(8, ge=1, description="objects of a patch whose masks are drawn in a step")
    min_object: int = Field(16, ge=1, description="px of the patch; smaller objects are left out")
    mask_dice: float = Field(0.0, ge=0, description="weight of Dice beside the cross entropy of masks")
    recompute: bool = Field(False, description="keep less of the encoder in memory and compute it twice")

    def check(self) -> None:
        super().check()
        if self.decoder is not None and self.lora.route != "domain-decoder":
            fix = "Set lora.route to domain-decoder, or remove the key"
            raise TrainingError(f"the route {self.lora.route} has no domain decoder", where="decoder", fix=fix)


class OvSamRecipe(FrozenRecipe):
    """Of Open-Vocabulary SAM's region head."""

    text: Literal["table", "minilm"] = Field(
        "table", description="a learned vector for each class, or those of a sentence encoder, which stay as they are"
    )
    synonyms: dict[str, tuple[str, ...]] = Field({}, description="other words for a class that mean the same")
    low_patch: bool = Field(True, description="look at the low patch, too")
    dim: int = Field(128, ge=2, description="length of learned vectors")
    objects: int = Field(8, ge=1, description="most objects of a version of a sample")
    min_object: int = Field(16, ge=1, description="px of the patch; smaller objects are left out")
    looks: int = Field(2, ge=1, description="patches of a sample that epochs are judged on, each around an object")

    @property
    def seen_factor(self) -> float | None:
        """How much farther the low patch sees; None where it is not looked at."""
        return self.context_factor if self.low_patch else None

    @property
    def vocabulary(self) -> VocabularySettings:
        """The classes and the words for them."""
        return VocabularySettings.model_validate(
            {"classes": {name: [name, *self.synonyms.get(name, ())] for name in self.classes}}
        )

    def used_with(self, weights: str) -> dict[str, Any]:
        classes = {one.name: list(one.synonyms) for one in self.vocabulary.classes}
        return {"recognise": {"model": self.system, "backbone": self.backbone, "weights": weights, "classes": classes}}

    def check(self) -> None:
        super().check()
        if len(set(self.classes)) < 2:
            raise TrainingError("there is nothing to tell apart", where="classes", fix="Name two classes or more")
        other = sorted(set(self.synonyms) - set(self.classes))
        if other:
            fix = "Name the class under classes, or take its synonyms out"
            raise TrainingError(f"{', '.join(other)} is no class", where="synonyms", fix=fix)


class SamClipRecipe(FrozenRecipe):
    """SAM-CLIP's.

    ``probe`` trains the head on the frozen encoder; ``merge`` all but the prompt encoder, with rehearsal of what SAM
    answers; ``resolution`` the head once more, with views of other sizes.
    """

    files = (*FrozenRecipe.files, "teacher")

    stage: Literal["probe", "merge", "resolution"] = Field("probe", description="what of the published schedule it is")
    teacher: str | None = Field(None, description="folder or checkpoint of an image-text network to learn from")
    teacher_model: str | None = Field(None, description="open_clip's name of the architecture, for a checkpoint")
    words: Classes = Field(
        (), description="classes, with words for them, whose vectors are kept in the file; none: the teacher is needed"
    )
    templates: tuple[str, ...] = Field(TEMPLATES, min_length=1, description="sentences that a word {} is put into")
    shape: HeadShape = Field(HeadShape(), description="size of the head")
    views: tuple[float, ...] = Field(
        (1.0, 0.5, 0.25), min_length=1, description="squares that teacher and head are shown, shares of a patch's side"
    )
    objects: int = Field(8, ge=1, description="masks of a patch that are rehearsed")
    min_object: int = Field(16, ge=1, description="px of the patch; smaller objects are left out")
    rehearsal: float = Field(10.0, ge=0, description="weight of what SAM answers in stage merge; 0: it may forget")
    encoder_rate: float = Field(0.1, gt=0, le=1, description="rate of encoder and decoder as a share of the head's")

    @property
    def merging(self) -> bool:
        """Whether the encoder is trained."""
        return self.stage == "merge"

    def used_with(self, weights: str) -> dict[str, Any]:
        classes = {one.name: list(one.synonyms) for one in self.words}
        return {"recognise": {"model": self.system, "backbone": self.backbone, "weights": weights, "classes": classes}}

    def check(self) -> None:
        super().check()
        if not all(0 < side <= 1 for side in self.views):
            raise TrainingError("a view is a share of a patch's side", where="views", fix="Use shares of at most 1")
        if self.stage != "probe" and self.weights is None:
            fix = "Set it to what the stage before wrote"
            raise TrainingError(f"stage {self.stage} goes on from trained weights", where="weights", fix=fix)
