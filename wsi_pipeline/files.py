"""Digests of files, and writing them so that one which exists is whole."""

from __future__ import annotations

import errno
import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsi_pipeline.errors import OutputError, StorageError

_PASSING = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EIO", "ESTALE", "ETIMEDOUT", "EREMOTEIO", "EAGAIN", "ENOTCONN", "EHOSTDOWN")
    if hasattr(errno, name)
)


def hash_file(path: Path) -> str:
    """SHA-256 of a file, lower-case hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_passing(error: BaseException) -> bool:
    """Whether storage may be all right again later: it is full, or a network file system does not answer."""
    return isinstance(error, OSError) and error.errno in _PASSING


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong with writing ``path`` into an error of ours.

    Raises:
        StorageError: there is no space, or the storage does not answer.
        OutputError: the file cannot be written for another reason (no permission, no such folder).
    """
    try:
        yield
    except OSError as error:
        kind = StorageError if is_passing(error) else OutputError
        raise kind(
            f"cannot be written ({error.strerror or error})", where=path, fix="Check free space and permissions"
        ) from error


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A partial file beside ``path`` that takes its name when the block ends well and vanishes when not.

    Raises:
        StorageError, OutputError: see ``writing``.
    """
    # a random name: on a shared disk two machines may write the same file, with the same process id
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with writing(path):
            yield partial
            partial.replace(path)
    finally:
        with suppress(OSError):  # it may be the folder that is no good
            partial.unlink(missing_ok=True)
