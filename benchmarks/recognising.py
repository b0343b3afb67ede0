"""What naming the objects of one tile costs, as ratios against a named baseline in one run on one thread.

python -m benchmarks.recognising            # 64 masks on one tile of 256 px

The baseline is image-crop: one pass of a CLIP for each mask. Weights are random, which changes no time. Feature-crop
and region pooling are measured with their encoder, and without it as well: in a run where another model stands on the
same encoder its pass is paid for already.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.naming.speed import CROP_ENCODER, random_clip, random_regions
from benchmarks.segmenting import seconds
from wsi_pipeline.models.ov_sam.baselines import FeatureCropRecogniser, ImageCropRecogniser
from wsi_pipeline.models.ov_sam.embedded import EmbeddedRecogniser
from wsi_pipeline.models.ov_sam.plan import ov_sam_plan
from wsi_pipeline.models.ov_sam.region_head import RegionFacts, RegionHead
from wsi_pipeline.models.precision import reference_pair
from wsi_pipeline.models.roles import PairImages, Recogniser
from wsi_pipeline.vocabulary import VocabularySettings
from wsi_pipeline.workflow import RecogniseSettings

SIZE = 256
WORDS = VocabularySettings.model_validate({"classes": ["tumor", "stroma", "lymphocytes", "fat"]})


@contextmanager
def random_head(*, low: bool) -> Iterator[EmbeddedRecogniser]:
    """The region head on LiteMedSAM, untrained."""
    facts = RegionFacts(
        classes=WORDS.classes, backbone="lite-medsam", early_channels=160, context_factor=2.0 if low else None
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "head.safetensors"
        save_file(RegionHead(facts).state_dict(), file, metadata=facts.metadata())
        yield EmbeddedRecogniser(ov_sam_plan(RecogniseSettings(weights=str(file))), WORDS)


def shifted(pairs: PairImages) -> Iterator[PairImages]:
    """The pair moved a little more each time: an encoder remembers patches it has seen."""
    for px in count(1):
        high, low = (np.roll(images, px, axis=2) for images in (pairs.high, pairs.low))
        yield PairImages(high, low, pairs.context_factor)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--clip", default=CROP_ENCODER, help="open_clip's name of the network that looks at crops")
    arguments.add_argument("--repeats", type=int, default=2, help="the best of so many times counts")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    pair, _ = reference_pair(SIZE)
    regions = random_regions(SIZE)
    clip = random_clip(options.clip)

    def time_of(recogniser: Recogniser, pairs: PairImages, *, encoded: bool) -> float:
        before: Any = recogniser.encode(pairs) if encoded else None
        others = shifted(pairs)

        def name_all() -> np.ndarray:
            return recogniser.recognise(before if encoded else recogniser.encode(next(others)), regions)

        return seconds(name_all, options.repeats)

    baseline = time_of(ImageCropRecogniser(clip, WORDS), pair, encoded=False)
    print(f"{len(regions)} masks on one tile of {SIZE} px, one thread, CPU seconds")
    show(f"image-crop, {options.clip}", baseline, baseline)
    feature_crop = FeatureCropRecogniser(clip, WORDS)
    with random_head(low=False) as alone, random_head(low=True) as paired:
        ways: dict[str, Callable[[bool], float]] = {
            f"feature-crop, {options.clip}": lambda encoded: time_of(feature_crop, pair, encoded=encoded),
            "region pooling, high patch": lambda encoded: time_of(alone, pair, encoded=encoded),
            "region pooling, both patches": lambda encoded: time_of(paired, pair, encoded=encoded),
        }
        for name, measure in ways.items():
            show(f"{name}, with encoder", measure(False), baseline)
            show(f"{name}, encoded already", measure(True), baseline)


def show(name: str, time: float, baseline: float) -> None:
    print(f"  {name:<46}{time:8.3f}{baseline / time:8.1f} x")


if __name__ == "__main__":
    main()
