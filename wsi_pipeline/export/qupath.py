"""The GeoJSON file QuPath opens, written as a stream.

Features go out one by one, so memory does not grow with the number of objects. Files are written beside and renamed,
and hold no time and no path: equal tables give equal bytes, compressed or not.
"""

from __future__ import annotations

import gzip
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import orjson
import pyarrow as pa

from wsi_pipeline.errors import OutputError
from wsi_pipeline.export.features import Encoded, FeatureEncoder
from wsi_pipeline.export.nesting import encode_nested
from wsi_pipeline.export.table import regrouped
from wsi_pipeline.files import beside
from wsi_pipeline.qupath.classes import Rgb
from wsi_pipeline.qupath.origin import origin_offset, resolve_origin
from wsi_pipeline.qupath.validate import heap_bytes, size_warning
from wsi_pipeline.slides.info import SlideInfo
from wsi_pipeline.workflow import ExportSettings

logger = logging.getLogger(__name__)

_ROWS = 4096
_GZIP_LEVEL = 6
_SUFFIX = re.compile(r"(\.geojson|\.json)?(\.gz)?$", re.IGNORECASE)


@dataclass(slots=True)
class GeoJSONReport:
    """What was written.

    Attributes:
        files: GeoJSON files in order, one unless the number of objects per file is limited.
        script: the Groovy script that imports all parts, where there are several.
        objects: features written.
        vertices: positions written.
        repaired: objects whose outline was not valid and was mended.
        dropped: objects left out because nothing of their outline is left on the 0.01 px grid.
        warnings: one line each.
    """

    files: list[Path] = field(default_factory=list)
    script: Path | None = None
    objects: int = 0
    vertices: int = 0
    repaired: int = 0
    dropped: int = 0
    warnings: list[str] = field(default_factory=list)

    @property
    def heap_bytes(self) -> int:
        """Java heap QuPath needs to import the largest file, about."""
        return heap_bytes(self.objects, self.vertices) // max(1, len(self.files))


def write_geojson(
    path: Path,
    batches: Iterable[pa.RecordBatch | pa.Table],
    info: SlideInfo,
    settings: ExportSettings,
    class_colors: Mapping[str, Rgb | None] | None = None,
    *,
    annotations: Iterable[pa.RecordBatch | pa.Table] = (),
    nested: bool = False,
) -> GeoJSONReport:
    """Write objects as GeoJSON for QuPath 0.4 and later.

    Args:
        path: the file; its suffix becomes ``.geojson`` or ``.geojson.gz`` as the settings say, and ``.part001`` and so
            on is put before it when there are more objects than ``max_objects_per_file``.
        batches: rows of ``OBJECT_SCHEMA``, shapes in level-0 px of the uncropped slide; read once.
        info: the slide, for the origin and the note in the file.
        settings: what is written.
        class_colors: (r, g, b) by class; QuPath's standard classes keep QuPath's colours.
        annotations: further rows that come first and always keep their outline, such as tissue and artefacts.
        nested: put objects beneath those that hold them; all of them are then held in memory.

    Raises:
        OutputError: a file cannot be written.
    """
    stem = path.with_name(_SUFFIX.sub("", path.name))
    encoder = FeatureEncoder(origin_offset(info, settings.qupath_origin), settings, class_colors or {})
    report = GeoJSONReport()
    parts = _Parts(stem, info, settings)
    try:
        for encoded in _encoded(encoder, annotations, batches, nested):
            parts.write(encoded.features)
            _add(report, encoded)
        report.files = parts.finish()
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        raise OutputError(what, where=path, fix="Check free space and permissions") from error
    finally:
        parts.discard()
    report.script = _write_script(stem, report.files)
    report.warnings = _warnings(report)
    return report


def _encoded(
    encoder: FeatureEncoder,
    annotations: Iterable[pa.RecordBatch | pa.Table],
    batches: Iterable[pa.RecordBatch | pa.Table],
    nested: bool,
) -> Iterator[Encoded]:
    for table in regrouped(annotations, _ROWS):
        yield encoder.encode(table, outlines=True)
    if nested:
        yield from map(partial(encode_nested, encoder), regrouped(batches, sys.maxsize))
    else:
        yield from map(encoder.encode, regrouped(batches, _ROWS))


def _add(report: GeoJSONReport, encoded: Encoded) -> None:
    report.objects += encoded.objects
    report.vertices += encoded.vertices
    report.repaired += encoded.repaired
    report.dropped += encoded.dropped


def _warnings(report: GeoJSONReport) -> list[str]:
    lines = []
    if report.repaired:
        lines.append(f"{report.repaired} outlines were not valid and were mended for QuPath")
    if report.dropped:
        lines.append(f"{report.dropped} objects were left out of the GeoJSON: their outlines enclose nothing")
    if not report.objects:
        lines.append("no objects were found, so QuPath will say that the file holds none")
    count = len(report.files)
    large = size_warning(report.objects // count, report.vertices // count)
    return [*lines, large] if large else lines


class _Parts:
    """The files of one export while they are written."""

    def __init__(self, stem: Path, info: SlideInfo, settings: ExportSettings) -> None:
        self.stem, self.info, self.settings = stem, info, settings
        self.suffix = ".geojson.gz" if settings.gzip else ".geojson"
        self.limit = settings.max_objects_per_file
        self.partial: list[Path] = []
        self.file: _FeatureFile | None = None

    def write(self, features: list[bytes]) -> None:
        start = 0
        while start < len(features):
            file = self.file or self.next_file()
            room = len(features) if self.limit is None else self.limit - file.count
            file.write(features[start : start + room])
            start += room
            if self.limit is not None and file.count == self.limit:
                self.close()

    def next_file(self) -> _FeatureFile:
        number = len(self.partial) + 1
        self.partial.append(self.stem.with_name(f".{self.stem.name}.{number:03}.{os.getpid()}.partial"))
        self.file = _FeatureFile(self.partial[-1], self.note(number), compressed=self.settings.gzip)
        return self.file

    def note(self, number: int) -> dict[str, Any]:
        """What the file says of itself; QuPath passes over it, our reader takes the origin from it."""
        note: dict[str, Any] = {
            "origin": resolve_origin(self.info, self.settings.qupath_origin),
            "bounds": [_trim(value) for value in _bounds(self.info)],
            "slide": self.info.name,
            "mpp": [self.info.resolution.x, self.info.resolution.y],
            "size": [self.info.width, self.info.height],
        }
        return note if self.limit is None else {**note, "part": number}

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def finish(self) -> list[Path]:
        """Give the files their names; an empty result is a file too. Files of an earlier export go."""
        if not self.partial:
            self.next_file()
        self.close()
        names = [self.stem.with_name(f"{self.stem.name}{self.suffix}")]
        if len(self.partial) > 1:
            count = range(1, len(self.partial) + 1)
            names = [self.stem.with_name(f"{self.stem.name}.part{n:03}{self.suffix}") for n in count]
        for unfinished, name in zip(self.partial, names, strict=True):
            unfinished.replace(name)
        for old in _earlier_files(self.stem):
            if old not in names:
                old.unlink()
        return names

    def discard(self) -> None:
        """Remove what was not finished."""
        if self.file is not None:
            self.file.abandon()
        for unfinished in self.partial:
            unfinished.unlink(missing_ok=True)


def _bounds(info: SlideInfo) -> tuple[float, float, float, float]:
    return info.bounds.x, info.bounds.y, info.bounds.width, info.bounds.height


def _trim(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def _earlier_files(stem: Path) -> list[Path]:
    part = re.compile(re.escape(stem.name) + r"(\.part\d+)?\.geojson(\.gz)?")
    return [file for file in sorted(stem.parent.iterdir()) if part.fullmatch(file.name)]


class _FeatureFile:
    """One FeatureCollection on its way to disk, a feature a line."""

    def __init__(self, path: Path, note: dict[str, Any], *, compressed: bool) -> None:
        self.raw: IO[bytes] = path.open("wb")
        self.out: Any = self.raw
        if compressed:  # no name and no time in the header
            self.out = gzip.GzipFile(filename="", mode="wb", compresslevel=_GZIP_LEVEL, fileobj=self.raw, mtime=0)
        self.count = 0
        self.out.write(b'{"type":"FeatureCollection","wsi_pipeline":%s,"features":[' % orjson.dumps(note))

    def write(self, features: list[bytes]) -> None:
        if features:
            self.out.write((b",\n" if self.count else b"\n") + b",\n".join(features))
            self.count += len(features)

    def close(self) -> None:
        self.out.write(b"\n]}\n")
        if self.out is not self.raw:
            self.out.close()
        self.raw.flush()
        os.fsync(self.raw.fileno())
        self.raw.close()

    def abandon(self) -> None:
        self.raw.close()


_SCRIPT = """\
// Imports every part of {stem} into the image that is open in QuPath, then nests objects under annotations.
// In QuPath: Automate > Script editor, open this file, Run, and choose the folder that holds the parts.
// On the command line: QuPath script --image=... --args=FOLDER --save {script}
import qupath.fx.dialogs.FileChoosers

def parts = [
{parts}
]
def given = binding.hasVariable("args") ? args : null
def folder = given ? new File(given[0]) : FileChoosers.promptForDirectory("Folder of {stem}", null)
if (folder == null)
    return
def missing = parts.findAll {{ !new File(folder, it).isFile() }}
if (missing) {{
    println "Nothing imported, missing in ${{folder}}: ${{missing.join(', ')}}"
    return
}}
parts.each {{
    importObjectsFromFile(new File(folder, it).getAbsolutePath())
    println "Imported ${{it}}"
}}
resolveHierarchy()
"""


def _write_script(stem: Path, files: list[Path]) -> Path | None:
    """Write the import script where there are several parts; remove that of an earlier export otherwise."""
    script = stem.with_name(f"{stem.name}.import.groovy")
    if len(files) == 1:
        script.unlink(missing_ok=True)
        return None
    listed = ",\n".join(f"    {_groovy(file.name)}" for file in files)
    text = _SCRIPT.format(stem=_plain(stem.name), script=_plain(script.name), parts=listed)
    with beside(script) as partial:
        partial.write_text(text, encoding="utf-8")
    return script


def _groovy(text: str) -> str:
    """A Groovy string in single quotes, in which nothing is replaced."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _plain(text: str) -> str:
    """A name that is safe in a comment and in a Groovy string."""
    return re.sub(r"[^\w .()+-]", "_", text)
