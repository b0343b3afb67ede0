"""Reading tiles, as ratios against a plain openslide-python loop and against decoding the JPEG data alone.

python benchmarks/reading.py [SLIDE.svs]     # CPU time on one thread, a fresh handle for each
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import openslide
import tifffile

from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.slides.slide import open_slide
from wsi_pipeline.tiling.plan import PatchPair
from wsi_pipeline.tiling.read import read_pairs

TILE, REPEATS = 256, 3


def seconds(function: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(REPEATS):
        started = time.process_time()
        function()
        best = min(best, time.process_time() - started)
    return best


def corners(path: Path) -> list[tuple[int, int]]:
    with open_slide(path) as slide:
        width, height = slide.info.width, slide.info.height
    return [(x, y) for y in range(0, height - TILE, TILE) for x in range(0, width - TILE, TILE)]


def plain_loop(path: Path, places: list[tuple[int, int]]) -> None:
    with openslide.OpenSlide(path) as slide:
        for x, y in places:
            np.asarray(slide.read_region((x, y), 0, (TILE, TILE)).convert("RGB"))


def raw_jpeg(path: Path) -> None:
    """Every tile of level 0 decoded once, nothing else done with it."""
    with tifffile.TiffFile(path) as tiff:
        for _ in tiff.pages[0].segments():
            pass


def ours(path: Path, places: list[tuple[int, int]]) -> None:
    with open_slide(path) as slide:
        for x, y in places:
            slide.read_grid(Affine2D(tx=x, ty=y), (TILE, TILE))


def our_pairs(path: Path, places: list[tuple[int, int]]) -> None:
    """High and low patches, 16 tiles at a time as a batch reads them."""
    with open_slide(path) as slide:
        for start in range(0, len(places), 16):
            pairs = [
                PatchPair.around(x + TILE / 2, y + TILE / 2, scale=(1.0, 1.0), size=TILE, context_factor=2.0)
                for x, y in places[start : start + 16]
            ]
            read_pairs(slide, pairs, low=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("slide", nargs="?", type=Path)
    path = arguments.parse_args().slide or Path(str(resources.files("wsi_pipeline") / "data/CMU-1-Small-Region.svs"))
    places = corners(path)
    baseline = seconds(lambda: plain_loop(path, places))
    print(f"{len(places)} tiles of {TILE} px, CPU seconds")
    rows: list[tuple[str, Callable[[], object]]] = [
        ("raw JPEG decode of level 0", lambda: raw_jpeg(path)),
        ("ours, single tiles", lambda: ours(path, places)),
        ("ours, pairs (high and low)", lambda: our_pairs(path, places)),
    ]
    print(f"  {'plain openslide-python loop':<28} {baseline:7.3f}   1.0 x")
    for name, function in rows:
        taken = seconds(function)
        print(f"  {name:<28} {taken:7.3f} {baseline / taken:5.1f} x")


if __name__ == "__main__":
    main()
