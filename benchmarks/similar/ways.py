"""Ways to find what is like an example; each gives one mask of all that it finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.transform import resize

from benchmarks.similar.subjects import SIDE, Tile
from wsi_pipeline.models.builders import load_sam
from wsi_pipeline.models.matcher.examples import Outline
from wsi_pipeline.models.matcher.features import SamFeatures, mean_of, unit
from wsi_pipeline.models.matcher.model import MatcherModel
from wsi_pipeline.models.matcher.reference import make_references
from wsi_pipeline.models.matcher.settings import MatcherSettings
from wsi_pipeline.models.matcher.sight import ClassExamples, Sight
from wsi_pipeline.models.resolve import sam_plan
from wsi_pipeline.models.roles import PairImages, PromptBatch
from wsi_pipeline.models.sam import SamSegmenter
from wsi_pipeline.workflow import ModelSettings

WHOLE = MatcherSettings.model_validate(
    {"centre": "image", "context": "4096 um", "unknown": 0, "merge": "union", "min_presence": 0}
)
"""A tile is all there is of its slide, and all of its objects are outlined."""
SINGLE = WHOLE.model_copy(update={name: getattr(MatcherSettings(), name) for name in ("context", "unknown")})
"""Only one of them is, so that little around it is known."""
MATCHER, RAW, FORWARD = "Matcher", "Matcher, raw features", "Matcher, without reverse check"
WAYS = {
    RAW: WHOLE.model_copy(update={"centre": "none"}),
    FORWARD: WHOLE.model_copy(update={"reverse_check": False}),
    MATCHER: WHOLE,
}
OTSU_RAW, OTSU, LIKENESS, BOXES = (
    "nearest neighbour and Otsu, raw features",
    "nearest neighbour and Otsu",
    "likeness alone, nothing drawn",
    "boxes of the truth, drawn",
)
Way = Callable[[Tile], np.ndarray]


class Look(NamedTuple):
    """What is seen of examples on a tile, and (g, g) its best similarity to them."""

    sight: Sight
    similarity: np.ndarray


class Workbench:
    """The networks that all ways share.

    Args:
        folder: where embeddings are kept.
    """

    def __init__(self, folder: Path) -> None:
        sam = load_sam(sam_plan(ModelSettings(model="sam")))
        self.segmenter = SamSegmenter(sam)
        self.segmenter.encoder.keep_in(folder)
        self.features = SamFeatures(sam, WHOLE.grid, early=True, device="cpu", dtype=torch.float32)

    def matcher(self, outlines: Sequence[Outline], settings: MatcherSettings) -> MatcherModel:
        return MatcherModel(settings, outlines, self.features, self.segmenter)

    def look(self, outlines: Sequence[Outline], settings: MatcherSettings, mpp: float) -> Callable[[Tile], Look]:
        """What looks for examples on tiles of a resolution."""
        references = make_references(outlines, self.features, settings, size=SIDE, mpp=mpp)
        examples, grid = ClassExamples.of(references, 1), self.features.grid

        def look(tile: Tile) -> Look:
            levels = self.features.levels(tile.patch()[None])
            target = unit(levels, None if settings.centre == "none" else mean_of(levels))[0]
            best = (examples.features[examples.inside] @ target.T).max(axis=0)
            return Look(Sight.of(examples, target, reverse=True), best.reshape(grid, grid))

        return look

    def ways(self, outlines: Sequence[Outline], mpp: float) -> dict[str, Way]:
        """Every way by its name, for some examples and tiles of a resolution."""
        raw, centred = (self.look(outlines, settings, mpp) for settings in (WAYS[RAW], WHOLE))
        models = {name: self.matcher(outlines, settings) for name, settings in WAYS.items()}
        return {
            OTSU_RAW: lambda tile: _cut(raw(tile).similarity, None),
            OTSU: lambda tile: _cut(centred(tile).similarity, None),
            LIKENESS: lambda tile: _cut(centred(tile).sight.likeness, 0.0),
            **{name: (lambda tile, model=model: found_by(model, tile)) for name, model in models.items()},
            BOXES: self._boxed,
        }

    def _boxed(self, tile: Tile) -> np.ndarray:
        places = [place for place in ndimage.find_objects(tile.patch_labels()) if place is not None]
        boxes = np.array([(x.start, y.start, x.stop, y.stop) for y, x in places], np.float32)
        embedding = self.segmenter.encode(PairImages(tile.patch()[None]))
        answer = self.segmenter.decode(embedding, PromptBatch(np.zeros(len(boxes), np.int64), boxes), margin=0.5)
        return answer.on_patch(SIDE).any(axis=0)


def found_by(model: MatcherModel, tile: Tile) -> np.ndarray:
    """(S, S) bool: all that a matcher finds on a tile."""
    (groups,) = model.find(PairImages(tile.patch()[None]), mpp=tile.mpp, min_score=0, max_objects=1000)
    masks = [group.masks.on_patch(SIDE).any(axis=0) for group in groups]
    return np.any([np.zeros((SIDE, SIDE), bool), *masks], axis=0)


def _cut(field: np.ndarray, level: float | None) -> np.ndarray:
    """(S, S) bool of a map (g, g); None cuts at Otsu's threshold."""
    return np.asarray(
        resize(field, (SIDE, SIDE), order=1, mode="edge") > (threshold_otsu(field) if level is None else level)
    )
