"""What it costs to look at all objects of a patch at once instead of one after the other.

python -m benchmarks.selecting

* Matrix-NMS against its formula, pair of masks by pair of masks.
* Targets of the instance branch's grids against a loop over objects, levels and cells.
* Memory of finding and drawing a thousand objects on a patch of 1024 px.
"""

from __future__ import annotations

import math
import resource
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.segmenting import seconds
from wsi_pipeline.models.sapnet.matrix_nms import matrix_nms
from wsi_pipeline.models.sapnet.settings import SapNetSettings, SoloSettings
from wsi_pipeline.models.sapnet.solo_head import SoloMaps
from wsi_pipeline.models.sapnet.solo_results import draw, find
from wsi_pipeline.training.solo_targets import solo_targets

OBJECTS, SIDE, STRIDE, REPEATS = 300, 256, 4, 3
SOLO = SapNetSettings(classes=("a", "b")).solo


@dataclass(frozen=True, slots=True)
class Objects:
    """Round objects of one patch.

    Attributes:
        masks: (n, side, side) bool.
        boxes: (n, 4) px.
        labels: (n,) int64.
        scores: (n,) in 0..1.
    """

    masks: Tensor
    boxes: Tensor
    labels: Tensor
    scores: Tensor


def random_objects(count: int, side: int = SIDE, seed: int = 0) -> Objects:
    """Discs of 5 to 12 px radius."""
    random = torch.Generator().manual_seed(seed)
    radius = 5 + 7 * torch.rand(count, 1, generator=random)
    centre = radius + (side - 2 * radius) * torch.rand(count, 2, generator=random)
    px = torch.arange(side) + 0.5
    far = (px - centre[:, :1])[:, None].square() + (px - centre[:, 1:])[:, :, None].square()
    labels = torch.randint(2, (count,), generator=random)
    boxes = torch.cat([centre - radius, centre + radius], dim=1)
    return Objects(far < radius[..., None].square(), boxes, labels, torch.rand(count, generator=random))


def measure(objects: int = OBJECTS) -> dict[str, float]:
    """How many times as fast all at once are, on one thread."""
    shown = random_objects(objects)
    small = shown.masks[:, ::STRIDE, ::STRIDE]
    index = torch.zeros(objects, dtype=torch.int64)
    nms_loop = seconds(lambda: nms_by_pairs(small, shown.labels, shown.scores), 1)
    nms = seconds(lambda: matrix_nms(small, shown.labels, shown.scores), REPEATS)
    targets_loop = seconds(lambda: targets_by_objects(shown, SOLO), 1)
    targets = seconds(
        lambda: solo_targets(
            shown.masks,
            shown.boxes,
            shown.labels,
            index,
            images=1,
            classes=2,
            grids=SOLO.grids,
            scale_ranges=SOLO.scale_ranges,
        ),
        REPEATS,
    )
    return {"matrix_nms": nms_loop / nms, "targets": targets_loop / targets}


def nms_by_pairs(masks: Tensor, labels: Tensor, scores: Tensor, sigma: float = 2.0) -> Tensor:
    """(n,) lowered scores, in the order of the masks: the formula of gaussian Matrix-NMS as it is written."""
    order = scores.argsort(descending=True, stable=True).tolist()
    worst = dict.fromkeys(order, 0.0)
    lowered = scores.clone()
    for rank, mine in enumerate(order):
        left = 1.0
        for better in order[:rank]:
            if labels[better] != labels[mine]:
                continue
            both = int((masks[better] & masks[mine]).sum())
            iou = both / int((masks[better] | masks[mine]).sum())
            left = min(left, math.exp(-sigma * iou**2) / math.exp(-sigma * worst[better] ** 2))
            worst[mine] = max(worst[mine], iou)
        lowered[mine] *= left
    return lowered


def targets_by_objects(objects: Objects, solo: SoloSettings) -> list[tuple[int, int]]:
    """(cell, object) of all cells that answer for an object, one object after the other."""
    owners: dict[int, int] = {}
    side, before = objects.masks.shape[-1], 0
    for grid, (least, greatest) in zip(solo.grids, solo.scale_ranges, strict=True):
        for number, (mask, box) in enumerate(zip(objects.masks, objects.boxes, strict=True)):
            width, height = (box[2:] - box[:2]).tolist()
            if not least <= math.sqrt(width * height) <= greatest:
                continue
            rows, columns = mask.nonzero(as_tuple=True)
            y, x = float(rows.double().mean()), float(columns.double().mean())
            for row in _cells_around(y, solo.sigma / 2 * height, side, grid):
                for column in _cells_around(x, solo.sigma / 2 * width, side, grid):
                    owners[before + row * grid + column] = number
        before += grid**2
    return sorted(owners.items())


def _cells_around(centre: float, reach: float, side: int, grid: int) -> range:
    middle, first, last = (math.floor(place * grid / side) for place in (centre, centre - reach, centre + reach))
    return range(max(middle - 1, first, 0), min(middle + 1, last, grid - 1) + 1)


def memory(objects: int = 1000, side: int = 1024) -> float:
    """MiB by which finding and drawing the objects of one patch raises this process's peak; Linux."""
    maps = crowded_maps(objects, side)
    before = _peak()
    (found,) = find(maps, (side, side), SOLO, cell_score=0.1, max_objects=objects)
    assert len(found) == objects
    start = found.boxes[:, :2].long().clamp(max=side - 64)
    assert (draw(found, (side, side), start, 64) > 0).flatten(1).any(dim=1).all()
    return _peak() - before


def crowded_maps(objects: int, side: int) -> SoloMaps:
    """What a head would say of as many discs side by side.

    A disc is where r² - (x - cx)² - (y - cy)² > 0, a sum of four maps with weights of its own.
    """
    cells, across = side // STRIDE, math.isqrt(objects - 1) + 1
    px = torch.arange(cells) + 0.5
    x, y = px.expand(cells, cells), px[:, None].expand(cells, cells)
    feature = torch.stack([x.square() + y.square(), x, y, torch.ones(cells, cells)])[None]
    number = torch.arange(objects)
    pitch = cells / across
    cx, cy = (number % across + 0.5) * pitch, (number // across + 0.5) * pitch
    drawn = torch.stack([torch.full_like(cx, -1), 2 * cx, 2 * cy, (pitch / 2) ** 2 - cx.square() - cy.square()])
    kernels = [torch.zeros(1, len(drawn), grid, grid) for grid in SOLO.grids]
    categories = [torch.full((1, 2, grid, grid), -8.0) for grid in SOLO.grids]
    kernels[0].view(len(drawn), -1)[:, :objects] = drawn
    # rising from cell to cell, so that each is a peak among the neighbours that are looked at
    categories[0].view(2, -1)[0, :objects] = torch.linspace(1, 4, objects)
    return SoloMaps(kernels, categories, feature)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print all."""
    torch.set_num_threads(1)
    # first, as a peak that was reached before would hide it
    print(f"memory: 1000 objects on 1024 px raise the peak by {memory():.0f} MiB")
    for name, ratio in measure().items():
        print(f"{name}: {OBJECTS} objects at once are {ratio:.0f} times as fast as one after the other")


if __name__ == "__main__":
    main()
