"""Training, validation and test sets that share no patient.

Groups are dealt out, never samples: two tiles of one slide look so alike that a split by tile measures memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from wsi_pipeline.errors import DatasetError
from wsi_pipeline.training.data.samples import SampleInfo


def split_groups(infos: Sequence[SampleInfo], fractions: Mapping[str, float], seed: int) -> dict[str, str]:
    """Deal groups out to splits.

    Groups go one by one to the split that lacks most of what they hold (after Sechidis et al. 2011, which does so for
    single samples), those with rare classes first. The result depends on the set of samples and the seed, not on
    the samples' order.

    Args:
        infos: the samples.
        fractions: share of the samples of each class that a split should get, all positive; scaled to a sum of 1.
        seed: decides between groups that are alike.

    Returns:
        The split of every group; each split has at least one group.

    Raises:
        DatasetError: fewer groups than splits.
        ValueError: no fractions, or one that is not positive.
    """
    if not fractions or min(fractions.values()) <= 0:
        raise ValueError(f"fractions {dict(fractions)} must be positive")
    groups, counts = _class_counts(infos)
    if len(groups) < len(fractions):
        raise DatasetError(
            f"{len(groups)} groups cannot fill the splits {', '.join(fractions)}", fix="Add patients, or ask for fewer"
        )
    shares = np.array(list(fractions.values())) / sum(fractions.values())
    total = counts.sum(axis=0)
    need = shares[:, None] * total
    filled = np.zeros(len(shares), bool)
    chosen = {}
    order = _rarest_first(counts, seed)
    for place, group in enumerate(order):
        lack = (need * counts[group] / total).sum(axis=1)
        if len(order) - place == (~filled).sum():
            lack[filled] = -np.inf
        split = int(lack.argmax())
        need[split] -= counts[group]
        filled[split] = True
        chosen[groups[group]] = list(fractions)[split]
    return chosen


def split_leaks(infos: Sequence[SampleInfo]) -> list[str]:
    """One line for each group that is in more than one split."""
    splits = defaultdict(set)
    for info in infos:
        if info.split:
            splits[info.group].add(info.split)
    return [
        f"split leak: group {group} is in {' and '.join(sorted(names))}"
        for group, names in sorted(splits.items())
        if len(names) > 1
    ]


def _class_counts(infos: Sequence[SampleInfo]) -> tuple[list[str], np.ndarray]:
    """Names of all groups, sorted, and (G, C) how many samples of each class they hold."""
    groups = sorted({info.group for info in infos})
    # a sample without objects counts as a class of its own: each split should get its share of empty tiles
    classes = sorted({name for info in infos for name in info.class_names or ("",)})
    counts = np.zeros((len(groups), len(classes)))
    for info in infos:
        for name in info.class_names or ("",):
            counts[groups.index(info.group), classes.index(name)] += 1
    return groups, counts


def _rarest_first(counts: np.ndarray, seed: int) -> np.ndarray:
    """(G,) group numbers: by their rarest class, then the largest first, then as the seed has it."""
    rarity = np.where(counts > 0, counts.sum(axis=0), np.inf).min(axis=1, initial=np.inf)
    chance = np.random.default_rng(seed).random(len(counts))
    return np.lexsort((chance, -counts.sum(axis=1), rarity))
