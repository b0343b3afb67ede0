"""Every way of finding on every validation tile, as one dictionary."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.finding.choice import Classical, aimed, choose_classical, choose_split, pq_of
from benchmarks.finding.finders import (
    LEAST_AREA,
    Aimed,
    Asked,
    DecoderObjects,
    Ellipses,
    Finder,
    Unprompted,
    segmenter_for,
)
from benchmarks.heads.subjects import BACKBONE, DEVICE, PRECISION, settings_of
from benchmarks.tiles import OVERLAP, WORKFLOW, ListedTile, tiles_of
from wsi_pipeline.evaluation import aggregate
from wsi_pipeline.evaluation.aggregate import Estimate
from wsi_pipeline.evaluation.labels import Labels
from wsi_pipeline.evaluation.metrics import Score, score
from wsi_pipeline.models.builders import load_lora_sam
from wsi_pipeline.models.domain_decoder.splitting import SplitSettings
from wsi_pipeline.models.lora_sam.lora import adapter_state
from wsi_pipeline.models.registry import find_model
from wsi_pipeline.models.resolve import lora_sam_facts, lora_sam_plan
from wsi_pipeline.models.roles import InstanceSegmenter, Refiner
from wsi_pipeline.models.weights import sha256_of
from wsi_pipeline.prompts.domain_decoder import DomainPrompter
from wsi_pipeline.segment.refine import RefineStage
from wsi_pipeline.training.sources import HELD_OUT, TRAIN, VALIDATION
from wsi_pipeline.workflow import DomainDecoderPrompts, ModelSettings, RefineSettings, SegmentSettings, load_workflow

CLASSICAL, DECODER, ELLIPSES = "classical detector", "domain decoder", ", ellipses"
METRICS = ("pq", "f1", "sq", "precision", "recall", "aji", "dice")
LORA = "lora-sam"
SEED = 0


@dataclass(frozen=True, slots=True)
class Options:
    """What is compared.

    Attributes:
        data: folder with a manifest.
        decoder: weights of the domain decoder.
        heads: weights by system, None for the system's default.
        adapted: files of LoRA-SAM; the last one is what the others are compared with.
        twin: one of the same recipe that tiles were held out from, to choose on these how its objects are told apart;
            None for what the workflow ``nuclei-decoder`` says.
        embeddings: folder to keep embeddings in, or None.
    """

    data: Path
    decoder: Path
    heads: Mapping[str, Path | None]
    adapted: Sequence[Path] = ()
    twin: Path | None = None
    embeddings: Path | None = None


def run(options: Options) -> dict[str, Any]:
    """Choose on training tiles, measure on validation tiles.

    Returns:
        ``how``, ``chosen``, ``scores`` (way → data set or ``all`` → metric → value and 95 % interval) and
        ``differences`` of PQ.

    Raises:
        WsiPipelineError: data or weights cannot be used.
        ValueError: the twin's card names no tiles that were held out.
    """
    size = prompter_for(tuned(options.decoder, SplitSettings()), options.embeddings).model.size
    classical = choose_classical(nuclei_tiles(options.data, TRAIN), size)
    say(f"classical detector: {classical}")
    split, quality = split_of(options, size)
    say(f"decoder: {split}")
    ways = dict(ways_of(options, classical, split, size))
    tiles = nuclei_tiles(options.data, VALIDATION)
    scores = {name: measure(name, finder, tiles) for name, finder in ways.items()}
    return {
        "how": {
            "tiles": len(tiles),
            "groups": len({tile.info.group for tile in tiles}),
            "objects": int(sum(len(np.unique(tile.picture.labels)) - 1 for tile in tiles)),
            "size": size,
            "overlap": OVERLAP,
            "least": LEAST_AREA,
            "decoder": {"file": options.decoder.name, "sha256": sha256_of(options.decoder)},
            "heads": {
                name: None if path is None else {"file": path.name, "sha256": sha256_of(path)}
                for name, path in options.heads.items()
            },
        },
        "chosen": {
            "classical": {name: one._asdict() for name, one in classical.items()},
            "decoder": asdict(split) | {"pq": quality},
        },
        "scores": summary(scores, tiles),
        "differences": differences(scores, tiles, [DECODER, *adapted_ways(options.adapted)]),
        "adapted": adaptation(scores, tiles, options.adapted),
    }


def split_of(options: Options, size: int) -> tuple[SplitSettings, float | None]:
    """How the decoder's objects are told apart; and the PQ that it was chosen by, if it was."""
    if options.twin is None:
        workflow = load_workflow("nuclei-decoder")
        assert isinstance(workflow.prompts, DomainDecoderPrompts)
        prompts = workflow.prompts
        area = prompts.min_area / workflow.mpp**2
        return SplitSettings(prompts.threshold, prompts.prominence, min_area=area), None
    untuned = prompter_for(tuned(options.twin, SplitSettings()), options.embeddings)
    return choose_split(nuclei_tiles(options.data, TRAIN, groups_of(options.twin)), untuned, size)


def nuclei_tiles(data: Path, split: str, groups: Collection[str] | None = None) -> list[ListedTile]:
    return list(tiles_of(data, split, object_class="nucleus", groups=groups))


def ways_of(
    options: Options, classical: Mapping[str, Classical], split: SplitSettings, size: int
) -> Iterator[tuple[str, Finder]]:
    """Ways of finding by name; those of the classical detector begin with it."""
    detectors = aimed(classical)
    decoder = prompter_for(tuned(options.decoder, split), options.embeddings)
    everywhere: Aimed = dict.fromkeys(detectors, (decoder, WORKFLOW.mpp))
    yield CLASSICAL + ELLIPSES, Ellipses(detectors, size)
    yield DECODER, DecoderObjects(decoder, size)
    for name, weights in {BACKBONE: None, **options.heads}.items():
        settings = SegmentSettings.model_validate(settings_of(name, weights).model_dump())
        segmenter = segmenter_for(settings, options.embeddings)
        yield f"{CLASSICAL}, {name}", Asked(detectors, segmenter, settings)
        yield f"{DECODER}, {name}", Asked(everywhere, segmenter, settings)
    for name, path in adapted_ways(options.adapted).items():
        settings = SegmentSettings(model=LORA, weights=str(path))
        model = cast(InstanceSegmenter, find_model(LORA).build(settings, device=DEVICE, dtype=PRECISION))
        yield name, Unprompted(model, settings)
        for head, weights in options.heads.items() if path != options.adapted[-1] else ():
            yield f"{name}, {head}", Unprompted(model, settings, refined_by(head, weights, options.embeddings))


def refined_by(head: str, weights: Path | None, embeddings: Path | None) -> RefineStage:
    """A head that draws again what was found."""
    settings = RefineSettings.model_validate(settings_of(head, weights).model_dump())
    return RefineStage(cast(Refiner, segmenter_for(settings, embeddings)), settings)


def adapted_ways(files: Sequence[Path]) -> dict[str, Path]:
    """Files of LoRA-SAM by the name of the way."""
    return {f"{LORA}, rank {lora_sam_facts(path).settings.rank}": path for path in files}


def groups_of(decoder: Path) -> set[str]:
    """The groups that training held out, as the decoder's card has them.

    Raises:
        ValueError: there is no card, or it names none.
    """
    card = decoder.with_suffix(".json")
    groups = json.loads(card.read_text(encoding="utf-8"))["groups"].get(HELD_OUT) if card.is_file() else None
    if not groups:
        raise ValueError(f"{card} names no groups that were held out: train with hold_out")
    return set(groups)


def prompter_for(prompts: DomainDecoderPrompts, embeddings: Path | None) -> DomainPrompter:
    """A domain decoder whose encoder keeps its embeddings in a folder."""
    prompter = DomainPrompter(prompts, device=DEVICE, dtype=PRECISION)
    prompter.encoder.keep_in(embeddings)
    return prompter


def tuned(decoder: Path, split: SplitSettings) -> DomainDecoderPrompts:
    numbers = {"threshold": split.threshold, "prominence": split.prominence}
    area = f"{split.min_area * WORKFLOW.mpp**2} um2"
    prompts = {"source": "domain-decoder", "weights": str(decoder), "min_area": area}
    return DomainDecoderPrompts.model_validate(prompts | numbers)


def measure(name: str, finder: Finder, tiles: Sequence[ListedTile]) -> list[Score]:
    """The score of each tile."""
    scores = []
    for number, tile in enumerate(tiles, start=1):
        say(f"{name}: tile {number} of {len(tiles)}")
        scores.append(score(Labels.of(tile.picture.labels), Labels.of(finder.find(tile))))
    return scores


def summary(scores: Mapping[str, Sequence[Score]], tiles: Sequence[ListedTile]) -> dict[str, Any]:
    """Metrics pooled over tiles, with intervals, for each way and each set of tiles."""
    return {
        name: {
            title: {metric: _rounded(value) for metric, value in estimates.items() if metric in METRICS}
            for title, estimates in ((title, _pooled(found, tiles, title)) for title in titles(tiles))
        }
        for name, found in scores.items()
    }


def differences(
    scores: Mapping[str, Sequence[Score]], tiles: Sequence[ListedTile], finders: Sequence[str]
) -> dict[str, Any]:
    """PQ of each way of trained finders minus that of the classical detector, over all tiles, paired.

    Returns:
        ``base``, the detector's best way; and differences by the finder's way: ``alike``, from the detector with the
        same segmenter or with ellipses, ``bare``, from it with the bare backbone, and ``best``, from ``base``.
    """
    base = max((name for name in scores if name.startswith(CLASSICAL)), key=lambda name: pq_of(scores[name]))
    differ = paired(scores, tiles)

    def minus(name: str, other: str) -> list[float]:
        return differ(name, other)["pq"]

    drawn = {name: name.removeprefix(finder) for finder in finders for name in scores if name.startswith(finder)}
    same = {name: CLASSICAL + (segmenter or ELLIPSES) for name, segmenter in drawn.items()}
    return {
        "base": base,
        "best": {name: minus(name, base) for name in same},
        "alike": {name: minus(name, other) for name, other in same.items()},
        "bare": {name: minus(name, f"{CLASSICAL}, {BACKBONE}") for name in same},
    }


def adaptation(
    scores: Mapping[str, Sequence[Score]], tiles: Sequence[ListedTile], files: Sequence[Path]
) -> dict[str, Any]:
    """What each file of LoRA-SAM holds, and its metrics minus those of the last one, over all tiles, paired."""
    ways, differ = adapted_ways(files), paired(scores, tiles)
    return {
        name: {"sha256": sha256_of(path), **_trained_share(path), "minus": differ(name, list(ways)[-1])}
        for name, path in ways.items()
    }


def paired(
    scores: Mapping[str, Sequence[Score]], tiles: Sequence[ListedTile]
) -> Callable[[str, str], dict[str, list[float]]]:
    """What gives the metrics of one way minus those of another, over all tiles, with intervals."""
    groups = [tile.info.group for tile in tiles]
    weights = aggregate.bootstrap_weights(groups, aggregate.REPLICATES, SEED)
    statistics = {name: aggregate.pooled(found, weights) for name, found in scores.items()}

    def differ(name: str, other: str) -> dict[str, list[float]]:
        found = aggregate.differences(statistics[other], statistics[name], len(set(groups)))
        return {metric: _rounded(found[metric]) for metric in METRICS}

    return differ


def _trained_share(path: Path) -> dict[str, float]:
    """Numbers in the adapter, as such and as a share of the encoder's; and in the rest of the file."""
    model = load_lora_sam(lora_sam_plan(ModelSettings(model=LORA, weights=str(path)), section="segment"))
    adapted = bool(model.settings.rank)
    adapter = sum(value.numel() for value in adapter_state(model.image_encoder).values()) if adapted else 0
    whole = sum(value.numel() for value in model.image_encoder.parameters()) - adapter
    rest = sum(value.numel() for part in model.parts().values() for value in part.parameters())
    return {"adapter": adapter, "share": adapter / whole, "rest": rest}


def titles(tiles: Sequence[ListedTile]) -> list[str]:
    return ["all", *sorted({tile.dataset for tile in tiles})]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _pooled(scores: Sequence[Score], tiles: Sequence[ListedTile], title: str) -> dict[str, Estimate]:
    rows = [row for row, tile in enumerate(tiles) if title in ("all", tile.dataset)]
    groups = [tiles[row].info.group for row in rows]
    weights = aggregate.bootstrap_weights(groups, aggregate.REPLICATES, SEED)
    return aggregate.estimates(aggregate.pooled([scores[row] for row in rows], weights), len(set(groups)))


def _rounded(estimate: Estimate) -> list[float]:
    return [round(value, 4) for value in estimate]
