"""What Matcher does with its examples, as workflows write it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from wsi_pipeline.quantities import Microns, Share
from wsi_pipeline.settings import Section


class Example(Section):
    """An annotated piece of a slide."""

    slide: Path = Field(description="where the example is")
    annotation: Path = Field(description="QuPath GeoJSON with its outline; several outlines are several examples")
    mpp: float | None = Field(None, gt=0, description="µm per level-0 px, where the slide does not say or is wrong")


class MatcherSettings(Section):
    """Examples, and what counts as like them."""

    examples: tuple[Example, ...] = Field((), description="given with --example and --example-annotation, or here")

    encoder: str = Field(
        "embedded",
        description="whose features are compared: embedded, dinov2-s, dinov2-b, dinov2-l, a backbone's or "
        "a ViT's name of timm",
    )
    encoder_weights: str | None = Field(None, description="path of the encoder's checkpoint, where it is timm's")
    grid: int = Field(32, ge=4, le=128, description="features along the side of a patch")
    centre: Literal["none", "image", "slide"] = Field(
        "slide", description="mean feature that is subtracted before comparing: of each patch, or of the whole slide"
    )
    context: Microns = Field(60.0, description="of an example's surroundings so much is known to be something else")
    unknown: Microns = Field(8.0, description="width of a ring around an example that is neither inside nor outside")

    reverse_check: bool = Field(True, description="matches have to match back into the example")
    min_presence: Share = Field(
        0.5,
        description="tiles yield nothing where no part is so much more like the examples than their surroundings are",
    )
    likeness_check: bool = Field(
        True, description="masks have to add something that is more like the examples than like their surroundings"
    )
    likeness_logit: float = Field(
        0.02,
        ge=0,
        description="likeness that changes what a segmenter in doubt says of a px by a logit of 1; 0: it draws alone",
    )
    likeness_objects: bool = Field(
        True, description="what is alike and nothing drawn covers is an object, too, outlined by its likeness"
    )
    levels: int = Field(6, ge=1, le=32, description="levels of similarity at which boxes are put around matches")

    sampling: Literal["points", "centres"] = Field("centres", description="prompts are made of matches or of clusters")
    clusters: int = Field(8, ge=1, description="clusters of matches")
    subset_sizes: tuple[int, int] = Field((4, 6), description="fewest and most points of a prompt")
    draws: int = Field(30, ge=1, description="random subsets of each size, where there are many points")
    box: bool = Field(False, description="a box around all matches joins every prompt")
    dense_grid: int = Field(
        0, ge=0, le=128, description="points along a tile's side that are asked besides; 0 for none"
    )
    guesses: bool = Field(False, description="all guesses at a prompt are proposals, not the one mask alone")
    min_predicted_iou: Share = Field(0.0, description="proposals need this predicted IoU")
    min_stability: Share = Field(0.0, description="proposals whose outline depends more on the threshold are dropped")
    box_nms: Share = Field(1.0, description="of two proposals whose boxes overlap more (IoU) the better one stays")

    alpha: float = Field(1.0, ge=0, description="weight of the transport score")
    beta: float = Field(0.0, ge=0, description="weight of purity times coverage")
    exponent: float = Field(0.0, ge=0, description="of coverage in that product")
    min_coverage: Share = Field(0.0, description="share of the matches that a mask needs to hold")
    min_transport: Share = Field(0.0, description="transport score that a mask needs")
    min_purity: Share = Field(0.0, description="matches for each of its patches that a mask needs")
    selection: Literal["share", "distance"] = Field(
        "distance", description="masks need a share of the best score, or to be near it and near 1"
    )
    min_relative_score: Share = Field(0.7, description="selection share: of the best score")
    max_distance: Share = Field(0.33, description="selection distance: of a score from 1")
    max_relative_distance: Share = Field(0.6, description="selection distance: from the best, of the worst distance")
    top: int = Field(60, ge=1, description="most masks that are chosen")
    merge: Literal["union", "instances"] = Field("instances", description="one mask of all matches, or one for each")
    max_overlap: Share = Field(0.5, description="of two instances sharing more of the smaller the better one stays")
