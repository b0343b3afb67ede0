"""``wsi-pipeline train``: heads for a frozen backbone, from annotated tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.errors import EXIT_INTERRUPTED


def train(
    system: Annotated[str, typer.Argument(help="hq-sam, pa-sam or wsi-sam.")],
    data: Annotated[list[Path], typer.Option("--data", help="Folder of tiles with manifest.csv. Repeatable.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the result; made when missing.")],
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
) -> None:
    """Train the decoder of a system on a frozen backbone. A run that was stopped goes on where its last epoch ended.

    Example: `wsi-pipeline train hq-sam --data tiles --output heads/hq-sam`

    The result is SYSTEM.safetensors, for `segment.weights`, and a model card beside it.

    Exit code: 0 done, 2 bad input, 130 interrupted.
    """
    from wsi_pipeline.cli.run import parse_settings
    from wsi_pipeline.training.recipe import load_recipe

    chosen = load_recipe(system, recipe, parse_settings(settings))

    from wsi_pipeline.models.precision import pick_device
    from wsi_pipeline.training.data.tiles import open_tiles
    from wsi_pipeline.training.loop import Training
    from wsi_pipeline.training.result import write_result
    from wsi_pipeline.training.sources import Joined

    sources = {str(folder): open_tiles(folder) for folder in data}
    embeddings = cache_embeddings or output / "embeddings"
    samples = Joined(list(sources.values()), hold_out=chosen.hold_out, seed=chosen.seed)
    training = Training(chosen, samples, output, embeddings, device=pick_device(device))
    try:
        training.run()
    except KeyboardInterrupt:
        typer.echo(f"interrupted after epoch {training.state.epoch}: the same command goes on from there", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    typer.echo(f"weights: {write_result(training, sources, output)}")
