"""All commands in one place; each lives in a file of its own and imports heavy libraries only when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from wsi_pipeline import __version__
from wsi_pipeline.cli import (
    clean,
    cluster,
    dataset,
    demo,
    doctor,
    evaluate,
    export,
    inspect,
    models,
    prompts,
    retry,
    run,
    status,
    train,
    validate,
    workflows,
)

app = typer.Typer(
    name="wsi-pipeline",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Precise masks for gigapixel slides: from a slide to OME-Zarr pyramids and QuPath annotations.",
    epilog="Start with `wsi-pipeline demo`, then `wsi-pipeline run slide.svs --workflow nuclei --output out`.",
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"wsi-pipeline {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


app.command("run")(run.run)
app.command("status")(status.status)
app.command("retry")(retry.retry)
app.command("clean")(clean.clean)
app.command("demo")(demo.demo)
app.command("inspect")(inspect.inspect)
app.command("prompts")(prompts.prompts)
app.command("export")(export.export)
app.command("validate")(validate.validate)
app.command("evaluate")(evaluate.evaluate)
app.add_typer(dataset.app, name="dataset")
app.command("train")(train.train)
app.add_typer(models.app, name="models")
app.add_typer(workflows.app, name="workflows")
app.add_typer(cluster.app, name="cluster")
app.command("doctor")(doctor.doctor)
