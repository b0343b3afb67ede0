"""``wsi-pipeline inspect``: what is known of a slide, and where its µm per pixel come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wsi_pipeline.slides.info import SlideInfo
    from wsi_pipeline.slides.slide import Slide

THUMBNAIL_SIDE = 2048
"""Longest side of the thumbnail, px."""


def inspect(
    slides: Annotated[list[Path], typer.Argument(help="Slide files, folders or quoted globs.")],
    mpp: Annotated[float | None, typer.Option("--mpp", help="µm per level-0 pixel to use instead.")] = None,
    thumbnail: Annotated[
        Path | None, typer.Option("--thumbnail", help="Write a thumbnail with the tissue outline to this PNG.")
    ] = None,
) -> None:
    """Show size, levels, resolution and bounds of slides.

    Example: `wsi-pipeline inspect slide.svs --thumbnail slide.png`
    """
    from wsi_pipeline.errors import EXIT_SOME_FAILED, SlideError
    from wsi_pipeline.slides.slide import find_slides, open_slide

    failed = False
    for path in find_slides(slides):
        try:
            with open_slide(path, mpp=mpp) as slide:
                _describe(slide.info)
                if thumbnail is not None:
                    _thumbnail(slide, thumbnail)
        except SlideError as error:
            typer.echo(f"error: {error}", err=True)
            failed = True
    if failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def _describe(slide: SlideInfo) -> None:
    x, y = slide.resolution.x, slide.resolution.y
    typer.echo(f"{slide.path}")
    typer.echo(f"  format      {slide.vendor} (read by {slide.reader})")
    typer.echo(f"  size        {slide.width} x {slide.height} px, {slide.width * x:.0f} x {slide.height * y:.0f} µm")
    typer.echo(f"  resolution  {x:.4g} x {y:.4g} µm/px (from {slide.mpp_source})")
    levels = ", ".join(f"{width} x {height}" for width, height in slide.level_sizes)
    typer.echo(f"  levels      {levels}")
    if slide.has_bounds:
        typer.echo(f"  bounds      {slide.bounds.bounds} (QuPath crops to them)")
    typer.echo(f"  associated  {', '.join(slide.associated) or 'none'}")
    for warning in slide.warnings:
        typer.echo(f"  warning     {warning}")


def _thumbnail(slide: Slide, path: Path) -> None:
    from PIL import Image, ImageDraw
    from shapely import transform

    from wsi_pipeline.files import beside
    from wsi_pipeline.qupath.classes import class_color
    from wsi_pipeline.tissue.detect import find_tissue
    from wsi_pipeline.tissue.outlines import outlines
    from wsi_pipeline.workflow import TissueSettings

    patch = slide.thumbnail(THUMBNAIL_SIDE)
    picture = Image.fromarray(patch.image)
    canvas = ImageDraw.Draw(picture)
    to_picture = patch.grid.to_level0.inverse()
    for outline in outlines(find_tissue(slide, TissueSettings())):
        shape = transform(outline.geometry, to_picture.apply)
        for ring in (shape.exterior, *shape.interiors):
            canvas.line([(x, y) for x, y in ring.coords], fill=class_color(outline.class_name), width=3)
    with beside(path) as partial:
        picture.save(partial, format="PNG")
    typer.echo(f"  thumbnail   {path}")
