"""`wsi-pipeline models`: what models there are, and their weight files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

if TYPE_CHECKING:
    from wsi_pipeline.models.registry import ModelSpec
    from wsi_pipeline.models.weights import StoredFile, WeightFile

app = typer.Typer(help="List, fetch, check and import models and their weights.", no_args_is_help=True)
console = Console()

NameOrPath = Annotated[str, typer.Argument(help="Name from `models list`, or the path of a weight file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List models and weight files.

    Example: wsi-pipeline models list
    """
    from wsi_pipeline.models.registry import available_models

    specs = available_models()
    weights = _weight_rows()
    if as_json:
        typer.echo(json.dumps({"models": [_spec_facts(spec) for spec in specs], "weights": weights}, indent=2))
        return
    table = _table("Models", "model", "what it is", "backbones (default first)", "status")
    for spec in specs:
        table.add_row(spec.name, spec.description, ", ".join(spec.backbones) or "-", spec.status)
    console.print(table)
    table = _table("Weight files", "weights", "system", "licence", "where", "size", "status")
    for row in weights:
        table.add_row(row["name"], row["system"], row["licence"], row["where"], _size(row["size"]), row["status"])
    console.print(table)
    console.print("Address, SHA-256 and citation of each: wsi-pipeline models show NAME")


@app.command()
def fetch(names: Annotated[list[str], typer.Argument(help="Names from `models list`.")]) -> None:
    """Download weight files into the store; an interrupted download continues.

    Example: wsi-pipeline models fetch mobile-sam
    """
    from wsi_pipeline.models.weights import fetch as fetch_file
    from wsi_pipeline.models.weights import find_entry

    for entry in [find_entry(name) for name in names]:
        with _progress() as progress:
            task = progress.add_task(entry.name, total=entry.size)

            def show(done: int, total: int | None, bar: Progress = progress, task: Any = task) -> None:
                bar.update(task, completed=done, total=total)

            path = fetch_file(entry.name, progress=show)
        typer.echo(f"{entry.name}: {path}")


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Names or paths; default: all here.")] = None,
) -> None:
    """Compute SHA-256 of weight files and compare it with what is known.

    Example: wsi-pipeline models verify lite-medsam
    """
    from wsi_pipeline.models.weights import verify as verify_file

    for name in names or [row["name"] for row in _weight_rows() if row["here"]]:
        digest, known = verify_file(name)
        typer.echo(f"{name}: {digest} {'as expected' if known else 'nothing to compare it with'}")


@app.command("import")
def import_weights(
    file: Annotated[Path, typer.Argument(help="Checkpoint (.pth, .pt or .safetensors).")],
    name: Annotated[str, typer.Option(help="What workflows shall call it, e.g. wsi-sam-tiny-high.")],
    licence: Annotated[str | None, typer.Option(help="Licence of the weights.")] = None,
) -> None:
    """Convert a checkpoint to safetensors in the store, with its origin and licence.

    Example: wsi-pipeline models import net_high.pth --name wsi-sam-tiny-high
    """
    from wsi_pipeline.models.convert import import_checkpoint
    from wsi_pipeline.models.weights import store_folder

    stored = import_checkpoint(file, name=name, licence=licence)
    typer.echo(f"{stored.name}: {store_folder() / stored.file} ({stored.kind}, {_size(stored.size)})")


@app.command()
def show(name: NameOrPath, as_json: AsJson = False) -> None:
    """Show all that is known about a weight file.

    Example: wsi-pipeline models show lite-medsam
    """
    facts = {key: value for key, value in _facts(name).items() if value is not None}
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(overflow="fold")  # an address cut short is no address
    for key, value in facts.items():
        table.add_row(key.replace("_", " "), str(value))
    console.print(table)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title)
    for number, heading in enumerate(headings):
        table.add_column(heading, no_wrap=number == 0)
    return table


def _spec_facts(spec: ModelSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "roles": list(spec.roles),
        "backbones": list(spec.backbones),
        "prompts": sorted(spec.prompt_kinds),
        "description": spec.description,
        "status": spec.status,
    }


def _facts(name: str) -> dict[str, Any]:
    from wsi_pipeline.models.weights import catalogue, locate, present, sha256_of, stored_files

    entry, stored = catalogue().get(name), stored_files().get(name)
    facts = (entry.model_dump() if entry else {}) | (stored.model_dump() if stored else {})
    if facts:
        path = present(name)
        return facts | ({"path": str(path), "prompts": _trained_on(path)} if path else {})
    from wsi_pipeline.models.checkpoints import identify, read_state_dict

    path = locate(name)
    state = read_state_dict(path)
    return {
        "path": str(path),
        "holds": str(identify(state, where=path)),
        "prompts": _trained_on(path),
        "tensors": len(state),
        "parameters": sum(value.numel() for value in state.values()),
        "size": path.stat().st_size,
        "sha256": sha256_of(path),
    }


def _trained_on(path: Path) -> str | None:
    """The kinds of prompts that a file says it was trained to answer."""
    from wsi_pipeline.models.head_prompts import trained_prompts

    kinds = trained_prompts(path)
    return None if kinds is None else ", ".join(sorted(kinds))


def _weight_rows() -> list[dict[str, Any]]:
    from wsi_pipeline.models.weights import catalogue, present, stored_files

    rows = [_catalogue_row(entry, present(entry.name) is not None) for entry in catalogue().values()]
    rows += [
        _row(stored, "stored", present(stored.name) is not None, f"imported from {stored.source}")
        for stored in stored_files().values()
        if stored.name not in catalogue()
    ]
    return rows


def _catalogue_row(entry: WeightFile, here: bool) -> dict[str, Any]:
    where = "stored" if here and entry.where in ("download", "by-path") else entry.where.replace("-", " ")
    return _row(entry, where, here, entry.status)


def _row(known: WeightFile | StoredFile, where: str, here: bool, status: str) -> dict[str, Any]:
    facts = known.model_dump(include={"name", "system", "licence", "size", "sha256", "url", "page", "citation"})
    return facts | {"where": where, "here": here, "status": status}


def _size(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:,.1f} MB"


def _progress() -> Progress:
    """A bar on a terminal; nothing elsewhere, where the final line is enough."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not Console().is_terminal)
