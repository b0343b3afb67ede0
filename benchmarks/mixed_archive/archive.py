"""An archive on disk, and what has to become of every slide in it."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from PIL import Image

from benchmarks.mixed_archive.broken import BROKEN
from benchmarks.mixed_archive.whole import EMPTY, KINDS, MPP, SILENT, pixels


@dataclass(frozen=True, slots=True)
class Archive:
    """What was built.

    Attributes:
        given: what to give to ``run``: folders, files and a manifest.
        whole: path of every slide that can be done → the state it has to end with.
        broken: path of every slide that cannot → a regular expression of the reason.
    """

    given: list[Path]
    whole: dict[str, str]
    broken: dict[str, str]


def build(folder: Path, count: int) -> Archive:
    """Write ``count`` slides that can be done, the last two a namesake and a link, and all that are broken.

    Args:
        folder: absolute path; made when missing.
        count: at least one of every kind and two more.
    """
    kept, other, damaged = (folder / name for name in ("kept", "other", "damaged"))
    for made in (kept, other, damaged):
        made.mkdir(parents=True)
    whole = [_write(kept, kind, number, number) for number, kind in zip(range(count - 2), cycle(KINDS), strict=False)]
    whole.append(_write(other, "plain", 0, count))  # of the name of the first one, and other pixels
    link = kept / "link.tif"
    link.symlink_to(whole[0])
    whole.append(link)
    for one in BROKEN:
        one.write(damaged / one.name)
    lines: list[tuple[object, ...]] = [(slide, MPP, "") for slide in whole if slide.name.startswith(SILENT)]
    lines += [(damaged / one.name, "", _write_mask(folder, one.name, one.mask)) for one in BROKEN if one.mask]
    manifest = folder / "slides.csv"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "mpp", "tissue"), *lines])
    return Archive(
        given=[kept, other, damaged, manifest],
        whole={str(path): "empty" if path.name.startswith(EMPTY) else "done" for path in whole},
        broken={str(damaged / one.name): one.reason for one in BROKEN},
    )


def _write(folder: Path, kind: str, number: int, piece: int) -> Path:
    suffix, write = KINDS[kind]
    path = folder / f"{kind}-{number:03d}{suffix}"
    write(path, pixels(piece))
    return path


def _write_mask(folder: Path, name: str, size: tuple[int, int]) -> Path:
    path = folder / f"{name}.png"
    Image.new("L", size, 255).save(path)
    return path
