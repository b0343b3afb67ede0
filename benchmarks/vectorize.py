"""Polygons of label images: against cv2.findContours per label, and memory for a large image in chunks.

python -m benchmarks.vectorize            # ratio on 2048 x 2048 px with 2000 nuclei, one thread
python -m benchmarks.vectorize --memory   # 10240 x 10240 px in chunks of 2048 px as well
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import shapely
from scipy import ndimage

from wsi_pipeline.vectorize.arrays import polygons_from_labels, vectorize_array
from wsi_pipeline.vectorize.assemble import assemble_chunk
from wsi_pipeline.vectorize.chunks import ChunkFacts, ChunkGrid, ChunkOutlines, trace_chunk
from wsi_pipeline.vectorize.plan import plan_assembly

_SPACING = 46
"""px between the middles of neighbouring synthetic nuclei; gives about 2000 on 2048 x 2048 px."""


def nuclei(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    """Labels of a window of an endless field of ellipses; any window shows the same nuclei under the same labels."""
    strips = [_strip(x0, y, x1, min(y + 128, y1)) for y in range(y0, y1, 128)]
    return np.concatenate(strips)


def _strip(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    y, x = np.mgrid[y0:y1, x0:x1]
    row, col = y // _SPACING, x // _SPACING
    seed = (row * 73_856_093) ^ (col * 19_349_663)
    dy = y - row * _SPACING - _SPACING / 2 - (seed % 13 - 6)
    dx = x - col * _SPACING - _SPACING / 2 - (seed // 13 % 13 - 6)
    angle = (seed // 169 % 32) * (np.pi / 32)
    u, v = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    inside = (u / (11 + seed % 6)) ** 2 + (v / (9 + seed // 7 % 5)) ** 2 <= 1
    return np.where(inside, row * 100_000 + col + 1, 0).astype(np.uint32)


def baseline(labels: np.ndarray) -> np.ndarray:
    """One crop per label, its contours by OpenCV (through pixel centres), polygons by shapely; labels are 1 … N."""
    polygons = []
    for number, window in enumerate(ndimage.find_objects(labels), start=1):
        crop = np.pad((labels[window] == number).astype(np.uint8), 1)
        contours, tree = cv2.findContours(crop, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        origin = (window[1].start - 1, window[0].start - 1)
        parts = []
        for index, contour in enumerate(contours):
            if tree[0][index][3] >= 0 or len(contour) < 3:
                continue
            holes, child = [], tree[0][index][2]
            while child >= 0:
                if len(contours[child]) >= 3:
                    holes.append(contours[child][:, 0] + origin)
                child = tree[0][child][0]
            parts.append(shapely.Polygon(contour[:, 0] + origin, holes))
        polygons.append(parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts))
    return np.array(polygons, object)


def best_time(call: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of CPU, which a busy machine changes least; everything here runs on one thread."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        call()
        times.append(time.process_time() - begin)
    return min(times)


def compare() -> None:
    _, labels = np.unique(nuclei(0, 0, 2048, 2048), return_inverse=True)
    labels = labels.astype(np.int32)
    ids, polygons = polygons_from_labels(labels)
    pixels = np.unique(labels[labels > 0], return_counts=True)[1]
    exact = float((shapely.area(polygons) == pixels).mean())
    theirs = baseline(labels)
    their_exact = float((shapely.area(theirs) == pixels).mean())
    ours_s, theirs_s = best_time(lambda: polygons_from_labels(labels)), best_time(lambda: baseline(labels))
    simple_s = best_time(lambda: vectorize_array(labels, tolerance=1.0))
    print(f"{len(ids)} objects on 2048 x 2048 px")
    print(f"wsi_pipeline            {ours_s * 1000:7.0f} ms   area equals the pixel count in {exact:.0%}")
    print(f"cv2.findContours        {theirs_s * 1000:7.0f} ms   area equals the pixel count in {their_exact:.0%}")
    print(f"simplified to 1 px      {simple_s * 1000:7.0f} ms")
    print(f"ratio baseline / wsi_pipeline: {theirs_s / ours_s:.2f}")


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(side: int, chunk: int) -> None:
    grid = ChunkGrid(side, side, chunk)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.arrow" for index in range(len(grid))]
        before = peak_mib()
        begin = time.perf_counter()
        for index, path in enumerate(paths):
            trace_chunk(nuclei(*grid.read_bounds(index)), grid, index).save(path)
        traced, traced_peak = time.perf_counter(), peak_mib()
        plan = plan_assembly(ChunkFacts.load(path) for path in paths)
        count = 0
        for index in range(len(grid)):
            count += len(assemble_chunk(plan.task(index), lambda i: ChunkOutlines.load(paths[i])))
        done = time.perf_counter()
        stored = sum(path.stat().st_size for path in paths) / 2**20
    print(f"{count} objects on {side} x {side} px in {len(grid)} chunks of {chunk} px")
    print(f"  read and trace {traced - begin:.1f} s, plan and assemble {done - traced:.1f} s, {stored:.1f} MiB on disk")
    print(f"  peak memory {before:.0f} MiB before, {traced_peak:.0f} MiB tracing, {peak_mib():.0f} MiB in all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", action="store_true", help="also trace a large image in chunks")
    parser.add_argument("--side", type=int, default=10_240)
    parser.add_argument("--chunk", type=int, default=2048)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    if arguments.memory:
        memory(arguments.side, arguments.chunk)
    compare()


if __name__ == "__main__":
    main()
