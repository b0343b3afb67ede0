"""Features of a GeoJSON file one at a time, whatever the size of the file.

A file of a million objects is close to a gigabyte of JSON; only the feature at hand is ever parsed.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from wsi_pipeline.errors import GeoJSONError

SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz", ".zip")
"""Endings of the file names QuPath imports GeoJSON from."""

_CHUNK = 1 << 20
_BLANK = re.compile(r"[ \t\r\n]*")
_COLLECTION = "FeatureCollection"
_ADVICE = "Export it from QuPath again or correct that line"


class RepeatedKeys(dict[str, Any]):
    """A JSON object in which ``key`` stands more than once; the last value counts."""

    key: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    repeated = RepeatedKeys(value)
    names = [name for name, _ in pairs]
    repeated.key = next(name for number, name in enumerate(names) if name in names[:number])
    return repeated


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a GeoJSON file.

    Attributes:
        value: the parsed JSON value: a feature, a geometry or whatever else stands there.
        index: its number in the file, from 0.
        line: line it starts in, from 1.
        collection: members of the FeatureCollection it is in, as far as they stand before ``features``.
        listed: whether it stands in the ``features`` of a FeatureCollection.
    """

    value: Any
    index: int
    line: int
    collection: dict[str, Any]
    listed: bool


def read_elements(path: Path) -> Iterator[Element]:
    """Every feature of a GeoJSON file in order: FeatureCollection, bare array (nested too), feature or geometry.

    Raises:
        GeoJSONError: a name QuPath does not import, no such file, not UTF-8, damaged compression, invalid JSON (with
            line and column), or JSON that is neither an object nor an array.
    """
    count = 0
    for stream, name in _open_texts(path):
        with _reading(name):
            for element in _Parser(stream, name).elements():
                yield Element(element.value, count, element.line, element.collection, element.listed)
                count += 1


def _open_texts(path: Path) -> Iterator[tuple[IO[bytes], str]]:
    if not path.is_file():
        raise GeoJSONError("no such file", where=path, fix="Check the path")
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise GeoJSONError(
            "QuPath does not import files of this name", where=path, fix=f"Name it {' or '.join(SUFFIXES[:3])}"
        )
    if name.endswith(".zip"):
        yield from _open_zip(path)
        return
    opener = gzip.open if name.endswith(".gz") else open
    with _reading(str(path)), opener(path, "rb") as stream:
        yield stream, str(path)  # type: ignore[misc]


def _open_zip(path: Path) -> Iterator[tuple[IO[bytes], str]]:
    with _reading(str(path)), zipfile.ZipFile(path) as archive:
        names = [entry for entry in archive.namelist() if entry.lower().endswith((".geojson", ".json"))]
        if not names:
            raise GeoJSONError("holds no .geojson file", where=path, fix="Export from QuPath as GeoJSON")
        for entry in names:
            with archive.open(entry) as stream:
                yield stream, f"{path}!{entry}"


@contextmanager
def _reading(where: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise GeoJSONError(f"is not UTF-8 text ({error.reason})", where=where, fix="Save it as UTF-8") from None
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise GeoJSONError(f"cannot be read ({error})", where=where, fix="Export or copy it again") from None


class _Parser:
    """A JSON text of which only the part at hand is in memory."""

    def __init__(self, stream: IO[bytes], where: str) -> None:
        self.stream, self.where = stream, where
        self.decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.scan = json.JSONDecoder(object_pairs_hook=_object).raw_decode
        self.text, self.at, self.ended = "", 0, False
        # How far lines were counted, the line there, and where that line starts (negative: before what is in memory).
        self.counted, self.line, self.line_start = 0, 1, 0
        self.chunk = _CHUNK

    def elements(self) -> Iterator[Element]:
        first = self.peek()
        if first == "[":
            yield from self.array({}, listed=False)
        elif first == "{":
            yield from self.top_object()
        elif first:
            raise self.problem("the text is neither an object nor an array")
        else:
            raise self.problem("the file is empty")
        if self.peek():
            raise self.problem("something follows the end of the JSON text")

    def array(self, members: dict[str, Any], *, listed: bool) -> Iterator[Element]:
        """Elements of the array at hand; those of arrays and collections inside it too."""
        self.expect("[")
        if self.peek() == "]":
            self.expect("]")
            return
        while True:
            if self.peek() == "[" and not listed:
                yield from self.array({}, listed=False)
            else:
                line = self.current_line()
                yield from _unfold(self.value(), line, members, listed)
            if self.peek() != ",":
                break
            self.expect(",")
        self.expect("]")

    def top_object(self) -> Iterator[Element]:
        """A FeatureCollection, whose features are streamed, or one feature or geometry."""
        line = self.current_line()
        members: dict[str, Any] = {}
        streamed = False
        self.expect("{")
        while self.peek() != "}":
            key = self.value()
            if not isinstance(key, str):
                raise self.problem("a member name in double quotes is expected")
            self.expect(":")
            # A type that stands behind the features is not known yet; what has features and no type is a collection.
            if key == "features" and self.peek() == "[" and members.get("type", _COLLECTION) == _COLLECTION:
                yield from self.array(dict(members), listed=True)
                streamed = True
            else:
                members[key] = self.value()
            if self.peek() != ",":
                break
            self.expect(",")
            if self.peek() == "}":
                raise self.problem("a member name is expected after the comma")
        self.expect("}")
        if not streamed:
            yield from _unfold(members, line, {}, listed=False)
        elif members.get("type") != _COLLECTION:
            raise GeoJSONError(
                "has features but is not of type FeatureCollection, so QuPath skips it",
                where=self.where,
                fix='Add "type": "FeatureCollection"',
            )

    def peek(self) -> str:
        """The next character that is not blank, or "" at the end."""
        while True:
            self.at = _BLANK.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def expect(self, character: str) -> None:
        found = self.peek()
        if found != character:
            raise self.problem(f"{character!r} is expected" + (f", not {found!r}" if found else " before the end"))
        self.at += 1

    def value(self) -> Any:
        """Parse the value at hand, reading on until it is whole."""
        self.peek()
        while True:
            try:
                value, end = self.scan(self.text, self.at)
            except json.JSONDecodeError as error:
                message, place = error.msg.lower(), error.pos
            except RecursionError:
                raise self.problem("the text is nested too deeply") from None
            else:
                if end < len(self.text) or self.ended:
                    self.at = end
                    return value
                message, place = "", end
            # Cut off by the end of what was read so far, or really wrong?
            cut = not message or place > len(self.text) - 32 or message.startswith("unterminated string")
            if not (cut and self.more()):
                raise self.problem(message, place)

    def more(self) -> bool:
        """Read on; forget what was parsed. Doubles what it reads, so that a huge value is not parsed too often."""
        if self.ended:
            return False
        self.count_lines(self.at)
        self.line_start -= self.at
        rest = self.text[self.at :]
        self.chunk = max(_CHUNK, len(rest))
        data = self.stream.read(self.chunk)
        self.ended = not data
        self.text, self.at = rest + self.decode(data, final=self.ended), 0
        self.counted = 0
        return True

    def count_lines(self, place: int) -> None:
        """Move the line counter on to ``place``; called with growing places only."""
        newlines = self.text.count("\n", self.counted, place)
        if newlines:
            self.line += newlines
            self.line_start = self.text.rfind("\n", self.counted, place) + 1
        self.counted = place

    def current_line(self) -> int:
        """Line of the next value."""
        self.peek()
        self.count_lines(self.at)
        return self.line

    def problem(self, what: str, place: int | None = None) -> GeoJSONError:
        place = self.at if place is None else min(place, len(self.text))
        self.count_lines(place)
        column = place - self.line_start + 1
        return GeoJSONError(f"invalid JSON in line {self.line}, column {column}: {what}", where=self.where, fix=_ADVICE)


def _unfold(value: Any, line: int, members: dict[str, Any], listed: bool) -> Iterator[Element]:
    """The features of a value that may itself be a collection or an array of them."""
    if isinstance(value, list) and not listed:
        for item in value:
            yield from _unfold(item, line, {}, listed=False)
    elif isinstance(value, dict) and value.get("type") == _COLLECTION and isinstance(value.get("features"), list):
        inner = {key: member for key, member in value.items() if key != "features"}
        for item in value["features"]:
            yield Element(item, 0, line, inner, listed=True)
    else:
        yield Element(value, 0, line, members, listed)
