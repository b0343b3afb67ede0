"""The whole benchmark: from tiles and weight files to the dictionary behind the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.heads import ablation
from benchmarks.heads.prompts import BOXES, SEED, WAYS, ways_for
from benchmarks.heads.scores import NARROW_WIDTH, Scores, measure, nothing_but_boundary
from benchmarks.heads.subjects import BACKBONE, MARGIN, PRECISION, Ellipse, build, origin_of, settings_of
from benchmarks.heads.summary import Objects, compared, measured, summarise
from benchmarks.heads.tiles import (
    CONTEXT_FACTOR,
    FAMILIES,
    SMALLEST,
    SPLIT,
    AskedPatch,
    patches_of,
    read_tiles,
)
from benchmarks.tiles import OVERLAP
from wsi_pipeline.evaluation.aggregate import CONFIDENCE, REPLICATES
from wsi_pipeline.models.resolve import BACKBONES, DEFAULT_BACKBONE
from wsi_pipeline.training.boundary import EVALUATION_WIDTH
from wsi_pipeline.workflow import ModelSettings

SIZE = BACKBONES[DEFAULT_BACKBONE].input_size
ELLIPSE = "ellipse in the box"
WIDTHS = {"boundary_iou": EVALUATION_WIDTH, "narrow_boundary_iou": NARROW_WIDTH}


@dataclass(frozen=True, slots=True)
class Options:
    """What to run.

    Attributes:
        data: folder with a manifest.
        heads: weight file by system; None for the model's default.
        limit: most objects of a tile; None for all.
        embeddings: folder to keep embeddings in, or None.
    """

    data: Path
    heads: Mapping[str, Path | None]
    limit: int | None = None
    embeddings: Path | None = None


def run(options: Options) -> dict[str, Any]:
    """Measure the ellipse, the backbone and the heads on the validation tiles.

    Raises:
        DatasetError: the tiles cannot be read, see ``read_tiles``.
        WorkflowError, WeightsError: a head does not exist, or its files do not fit.
    """
    models = {BACKBONE: settings_of(BACKBONE, None)}
    models |= {system: settings_of(system, weights) for system, weights in options.heads.items()}
    patches = [patch for tile in read_tiles(options.data) for patch in patches_of(tile, SIZE, options.limit)]
    objects = Objects.of(patches)
    # before the first model answers, so that a file that does not fit is not found after an hour
    origins = {name: origin_of(settings, objects.groups.tolist()) for name, settings in models.items()}
    results = {ELLIPSE: measure(ELLIPSE, Ellipse(), patches, BOXES)}
    kinds = {}
    for name, settings in models.items():
        model = build(settings, options.embeddings)
        kinds[name] = sorted(model.prompt_kinds)
        results[name] = measure(name, model, patches, ways_for(model.prompt_kinds))
    return {
        "format": 1,
        "how": _how(options.limit, patches),
        "models": {name: origin | {"prompt_kinds": kinds[name]} for name, origin in origins.items()},
        **summarise(results, (ELLIPSE, BACKBONE), objects),
        "ablation": _ablation(models, results, patches, objects, options.embeddings),
    }


def _how(limit: int | None, patches: Sequence[AskedPatch]) -> dict[str, Any]:
    diagonal = math.hypot(SIZE, SIZE)
    return {
        "split": SPLIT,
        "size": SIZE,
        "overlap": OVERLAP,
        "context_factor": CONTEXT_FACTOR,
        "shrink": {name: family.shrink for name, family in FAMILIES.items()},
        "smallest": SMALLEST,
        "limit": limit,
        "tiles": len({patch.tile.number for patch in patches}),
        "patches": len(patches),
        "cut": sum(patch.cut for patch in patches),
        "window_margin": MARGIN,
        "precision": PRECISION,
        "ways": {way.name: list(way.kinds) for way in WAYS},
        "boxes": [way.name for way in BOXES],
        "boundary": {name: [share, round(share * diagonal)] for name, share in WIDTHS.items()},
        "nothing_but_boundary": sum(int(nothing_but_boundary(patch.truth).sum()) for patch in patches),
        "bootstrap": {"replicates": REPLICATES, "seed": SEED, "confidence": CONFIDENCE},
    }


def _ablation(
    models: Mapping[str, ModelSettings],
    results: Mapping[str, Scores],
    patches: Sequence[AskedPatch],
    objects: Objects,
    embeddings: Path | None,
) -> dict[str, Any]:
    """By what was changed, values of the measures and how far they are from those of the whole; empty without heads."""
    if ablation.SYSTEM not in models:
        return {}
    whole = results[ablation.SYSTEM]
    found: dict[str, Any] = {"whole": {"values": measured(whole, objects)}}
    for name in ablation.CHANGES:
        changed = measure(name, ablation.ablated(models[ablation.SYSTEM], name, embeddings), patches, BOXES)
        found[name] = {"values": measured(changed, objects), "differences": compared(whole, changed, objects)}
    return found
