"""All of the benchmark as one dictionary."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.naming import ensemble, speed
from benchmarks.naming.distillation import Exam, distilled, stages_of
from benchmarks.naming.ensemble import Opinion, beside, opinion_of, taught_on_others
from benchmarks.naming.objects import Objects, asked_objects, pairs_of, training_objects
from benchmarks.naming.recognition import held_out, judged, scores_of, trained_head, without_head
from benchmarks.naming.sources import NAMES, Drawn, Otherwise, with_shuffled_names
from wsi_pipeline.errors import DatasetError
from wsi_pipeline.manifest import read_manifest
from wsi_pipeline.models.builders import load_sam
from wsi_pipeline.models.encoding import PatchEncoder
from wsi_pipeline.models.image_text.minilm import MiniLm
from wsi_pipeline.models.resolve import sam_plan
from wsi_pipeline.models.roles import PairImages
from wsi_pipeline.models.sam import Sam
from wsi_pipeline.models.text import class_vectors
from wsi_pipeline.training.data.samples import SampleInfo, SampleSource
from wsi_pipeline.training.data.tiles import MANIFEST, open_tiles
from wsi_pipeline.training.features import FrozenFeatures
from wsi_pipeline.training.ov_sam_head import OvSamHead
from wsi_pipeline.training.recipe import OvSamRecipe
from wsi_pipeline.training.sources import TRAIN, VALIDATION, Joined
from wsi_pipeline.training.systems import load_recipe
from wsi_pipeline.vocabulary import VocabularySettings
from wsi_pipeline.workflow import ModelSettings

TRAINED, ASKED = 24, 12
"""Drawn tiles."""
HEAD, SENTENCES, SHUFFLED = "region head", "region head, sentence vectors", "region head, names shuffled"
WHOLE_TILE = 0.5
"""px of the patch per px of a tile of 512 px, so that one patch shows all of it."""
STEPS = 300
ONE_SET = ("benign gland", "tumour region")
"""Classes that one data set holds both of."""
MOST = 40
"""Objects of a real tile that are asked about."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to do.

    Attributes:
        work: an empty folder.
        data: folder with a manifest, or None for drawn tiles alone.
        embeddings: folder to keep embeddings in; None for one in ``work``.
        variants: augmented versions of real tiles to train on; None for as many as the recipe says.
    """

    work: Path
    data: Path | None = None
    embeddings: Path | None = None
    variants: int | None = None


@dataclass(frozen=True, slots=True)
class Bench:
    """What all parts share: where things are, and who encodes."""

    sam: Sam
    work: Path
    embeddings: Path

    def encode(self) -> FrozenFeatures:
        return FrozenFeatures.of(self.sam, self.embeddings, torch.device("cpu"))

    def train(self, recipe: OvSamRecipe, source: SampleSource, what: str) -> OvSamHead:
        say(what)
        return trained_head(recipe, source, self.embeddings, self.work / what.replace(" ", "-"))


def run(options: Options) -> dict[str, Any]:
    """Everything, in the order of the page.

    Raises:
        WsiPipelineError: data or weights cannot be used.
    """
    sam = load_sam(sam_plan(ModelSettings(model="sam", backbone="lite-medsam"), section="benchmark"))
    bench = Bench(sam, options.work, options.embeddings or options.work / "embeddings")
    drawn = Drawn(TRAINED, ASKED)
    recipe = recipe_for(NAMES, epochs=20, variants=1, low_patch=False)
    found: dict[str, Any] = {"how": how(recipe, drawn), "real": None, "one set": None}
    found["drawn"] = recognition(
        bench, recipe, drawn, lambda source: asked(bench, recipe, source), lambda source: second_opinion(recipe, source)
    )
    if options.data is not None:
        tiles = open_tiles(options.data)
        changes: dict[str, Any] = {} if options.variants is None else {"variants": options.variants}
        shipped, mine = recipe_for(**changes), in_one_set(options.data, tiles.infos)
        found["how"]["variants"] = shipped.variants
        found["real"] = recognition(bench, shipped, tiles, lambda source: asked_real(bench, shipped, source))
        found["one set"] = one_set(bench, recipe_for(ONE_SET, **changes), tiles, mine)
    found["speed"] = timing(bench, OvSamHead(recipe_for(), torch.device("cpu")))
    found["distillation"] = distillation(bench, recipe, drawn)
    return found


def recipe_for(names: Sequence[str] | None = None, **changes: Any) -> OvSamRecipe:
    """The one that ships, with changes."""
    classes = {} if names is None else {"classes": list(names)}
    recipe = load_recipe("ov-sam", None, {"judged": False, **classes, **changes})
    assert isinstance(recipe, OvSamRecipe)
    return recipe


def how(recipe: OvSamRecipe, drawn: Drawn) -> dict[str, Any]:
    network = {"tiles": ensemble.TILES, "steps": ensemble.STEPS}
    names = list(drawn.infos[0].class_names)
    return {"trained": TRAINED, "asked": ASKED, "recipe": recipe.on_card(), "names": names, "network": network}


def distillation(bench: Bench, recipe: OvSamRecipe, drawn: Drawn) -> dict[str, Any]:
    """Of the embedding, from all stages after the first and from the second alone."""
    source = Joined([drawn])
    shown, asked = (pairs_of(recipe, source, source.numbers(split), zoom=WHOLE_TILE) for split in (TRAIN, VALIDATION))
    lessons = [stages_of(bench.sam, sample.high.image) for sample in shown]
    exams = [Exam(sample, stages_of(bench.sam, sample.high.image)) for sample in asked]
    found = {}
    for name, chosen in (("second to fourth", slice(None)), ("second", slice(1))):
        say(f"distillation, {name}")
        found[name] = distilled(bench.sam, lessons, exams, chosen=chosen, steps=STEPS)
    return found


def asked(bench: Bench, recipe: OvSamRecipe, source: Joined) -> Objects:
    numbers = source.numbers(VALIDATION)
    return asked_objects(recipe, source, numbers, bench.encode(), zoom=WHOLE_TILE, most=None)


def second_opinion(recipe: OvSamRecipe, source: Joined) -> Opinion:
    """Of a network that knows all classes, on the objects of ``asked``."""
    say("image-text network")
    teacher = taught_on_others(recipe, WHOLE_TILE)
    return opinion_of(teacher, recipe, source, source.numbers(VALIDATION), zoom=WHOLE_TILE)


def asked_real(bench: Bench, recipe: OvSamRecipe, source: Joined) -> Objects:
    """Nuclei in the middle of their tiles, larger objects on whole tiles."""
    numbers = source.numbers(VALIDATION)
    large = [number for number in numbers if set(source.infos[number].class_names) & set(ONE_SET)]
    others = [number for number in numbers if number not in large]
    encode = bench.encode()
    parts = [
        asked_objects(recipe, source, some, encode, zoom=zoom, most=MOST)
        for some, zoom in ((others, 1.0), (large, WHOLE_TILE))
        if some
    ]
    return Objects.joined(parts)


def recognition(
    bench: Bench,
    recipe: OvSamRecipe,
    source: SampleSource,
    ask: Callable[[Joined], Objects],
    ask_network: Callable[[Joined], Opinion] | None = None,
) -> dict[str, Any]:
    """Every way of naming, and every class held out, from a network beside the head, too, where there is one."""
    names, joined = recipe.classes, Joined([source], classes=recipe.classes)
    objects = ask(joined)
    shown = training_objects(recipe, joined, joined.numbers(TRAIN), bench.encode())
    kind = "drawn" if isinstance(source, Drawn) else "real"
    heads = {
        HEAD: bench.train(recipe, source, f"{kind} table"),
        SENTENCES: bench.train(sentences(recipe), source, f"{kind} sentences"),
        SHUFFLED: bench.train(recipe, with_shuffled_names(source, names), f"{kind} shuffled"),
    }
    said = {name: np.array(names)[scores_of(head, objects).argmax(axis=1)] for name, head in heads.items()}
    said |= without_head(shown, objects)
    scores = {name: without(bench, recipe, source, name, objects, f"{kind} without {name}") for name in names}
    found = {
        "counts": {name: int((objects.names == name).sum()) for name in names},
        "groups": len(np.unique(objects.groups)),
        "ways": {name: judged(one, objects) for name, one in said.items()},
        "held out": {name: held_out(one, names, name, objects) for name, one in scores.items()},
    }
    if ask_network is not None:
        opinion = ask_network(joined)
        found["beside"] = {name: beside(one, opinion, recipe, name, objects) for name, one in scores.items()}
    return found


def without(
    bench: Bench, recipe: OvSamRecipe, source: SampleSource, name: str, objects: Objects, what: str
) -> np.ndarray:
    """(N, K) what a head that was never shown a class says of objects, asked with the words of all."""
    fewer = sentences(recipe).model_copy(update={"classes": tuple(one for one in recipe.classes if one != name)})
    head = bench.train(fewer, source, what)
    vocabulary = VocabularySettings.model_validate({"classes": list(recipe.classes)})
    return scores_of(head, objects, class_vectors(MiniLm(), vocabulary))


def one_set(bench: Bench, recipe: OvSamRecipe, tiles: SampleSource, mine: Sequence[bool]) -> dict[str, Any]:
    """Glands against tumour on the samples of one data set: every group is named by heads that never saw it."""
    groups = sorted({info.group for info, inside in zip(tiles.infos, mine, strict=True) if inside})
    parts, said = [], []
    for group in groups:
        fold = Otherwise(tiles, [_in_fold(info, inside, group) for info, inside in zip(tiles.infos, mine, strict=True)])
        joined = Joined([fold], classes=recipe.classes)
        numbers = joined.numbers(VALIDATION)
        objects = asked_objects(recipe, joined, numbers, bench.encode(), zoom=WHOLE_TILE, most=None)
        shown = training_objects(recipe, joined, joined.numbers(TRAIN), bench.encode())
        head = bench.train(recipe, fold, f"one set without {group}")
        ways = {HEAD: np.array(recipe.classes)[scores_of(head, objects).argmax(axis=1)]}
        parts.append(objects)
        said.append(ways | without_head(shown, objects))
    objects = Objects.joined(parts)
    return {
        "counts": {name: int((objects.names == name).sum()) for name in recipe.classes},
        "groups": len(groups),
        "ways": {name: judged(np.concatenate([one[name] for one in said]), objects) for name in said[0]},
    }


def _in_fold(info: SampleInfo, inside: bool, group: str) -> SampleInfo:
    return replace(info, split="" if not inside else VALIDATION if info.group == group else TRAIN)


def in_one_set(data: Path, infos: Sequence[SampleInfo]) -> list[bool]:
    """Which samples of a manifest are of a data set that holds all of ``ONE_SET``."""
    sets = [row["dataset"] for _, row in read_manifest(data / MANIFEST, ("dataset",), error=DatasetError)]
    names: dict[str, set[str]] = {one: set() for one in sets}
    for one, info in zip(sets, infos, strict=True):
        names[one].update(info.class_names)
    return [names[one] >= set(ONE_SET) for one in sets]


def sentences(recipe: OvSamRecipe) -> OvSamRecipe:
    return recipe.model_copy(update={"text": "minilm"})


def timing(bench: Bench, head: OvSamHead) -> dict[str, Any]:
    say("time")
    variant = bench.sam.variant
    encoder = PatchEncoder(
        bench.sam.image_encoder, variant.pixels, variant.image_size, signature="timed", device=torch.device("cpu"),
        dtype=torch.float32,
    )  # fmt: skip
    patch = np.random.default_rng(0).integers(0, 256, (1, variant.image_size, variant.image_size, 3), np.uint8)
    return speed.measure(head, encoder, PairImages(patch, patch.copy()), speed.random_regions(variant.image_size))


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
