"""``wsi-pipeline workflows``: the workflows that ship with the package, and what a workflow file may say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.workflow import Workflow, find_workflow, load_workflow, workflow_folder

app = typer.Typer(no_args_is_help=True, help="List, show and check workflows.")


@app.command("list")
def list_() -> None:
    """Name and purpose of every workflow that ships with the package. Example: `wsi-pipeline workflows list`"""
    for path in sorted(workflow_folder().glob("*.yaml"), key=lambda path: path.stem):
        workflow = load_workflow(path)
        typer.echo(f"{workflow.name:<20} {workflow.description}")


@app.command()
def show(name: Annotated[str, typer.Argument(help="Name of a workflow, or a YAML file.")]) -> None:
    """Print a workflow's file. Example: `wsi-pipeline workflows show nuclei > mine.yaml`"""
    typer.echo(find_workflow(name).read_text(encoding="utf-8"), nl=False)


@app.command()
def check(files: Annotated[list[Path], typer.Argument(help="Workflow files.")]) -> None:
    """Check workflow files without running them. Example: `wsi-pipeline workflows check mine.yaml`"""
    for path in files:
        typer.echo(f"{path}: ok ({load_workflow(path).name})")


@app.command()
def schema() -> None:
    """Print the JSON Schema of workflow files, for editors that complete and check YAML.

    Example: `wsi-pipeline workflows schema > workflow.schema.json`
    """
    typer.echo(json.dumps(Workflow.model_json_schema(by_alias=True), indent=2))
