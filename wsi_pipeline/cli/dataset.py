"""``wsi-pipeline dataset``: what is there to train on, and does it look right?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from wsi_pipeline.training.data.samples import SampleSource
    from wsi_pipeline.training.data.summary import Key, Row

app = typer.Typer(help="Look at training data before training on it.", no_args_is_help=True)
console = Console()


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="Folder with manifest.csv, QuPath GeoJSON or masks.ome.zarr.")],
    slide: Annotated[Path | None, typer.Option(help="Slide that GeoJSON or masks lie over.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write a contact sheet to this PNG.")] = None,
    augment: Annotated[int, typer.Option(min=0, help="Augmented variants of each sample on the sheet.")] = 0,
    samples: Annotated[int, typer.Option(min=1, help="Samples on the sheet at most.")] = 24,
    size: Annotated[int, typer.Option(min=16, help="Side of augmented patches, px.")] = 256,
    mpp: Annotated[float | None, typer.Option(help="µm per px of samples read from a slide.")] = None,
    slide_mpp: Annotated[float | None, typer.Option(help="µm per level-0 pixel of the slide.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the augmentation.")] = 0,
) -> None:
    """Check annotated data, count it, and draw a contact sheet.

    Example: wsi-pipeline dataset inspect tiles --output sheet.png --augment 3
    """
    from wsi_pipeline.training.data.find import open_source
    from wsi_pipeline.training.data.slides import FieldOfView
    from wsi_pipeline.training.data.summary import summarise

    # read twice as far as a patch reaches, so that smaller scales do not show made-up surroundings
    source = open_source(path, slide, slide_mpp=slide_mpp, field=FieldOfView(2 * size, mpp))
    _print(summarise(source))
    if output is not None:
        _write(output, source, augment, samples=samples, size=size, seed=seed)


def _print(rows: Mapping[Key, Row]) -> None:
    table = Table()
    for heading in ("split", "classes", "licence"):
        table.add_column(heading, overflow="fold")
    for heading in ("tiles", "empty", "objects", "groups"):
        table.add_column(heading, justify="right", no_wrap=True)
    for (split, classes, licence), row in rows.items():
        numbers = row.samples, row.empty, row.objects, len(row.groups)
        table.add_row(split or "-", classes, licence, *map(str, numbers))
    table.add_section()
    groups: set[str] = set().union(*(row.groups for row in rows.values()))
    totals = (sum(getattr(row, name) for row in rows.values()) for name in ("samples", "empty", "objects"))
    table.add_row("all", "", "", *map(str, totals), str(len(groups)))
    console.print(table)


def _write(output: Path, source: SampleSource, augment: int, *, samples: int, size: int, seed: int) -> None:
    from wsi_pipeline.training.data.augment import Augmentation, AugmentedPairs
    from wsi_pipeline.training.data.sheet import Sheet, write_sheet

    variants = [AugmentedPairs(source, Augmentation(size), seed, epoch) for epoch in range(augment)]
    write_sheet(output, Sheet(samples).draw(source, variants))
    typer.echo(f"sheet: {output}")
