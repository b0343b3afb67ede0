"""``wsi-pipeline train``: a system adapted to annotated tiles and slides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_pipeline.errors import EXIT_INTERRUPTED, DatasetError

if TYPE_CHECKING:
    from wsi_pipeline.training.sources import DataSet


def train(
    system: Annotated[
        str,
        typer.Argument(
            help="hq-sam, pa-sam, wsi-sam, domain-decoder, lora-sam, ov-sam, sam-clip, sapnet or semantic-sam."
        ),
    ],
    data: Annotated[
        list[Path],
        typer.Option("--data", help="Folder with manifest.csv, QuPath GeoJSON or masks.ome.zarr. Repeatable."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the result; made when missing.")],
    slide: Annotated[
        list[Path] | None, typer.Option(help="Slide of each GeoJSON or masks.ome.zarr, in their order. Repeatable.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="YAML with keys that are to be otherwise.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change one key of the recipe, e.g. --set epochs=10. Repeatable.")
    ] = None,
    cache_embeddings: Annotated[
        Path | None,
        typer.Option(
            "--cache-embeddings", metavar="FOLDER", help="Where to keep embeddings (7 to 30 MB each); else in OUTPUT."
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:0.")] = "auto",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the curves as TensorBoard's event files, too.")
    ] = False,
) -> None:
    """Train the parameters of a system. A run that was stopped goes on where its last epoch ended.

    Example: `wsi-pipeline train hq-sam --data tiles --output heads/hq-sam`

    The result is SYSTEM.safetensors, for `segment.weights`, and a model card beside it.

    Exit code: 0 done, 2 bad input, 130 interrupted.
    """
    from wsi_pipeline.cli.run import parse_settings
    from wsi_pipeline.training.systems import load_recipe

    chosen = load_recipe(system, recipe, parse_settings(settings))

    from wsi_pipeline.models.precision import pick_device
    from wsi_pipeline.training.loop import Training
    from wsi_pipeline.training.progress import reporter_for
    from wsi_pipeline.training.ranks import Ranks
    from wsi_pipeline.training.result import write_result
    from wsi_pipeline.training.sources import Joined, open_data_sets

    device = pick_device(device, where="--device")
    ranks = Ranks.joined(device)
    sources = open_data_sets(_data_sets(data, slide or []), chosen)
    training = Training(
        chosen,
        Joined.for_recipe(chosen, list(sources.values())),
        output,
        cache_embeddings or output / "embeddings",
        device=ranks.device(device),
        reporter=reporter_for(quiet=not ranks.is_first),
        ranks=ranks,
        tensorboard=tensorboard,
    )
    try:
        training.run()
    except KeyboardInterrupt:
        typer.echo(f"interrupted after epoch {training.state.epoch}: the same command goes on from there", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if ranks.is_first:
        typer.echo(f"weights: {write_result(training, sources, output)}")


def _data_sets(data: list[Path], slides: list[Path]) -> list[DataSet]:
    """The data sets, each file of annotations with its slide."""
    from wsi_pipeline.training.data.find import is_over_slide
    from wsi_pipeline.training.sources import DataSet

    wanted = [path for path in data if is_over_slide(path)]
    if len(wanted) != len(slides):
        raise DatasetError(
            f"{len(wanted)} files of annotations need a slide each, {len(slides)} slides were given",
            where="--slide",
            fix="Name the slide of each GeoJSON or masks.ome.zarr, in their order",
        )
    of = dict(zip(wanted, slides, strict=True))
    return [DataSet(path, of.get(path)) for path in data]
