"""Several data sets as one, and which of their samples are for training and which to judge epochs on."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from wsi_pipeline.errors import DatasetError
from wsi_pipeline.models.resolve import BACKBONES
from wsi_pipeline.qupath.origin import Origin as QuPathOrigin
from wsi_pipeline.training.data.find import holds_shapes, open_source
from wsi_pipeline.training.data.samples import Sample, SampleInfo, SampleSource
from wsi_pipeline.training.data.slides import FieldOfView, Origin
from wsi_pipeline.training.data.splits import split_groups, split_leaks
from wsi_pipeline.training.recipe import Recipe

TRAIN, VALIDATION, HELD_OUT = "train", "val", "held-out"
_WITHOUT_VALIDATION = {TRAIN: "", VALIDATION: ", or --set hold_out=0.2 (of several groups), or --set judged=false"}


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set as people name it.

    Attributes:
        path: folder of tiles, or a file of annotations.
        slide: what annotations lie over.
        slide_mpp: µm per level-0 px of the slide, where the user knows better than the file.
        qupath: where the slide's pixel (0, 0) lay in QuPath.
    """

    path: Path
    slide: Path | None = None
    slide_mpp: float | None = None
    qupath: QuPathOrigin = "auto"


def open_data_sets(data_sets: Sequence[DataSet], recipe: Recipe) -> dict[str, SampleSource]:
    """The data sets by name, which is that of their folder or file; annotations over slides are all for training.

    Raises:
        DatasetError, GeoJSONError, PromptError, OutputError, SlideError: see ``open_source``; or epochs are to be
            judged by points.
    """
    clicked = [recipe.from_points and holds_shapes(one.path) for one in data_sets]
    if recipe.judged and (all(clicked) or (recipe.hold_out and any(clicked))):
        raise DatasetError(
            "points show no outlines that epochs could be judged by",
            where="hold_out" if recipe.hold_out else "judged",
            fix="Set judged to false, or add outlined tiles of the split val",
        )
    # read twice as far as a patch reaches, so that smaller scales do not show made-up surroundings
    field = FieldOfView(2 * BACKBONES[recipe.backbone].input_size, recipe.mpp, recipe.context_factor)
    names = [one.path.resolve().name for one in data_sets]
    numbered = [name if names.count(name) == 1 else f"{number}: {name}" for number, name in enumerate(names, start=1)]
    sources = [
        open_source(
            one.path,
            one.slide,
            slide_mpp=one.slide_mpp,
            field=field,
            origin=Origin(split=TRAIN, qupath=one.qupath),
            points=recipe.from_points,
        )
        for one in data_sets
    ]
    return dict(zip(numbered, sources, strict=True))


class Joined:
    """The samples of several sources, one source after the other.

    Args:
        sources: the data sets.
        judged: whether samples are wanted to judge epochs on.
        hold_out: share of the training groups to judge epochs on instead of the validation samples, which then are
            not looked at: what is chosen by a sample says nothing honest about it.
        classes: samples annotated for none of these are left out; empty for none left out.
        samples: most samples to train on; None for all.
        seed: which groups to hold out, and which samples to train on.

    Attributes:
        infos: of all samples, with the split they are used for.
        judged_on: the split that epochs are judged on; None for no judging.

    Raises:
        DatasetError: a group is in two splits, or there is nothing to train on or to validate with.
    """

    def __init__(
        self,
        sources: Sequence[SampleSource],
        *,
        judged: bool = True,
        hold_out: float = 0.0,
        classes: Collection[str] = (),
        samples: int | None = None,
        seed: int = 0,
    ) -> None:
        self._places = [(source, number) for source in sources for number in range(len(source))]
        self.infos: tuple[SampleInfo, ...] = tuple(info for source in sources for info in source.infos)
        leaks = split_leaks(self.infos)
        if leaks:
            raise DatasetError.of(leaks, where="data", fix="Put all samples of a patient into one split")
        self.judged_on: str | None = (HELD_OUT if hold_out else VALIDATION) if judged else None
        if self.judged_on == HELD_OUT:
            self._hold_out(hold_out, seed)
        self._leave_out(classes, samples, seed)
        for split in (TRAIN, self.judged_on):
            if split is not None and not self.numbers(split):
                found = ", ".join(sorted({info.split or "none" for info in self.infos}))
                fix = f"Write {split} into the split column of whole groups" + _WITHOUT_VALIDATION[split]
                what = f"annotated for {' or '.join(classes)} " if classes else ""
                raise DatasetError(
                    f"there are no samples {what}of the split {split} (found: {found})", where="data", fix=fix
                )

    @classmethod
    def for_recipe(cls, recipe: Recipe, sources: Sequence[SampleSource]) -> Self:
        """Those that a recipe wants."""
        return cls(
            sources,
            judged=recipe.judged,
            hold_out=recipe.hold_out,
            classes=recipe.classes,
            samples=recipe.samples,
            seed=recipe.seed,
        )

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        source, number = self._places[index]
        return source[number]

    def numbers(self, split: str) -> list[int]:
        """Numbers of the samples of a split, ascending."""
        return [number for number, info in enumerate(self.infos) if info.split == split]

    def _hold_out(self, share: float, seed: int) -> None:
        training = [info for info in self.infos if info.split == TRAIN]
        if len({info.group for info in training}) < len((TRAIN, HELD_OUT)):
            fix = "Add patients, or --set judged=false"
            raise DatasetError("one group cannot be trained on and judged by", where="hold_out", fix=fix)
        split = split_groups(training, {TRAIN: 1 - share, HELD_OUT: share}, seed)
        self.infos = tuple(
            replace(info, split=split[info.group]) if info.split == TRAIN else info for info in self.infos
        )

    def _leave_out(self, classes: Collection[str], samples: int | None, seed: int) -> None:
        """Take what is not wanted out of all splits; what is left keeps its number, and with it its augmentation."""
        if classes:
            wanted = (not set(classes).isdisjoint(info.class_names) for info in self.infos)
            self.infos = tuple(
                info if keep else replace(info, split="") for info, keep in zip(self.infos, wanted, strict=True)
            )
        left_out = set(np.random.default_rng(seed).permutation(self.numbers(TRAIN))[samples or len(self) :].tolist())
        self.infos = tuple(
            replace(info, split="") if number in left_out else info for number, info in enumerate(self.infos)
        )

    def digest(self) -> str:
        """Hex digest of what is known of the samples, to tell other data from these."""
        return hashlib.sha256(repr(self.infos).encode()).hexdigest()
