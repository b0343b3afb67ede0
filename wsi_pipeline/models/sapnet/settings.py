"""What a SAPNet consists of and its hyper-parameters, with the paper's symbols; trained files carry it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from wsi_pipeline.settings import Section

EMBEDDED, RESNET = "embedding", "resnet50"
"""What feature maps can be made of besides the backbones of timm."""
Five = tuple[int, int, int, int, int]
Range = tuple[float, float]
Ranges = tuple[Range, Range, Range, Range, Range]


class SelectorSettings(Section):
    """Who chooses among the proposals (PSM, PRM), and by what."""

    hidden: int = Field(256, ge=8, description="width of the two layers that look at a box")
    roi: int = Field(7, ge=1, description="cells along the side of a box as it is looked at")
    guidance: Literal["logits", "score", "none"] = Field(
        "logits", description="what S^dis multiplies: class logits (published code), score (paper), or none"
    )
    d: float = Field(1 / 64, gt=0, le=1, description="exponent of S^dis")
    mining: bool = Field(True, description="grow the chosen box towards the first three proposals (BMS)")
    slack: float = Field(2.0, ge=0, description="px by which BMS lets a box stick out of one that contains it")
    slack_share: float | None = Field(None, gt=0, le=1, description="at most this share of the box's shorter side")
    refine: bool = Field(True, description="choose once more among boxes around the first choice (PRM)")
    negatives: int = Field(100, ge=0, description="random boxes of an image that should show no object")
    negative_sizes: Literal["proposals", "image"] = Field(
        "proposals", description="of random boxes: about as large as what is proposed, or of any size, as published"
    )
    negative_iou: float = Field(0.3, gt=0, le=1, description="they stay below this IoU with every proposal")
    part_limit: float | None = Field(
        24.0**2,
        ge=0,
        description="px² from which on the inner half of an object's box is a negative, too; null for never",
    )
    evidence: float | None = Field(
        0.25,
        ge=0,
        le=1,
        description="exponent of a mask's class in the last choice, beside what its segmenter thinks of it and S^dis;"
        " null: the mask nearest to the final box, as published",
    )
    weight: float = Field(0.25, ge=0, description="lambda, weight of the loss of the first choice")
    alpha: float = Field(0.25, ge=0, le=1, description="share of positives in the loss of the second choice")
    published: bool = Field(False, description="with the published code's quirks")


class SoloSettings(Section):
    """The instance branch (SOLOv2, Wang et al. 2020); sizes are px of the patch."""

    channels: int = Field(128, ge=32, multiple_of=32, description="of the convolutions of both branches")
    stacked: int = Field(2, ge=1, description="convolutions of each branch")
    kernel: int = Field(64, ge=32, multiple_of=32, description="channels of kernels and of the mask feature")
    mask_channels: int = Field(64, ge=32, multiple_of=32, description="channels that the mask feature is made in")
    grids: Five = Field((32, 28, 20, 12, 8), description="cells along the side of the patch, level by level")
    scale_ranges: Ranges = Field(
        ((1, 24), (12, 48), (24, 96), (48, 192), (96, 2048)), description="square root of the box area, level by level"
    )
    sigma: float = Field(0.2, gt=0, le=1, description="share of an object's box, around its centre, that answers")
    dice: float = Field(3.0, gt=0, description="weight of the masks' loss")
    extra: float = Field(0.5, ge=0, description="weight of the ranked masks beside the chosen one (MPS)")
    smallest: Five = Field((1, 2, 4, 8, 16), description="masks of no more cells are dropped, level by level")
    nms: Literal["gaussian", "linear"] = Field("gaussian", description="how overlap lowers scores")
    nms_sigma: float = Field(2.0, gt=0, description="sigma of gaussian")
    candidates: int = Field(2000, ge=1, description="the best of a patch that Matrix-NMS compares")
    min_score: float = Field(0.05, ge=0, le=1, description="what Matrix-NMS leaves less of is dropped")


class SapNetSettings(Section):
    """The parts of a SAPNet; the defaults train on a CPU on embeddings of 256 px patches."""

    classes: tuple[str, ...] = Field(min_length=1, description="classes of the clicks")
    width: int = Field(128, ge=32, multiple_of=32, description="channels of the feature maps")
    features: str = Field(
        EMBEDDED, description="what the maps are made of: the embedding, resnet50, or a backbone by its name in timm"
    )
    finest: int = Field(0, ge=0, le=2, description="how often the finest map halves the embedding's stride")
    selector: SelectorSettings = Field(SelectorSettings(), description="who chooses among proposals")
    instances: bool = Field(True, description="train the instance branch, which needs no clicks afterwards")
    solo: SoloSettings = Field(SoloSettings(), description="the instance branch")

    @model_validator(mode="after")
    def _classes_differ(self) -> Self:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: each needs a name of its own")
        return self

    @classmethod
    def published(cls, classes: tuple[str, ...]) -> Self:
        """The published configuration, for ResNet-50 and images of 800 px."""
        selector = SelectorSettings(
            hidden=1024, negatives=500, negative_sizes="image", part_limit=64.0**2, evidence=None, published=True
        )
        solo = SoloSettings(
            channels=512,
            stacked=4,
            kernel=256,
            mask_channels=128,
            grids=(40, 36, 24, 16, 12),
            scale_ranges=((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048)),
            smallest=(8, 8, 16, 32, 32),
            candidates=500,
        )
        return cls(classes=classes, width=256, features=RESNET, selector=selector, solo=solo)
