"""Bytes of files: reading at any offset from any thread, and what identifies a slide's files."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

HEAD_AND_TAIL = 64 * 1024
"""Bytes at both ends of a file that enter the fingerprint."""

MAX_LISTED = 4096
"""Files of a folder that enter the fingerprint by name and size."""

_METADATA_NAMES = ("zarr.json", ".zattrs", ".zgroup", ".zarray", "Slidedat.ini")


class RandomAccessFile:
    """A file read at offsets, by any number of threads at once.

    It is closed when the last reference goes, so that a read under way in another thread never sees a closed
    or, worse, a reused descriptor.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def read(self, offset: int, count: int) -> bytes:
        """Up to ``count`` bytes; fewer where the file ends."""
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, count, offset)
        with self._lock:
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.read(self._descriptor, count)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def fingerprint(path: Path, level_sizes: tuple[tuple[int, int], ...], identity: str) -> str:
    """16 hex digits that change when the pixels do; a copy of the slide has the same.

    A file counts by its size, head and tail; a folder (also the companion folder of an MRXS file) by its
    listing and its metadata files.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256(repr((level_sizes, identity)).encode())
    if path.is_file():
        _add_file(digest, path)
    for folder in (path, path.with_suffix("")):
        if folder.is_dir() and (folder == path or path.suffix.lower() == ".mrxs"):
            _add_folder(digest, folder)
    return digest.hexdigest()[:16]


def _add_file(digest: hashlib._Hash, path: Path) -> None:
    size = path.stat().st_size
    digest.update(f"{size};".encode())
    with path.open("rb") as file:
        digest.update(file.read(HEAD_AND_TAIL))
        file.seek(max(0, size - HEAD_AND_TAIL))
        digest.update(file.read(HEAD_AND_TAIL))


def _add_folder(digest: hashlib._Hash, folder: Path) -> None:
    for path in islice(_walk(folder), MAX_LISTED):
        digest.update(f"{path.relative_to(folder).as_posix()};{path.stat().st_size};".encode())
        if path.name in _METADATA_NAMES:
            digest.update(path.read_bytes())


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder, in an order that does not depend on the file system; files before folders."""
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: (entry.is_dir(), entry.name))
    for entry in listed:
        if entry.is_dir():
            yield from _walk(Path(entry.path))
        else:
            yield Path(entry.path)
