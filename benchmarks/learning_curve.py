"""How many annotated tiles the domain decoder needs: Dice and PQ on the validation tiles after 5, 10 and 20 of them.

python -m benchmarks.learning_curve --data tiles --json curve.json --picture docs/images/learning-curve.png

Every run takes the recipe as it ships but for the number of steps, which is the same for all. Tiles of a seed are
nested: those of a shorter run are part of the longer one's. Nothing is chosen on the validation tiles.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from benchmarks.finding.choice import pq_of
from benchmarks.finding.finders import Alone
from benchmarks.finding.study import prompter_for
from benchmarks.finding.tiles import AnnotatedTile, read_tiles
from wsi_pipeline.evaluation.labels import Labels
from wsi_pipeline.evaluation.metrics import score
from wsi_pipeline.files import beside
from wsi_pipeline.training.data.tiles import open_tiles
from wsi_pipeline.training.loop import Training
from wsi_pipeline.training.recipe import load_recipe
from wsi_pipeline.training.result import write_result
from wsi_pipeline.training.sources import VALIDATION, Joined
from wsi_pipeline.workflow import DomainDecoderPrompts

COUNTS, SEEDS = (5, 10, 20), (0, 1, 2)
STEPS, VARIANTS = 120, 3


def trained(data: Path, count: int, seed: int, output: Path, embeddings: Path, low_patch: bool) -> Path:
    """Weights of a decoder that saw ``count`` tiles."""
    changes: dict[str, Any] = {
        "samples": count,
        "seed": seed,
        "judged": False,
        "variants": VARIANTS,
        "low_patch": low_patch,
        "batch": min(4, count),
    }
    per_epoch = math.ceil(count / changes["batch"])
    changes["epochs"] = math.ceil(STEPS / per_epoch)
    changes["optimiser.decay_after"] = math.ceil(changes["epochs"] / 3)
    recipe = load_recipe("domain-decoder", None, changes)
    tiles = open_tiles(data)
    source = Joined([tiles], judged=False, classes=recipe.classes, samples=count, seed=seed)
    training = Training(recipe, source, output, embeddings)
    training.run()
    return write_result(training, {str(data): tiles}, output)


def measured(weights: Path, tiles: Sequence[AnnotatedTile], embeddings: Path) -> dict[str, float]:
    """Dice, the mean over tiles, and PQ of all objects, of the decoder's own instances."""
    prompts = DomainDecoderPrompts(source="domain-decoder", weights=str(weights))
    prompter = prompter_for(prompts, embeddings)
    finder = Alone(prompter, prompter.model.size)
    scores = [score(Labels.of(tile.picture.labels), Labels.of(finder.find(tile))) for tile in tiles]
    dice = sum(one.ratios()["dice"] for one in scores) / len(scores)
    return {"dice": round(dice, 4), "pq": round(pq_of(scores), 4)}


def picture(scores: dict[str, list[dict[str, float]]]) -> Image.Image:
    """Mean of each metric by number of tiles, with a dot for each seed."""
    width, height, left, top, right, bottom = 480, 300, 50, 20, 460, 260
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    counts = [int(count) for count in scores]

    def place(count: int, value: float) -> tuple[float, float]:
        share = math.log(count / counts[0]) / math.log(counts[-1] / counts[0])
        return left + 20 + share * (right - left - 40), bottom - value * (bottom - top)

    for tenths in range(0, 11, 2):
        y = place(counts[0], tenths / 10)[1]
        draw.line([(left, y), (right, y)], fill=(220, 220, 220))
        draw.text((left - 28, y - 6), f"{tenths / 10:.1f}", fill="black")
    for count in counts:
        draw.text((place(count, 0)[0] - 6, bottom + 6), str(count), fill="black")
    draw.text(((left + right) / 2 - 40, bottom + 22), "training tiles", fill="black")
    for metric, colour in (("dice", (40, 90, 180)), ("pq", (190, 70, 40))):
        means = [sum(row[metric] for row in rows) / len(rows) for rows in scores.values()]
        line = [place(count, mean) for count, mean in zip(counts, means, strict=True)]
        draw.line(line, fill=colour, width=2)
        for count, rows in zip(counts, scores.values(), strict=True):
            for row in rows:
                x, y = place(count, row[metric])
                draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=colour)
        draw.text((right - 34, line[-1][1] - 18), {"dice": "Dice", "pq": "PQ"}[metric], fill=colour)
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--json", type=Path, required=True, help="all numbers")
    parser.add_argument("--picture", type=Path, help="PNG")
    parser.add_argument("--cache-embeddings", type=Path, help="folder to keep embeddings in, for all runs")
    parser.add_argument(
        "--high-only", action="store_true", help="leave the surroundings out, at half the encoder calls"
    )
    given = parser.parse_args()
    tiles = list(read_tiles(given.data, VALIDATION))
    scores: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        embeddings = given.cache_embeddings or Path(folder) / "embeddings"
        for count in COUNTS:
            for seed in SEEDS:
                output = Path(folder) / f"{count}-{seed}"
                weights = trained(given.data, count, seed, output, embeddings, not given.high_only)
                row = measured(weights, tiles, embeddings)
                scores.setdefault(str(count), []).append(row)
                print(f"{count} tiles, seed {seed}: {row}", file=sys.stderr, flush=True)
    seen = "the high patch alone" if given.high_only else "both patches"
    what = (
        f"The domain decoder on {seen}, {STEPS} steps with {VARIANTS} variants of each tile, on its own objects with"
        f" the default thresholds: mean, and least to most, of {len(SEEDS)} seeds, each with other tiles."
    )
    with beside(given.json) as partial:
        partial.write_text(json.dumps({"what": what, "scores": scores}, indent=1) + "\n", encoding="utf-8")
    if given.picture:
        picture(scores).save(given.picture, optimize=True)


if __name__ == "__main__":
    main()
