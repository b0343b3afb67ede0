"""Copies of remote slides on a local disk: whole or not there, and gone when they are released."""

from __future__ import annotations

import errno
import functools
import hashlib
import logging
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from wsi_pipeline.files import writing
from wsi_pipeline.slides.remote import Part, explained, is_final, open_store, parts_of
from wsi_pipeline.slides.urls import is_remote, shown

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = ["RemoteFile", "describe_remote", "is_remote", "release", "stage"]

_PAUSES_S = (0.5, 2.0, 8.0)
"""Between one attempt and the next; there is one attempt more."""

_FILES_AT_ONCE = 32
"""Fetched together, and together again when one of them fails: a file may have its size before it has its bytes."""

_OUR_OWN_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG)
"""Errors of a copy that are not the store's."""

Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A slide somewhere else, as it is now.

    Attributes:
        url: its address, without secrets.
        size: bytes of all its files; None where the server does not say.
        version: 16 hex digits; when they change, old results no longer count.
    """

    url: str
    size: int | None
    version: str


def describe_remote(url: str) -> RemoteFile:
    """Ask what lies at a URL, without fetching it.

    Raises:
        SlideError: there is no such file, access is not allowed, or the server does not answer.
    """
    with explained(url):
        _, _, parts = _look(url)
    return _describe(url, parts)


def stage(url: str, cache: Path) -> Path:
    """Copy a slide with all its files to ``cache``, unless this version of it is there.

    Several processes may stage one slide; each copies, and the first one's copy stays.

    Args:
        url: the slide.
        cache: folder of one run; made when missing.

    Returns:
        The file or folder to open; its name is that of the slide.

    Raises:
        SlideError: as in ``describe_remote``, or the copy broke off again and again.
        StorageError, OutputError: the copy cannot be written.
    """
    with explained(url):
        store, name, parts = _look(url)
    remote = _describe(url, parts)
    folder = _home(url, cache) / remote.version
    if not _is_whole(folder, parts):
        partial = folder.with_name(f".{secrets.token_hex(4)}.partial")
        try:
            _make_room(partial, parts, remote)
            with explained(url):
                _copy(store, parts, partial, url)
            _put(partial, folder, parts)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder / name


def release(url: str, cache: Path) -> None:
    """Remove what ``stage`` brought, every version of it."""
    shutil.rmtree(_home(url, cache), ignore_errors=True)


def _look(url: str) -> tuple[AbstractFileSystem, str, list[Part]]:
    store, path = open_store(url)
    return store, *_insist(lambda: parts_of(store, path), url)


def _describe(url: str, parts: Sequence[Part]) -> RemoteFile:
    sizes = [part.size for part in parts if part.size is not None]
    digest = hashlib.sha256("".join(part.version for part in parts).encode())
    return RemoteFile(shown(url), sum(sizes) if len(sizes) == len(parts) else None, digest.hexdigest()[:16])


def _home(url: str, cache: Path) -> Path:
    """Where all copies of a slide are: a hash, which no address can make leave the cache."""
    return cache / hashlib.sha256(shown(url).encode()).hexdigest()[:16]


def _is_whole(folder: Path, parts: Iterable[Part]) -> bool:
    return all(_is_there(folder, part) for part in parts)


def _is_there(folder: Path, part: Part) -> bool:
    try:
        size = (folder / part.name).stat().st_size
    except OSError:
        return False
    return part.size in (None, size)


def _make_room(partial: Path, parts: Sequence[Part], remote: RemoteFile) -> None:
    with writing(partial):
        for folder in {(partial / part.name).parent for part in parts}:
            folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(partial).free
        if remote.size is not None and remote.size > free:
            raise OSError(errno.ENOSPC, f"{remote.url} takes {remote.size:,} bytes, {free:,} are free")


def _copy(store: AbstractFileSystem, parts: Sequence[Part], target: Path, url: str) -> None:
    for start in range(0, len(parts), _FILES_AT_ONCE):
        _insist(functools.partial(_get, store, parts[start : start + _FILES_AT_ONCE], target), url)


def _get(store: AbstractFileSystem, parts: Sequence[Part], target: Path) -> None:
    try:
        store.get([part.path for part in parts], [str(target / part.name) for part in parts])
    except OSError as error:
        if error.errno in _OUR_OWN_DISK:
            with writing(target):
                raise
        raise
    short = next((part for part in parts if not _is_there(target, part)), None)
    if short is not None:
        raise ConnectionError(f"{short.name} came without its end")


def _put(partial: Path, folder: Path, parts: Sequence[Part]) -> None:
    with writing(folder):
        try:
            partial.rename(folder)
        except OSError:
            if _is_whole(folder, parts):  # another process was faster
                return
            shutil.rmtree(folder)
            partial.rename(folder)


def _insist(ask: Callable[[], Answer], url: str) -> Answer:
    """Ask until there is an answer, a refusal, or no hope."""
    for pause in _PAUSES_S:
        try:
            return ask()
        except Exception as error:
            if is_final(error):
                raise
            logger.warning("%s: %s, trying again", shown(url), type(error).__name__)
            time.sleep(pause)
    return ask()
