"""The curve as a small picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

SIZE = 480, 300
LEFT, TOP, RIGHT, BOTTOM = 50, 20, 460, 260
METRICS = {"dice": ("Dice", (40, 90, 180)), "pq": ("PQ", (190, 70, 40))}


def picture(scores: Mapping[str, Sequence[Mapping[str, float]]]) -> Image.Image:
    """A line through the means of each metric and a dot for each seed, by number of tiles (logarithmic)."""
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    counts = [int(count) for count in scores]

    def place(count: int, value: float) -> tuple[float, float]:
        share = math.log(count / counts[0]) / math.log(counts[-1] / counts[0])
        return LEFT + 20 + share * (RIGHT - LEFT - 40), BOTTOM - value * (BOTTOM - TOP)

    for tenths in range(0, 11, 2):
        y = place(counts[0], tenths / 10)[1]
        draw.line([(LEFT, y), (RIGHT, y)], fill=(220, 220, 220))
        draw.text((LEFT - 28, y - 6), f"{tenths / 10:.1f}", fill="black")
    for count in counts:
        draw.text((place(count, 0)[0] - 6, BOTTOM + 6), str(count), fill="black")
    draw.text(((LEFT + RIGHT) / 2 - 40, BOTTOM + 22), "training tiles", fill="black")
    for metric, (name, colour) in METRICS.items():
        means = [sum(row[metric] for row in rows) / len(rows) for rows in scores.values()]
        line = [place(count, mean) for count, mean in zip(counts, means, strict=True)]
        draw.line(line, fill=colour, width=2)
        for count, rows in zip(counts, scores.values(), strict=True):
            for row in rows:
                x, y = place(count, row[metric])
                draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=colour)
        draw.text((RIGHT - 34, line[-1][1] - 18), name, fill=colour)
    return image
