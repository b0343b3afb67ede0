"""``wsi-pipeline evaluate``: how good are these masks?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsi_pipeline.errors import WsiPipelineError

if TYPE_CHECKING:
    from wsi_pipeline.evaluation.labels import Frame


def evaluate(
    truth: Annotated[
        Path,
        typer.Option("--truth", "-t", help="Label image, masks.ome.zarr, QuPath GeoJSON, or a CSV manifest of tiles."),
    ],
    predictions: Annotated[
        list[str],
        typer.Option(
            "--prediction",
            "--run",
            "-p",
            metavar="[NAME=]PATH",
            help="File of the same kinds, or a folder of them named like the images. Repeat it to compare runs.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results; made when missing.")],
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="COLUMN=VALUE", help="Only these rows of the manifest. Repeatable."),
    ] = None,
    class_name: Annotated[
        str | None,
        typer.Option("--class", help="Only objects of this class; a prediction without classes counts whole."),
    ] = None,
    image: Annotated[
        Path | None, typer.Option("--image", help="What was annotated, to draw on (a manifest has it in `file`).")
    ] = None,
    width: Annotated[
        int | None, typer.Option("--width", min=1, help="Of the image, px; for two GeoJSON files.")
    ] = None,
    height: Annotated[int | None, typer.Option("--height", min=1, help="Of the image, px; goes with --width.")] = None,
    mpp: Annotated[float | None, typer.Option("--mpp", min=1e-3, help="µm per px, instead of what files say.")] = None,
    level: Annotated[int, typer.Option("--level", min=0, help="Of mask pyramids; each has half the px a side.")] = 0,
    sizes: Annotated[
        str | None,
        typer.Option("--sizes", help="Areas between size bins, µm² (px without mpp), e.g. 30,80. Default: terciles."),
    ] = None,
    boundary_width: Annotated[
        float | None,
        typer.Option(
            "--boundary-width", min=1e-6, max=1, help="Of boundary IoU, as a share of the diagonal. Default: 0.02."
        ),
    ] = None,
    replicates: Annotated[int, typer.Option("--replicates", min=100, help="Draws of the bootstrap.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the bootstrap.")] = 0,
) -> None:
    """Compare predictions with truth: Dice, IoU, boundary IoU, HD95, F1, PQ, AJI, each with a 95 % interval.

    Example: `wsi-pipeline evaluate --truth nuclei.geojson --prediction out/slide/masks.ome.zarr --output scores`

    Many tiles and two runs:
    `wsi-pipeline evaluate --truth manifest.csv --where split=val --run sam=out-sam --run hq=out-hq --output scores`

    Writes evaluation.json, images.csv (one row per image) and report.html (the runs side by side, worst cases drawn).
    """
    from wsi_pipeline.evaluation.pairing import read_truths
    from wsi_pipeline.evaluation.report import write_evaluation
    from wsi_pipeline.evaluation.study import Options, evaluate
    from wsi_pipeline.evaluation.summary import summarise
    from wsi_pipeline.training.boundary import EVALUATION_WIDTH

    options = Options(
        frame=_frame(width, height),
        mpp=mpp,
        level=level,
        class_name=class_name,
        size_edges=_edges(sizes),
        boundary_width=boundary_width or EVALUATION_WIDTH,
        replicates=replicates,
        seed=seed,
    )
    truths = read_truths(truth, dict(_split(word, "--where") for word in where or []), image)
    results = evaluate(truths, _runs(predictions), options)
    summary = summarise(results, options)
    write_evaluation(output, results, summary, options)
    for name, run in summary["runs"].items():
        typer.echo(f"{name}: {_line(run)}")
    typer.echo(output / "report.html")


def _runs(words: list[str]) -> dict[str, Path]:
    from wsi_pipeline.evaluation.pairing import stem

    runs: dict[str, Path] = {}
    for word in words:
        named = "=" in word and not Path(word).exists()
        name, path = _split(word, "--prediction") if named else (stem(Path(word)), word)
        if name in runs:
            raise WsiPipelineError(f"two runs are called {name}", where="--prediction", fix="Write NAME=PATH")
        runs[name] = Path(path)
    return runs


def _split(word: str, option: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not (name and equals):
        raise WsiPipelineError(f"{word!r} is not NAME=VALUE", where=option, fix=f"Write {option} name=value")
    return name, value


def _frame(width: int | None, height: int | None) -> Frame | None:
    from wsi_pipeline.evaluation.labels import Frame

    if (width is None) != (height is None):
        raise WsiPipelineError("come together", where="--width and --height", fix="Give both")
    return Frame(width, height) if width and height else None


def _edges(sizes: str | None) -> tuple[float, ...] | None:
    if sizes is None:
        return None
    try:
        edges = tuple(float(word) for word in sizes.split(","))
    except ValueError:
        edges = ()
    if not edges or list(edges) != sorted({edge for edge in edges if 0 < edge < float("inf")}):
        raise WsiPipelineError(f"{sizes!r} is no rising list of areas", where="--sizes", fix="Write e.g. 30,80")
    return edges


def _line(run: dict[str, Any]) -> str:
    found = {"Dice": "dice", "boundary IoU": "boundary_iou", "F1": "f1", "PQ": "pq", "AJI": "aji"}
    parts = [f"{word} {_number(run['pooled'][name])}" for word, name in found.items()]
    return ", ".join([*parts, f"HD95 {_number(run['mean']['hd95_px'])} px"])


def _number(estimate: list[float | None]) -> str:
    value, low, high = estimate
    if value is None:
        return "–"
    return f"{value:.3f}" if low is None else f"{value:.3f} ({low:.3f} to {high:.3f})"
