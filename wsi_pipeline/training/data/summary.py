"""What is in a data set, in numbers; every sample is read for it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from wsi_pipeline.training.data.samples import SampleSource


@dataclass(slots=True)
class Row:
    """Samples of one split, class and licence.

    Attributes:
        samples: how many.
        empty: how many of them hold no object.
        objects: objects on their high patches.
        groups: the groups they are of.
    """

    samples: int = 0
    empty: int = 0
    objects: int = 0
    groups: set[str] = field(default_factory=set)

    def add(self, group: str, objects: int) -> None:
        self.samples += 1
        self.empty += objects == 0
        self.objects += objects
        self.groups.add(group)


Key = tuple[str, str, str]
"""Split, classes and licence; the split is empty where it is not decided."""


def summarise(source: SampleSource) -> dict[Key, Row]:
    """Rows by split, classes and licence, sorted; objects count once per sample that shows them.

    Raises:
        WsiPipelineError: a sample cannot be read.
    """
    rows: defaultdict[Key, Row] = defaultdict(Row)
    for number, info in enumerate(source.infos):
        labels = source[number].high.labels
        objects = len(np.unique(labels[labels > 0]))
        rows[info.split, ", ".join(info.class_names), info.licence].add(info.group, objects)
    return dict(sorted(rows.items()))
