"""Fetching one file over HTTP: resumes where it stopped, checks SHA-256, appears whole or not at all."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from wsi_pipeline.errors import WeightsError
from wsi_pipeline.files import hash_file

logger = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there so far and the total (None when the server does not say)."""

OFFLINE_VARIABLE = "WSI_PIPELINE_OFFLINE"
_BLOCK = 1 << 16
"""What an interruption can lose: the HTTP client drops a block that is not complete."""
_TIMEOUT = (15, 60)
_ATTEMPTS = 3
"""Failures in a row without a byte in between."""
_BACKOFF_S = 0.5


def offline() -> bool:
    """Whether the user forbids the network (``WSI_PIPELINE_OFFLINE=1``)."""
    return os.environ.get(OFFLINE_VARIABLE, "").strip().lower() in {"1", "true", "yes", "on"}


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fetch ``url`` to ``target``.

    The bytes go to ``target`` + ``.part`` and are renamed when complete and checked, so ``target`` is never half a
    file; an interrupted download continues from its ``.part``. Proxies and certificates are those of the
    environment (``HTTPS_PROXY``, ``REQUESTS_CA_BUNDLE``).

    Args:
        url: http or https address.
        target: the file to make; its folder is created.
        sha256: expected digest, hex; None skips the check.
        size: expected bytes, for the free-space check where the server does not say.
        progress: called after every block.

    Raises:
        WeightsError: offline, no such file, no space, connection lost, wrong digest.
    """
    if offline():
        raise WeightsError(
            f"is not downloaded and {OFFLINE_VARIABLE} is set",
            where=target.name,
            fix=f"Unset {OFFLINE_VARIABLE}, or copy the file from {url} to {target}",
        )
    part = target.with_name(target.name + ".part")
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as stream, _exclusive(stream, target):
            _fetch(url, stream, target, size, progress)
        _check(part, target, sha256, url)
        part.replace(target)
    logger.info("downloaded %s", target)
    return target


def _fetch(url: str, stream: BinaryIO, target: Path, size: int | None, progress: Progress | None) -> None:
    import requests

    attempt = 0
    while True:
        before = stream.seek(0, os.SEEK_END)
        try:
            _transfer(url, stream, target, size, progress)
            return
        except requests.exceptions.HTTPError as error:
            attempt += 1
            code = error.response.status_code
            if code < 500 or attempt == _ATTEMPTS:
                fix = "Update wsi-pipeline, or give the file's path" if code == 404 else "Try again later"
                raise WeightsError(f"the server answered {code} for {url}", where=target.name, fix=fix) from None
        except requests.exceptions.RequestException as error:
            done = stream.seek(0, os.SEEK_END)
            attempt = 1 if done > before else attempt + 1  # as long as bytes come, going on is worth it
            if attempt == _ATTEMPTS:
                raise WeightsError(
                    f"the download from {url} stopped after {done:,} bytes ({type(error).__name__})",
                    where=target.name,
                    fix="Check the connection and HTTPS_PROXY, then run the command again; it continues there",
                ) from None
        logger.warning("%s: the connection failed, trying again", target.name)
        time.sleep(_BACKOFF_S * attempt)


def _transfer(url: str, stream: BinaryIO, target: Path, size: int | None, progress: Progress | None) -> None:
    """One request; appends to what ``stream`` already holds."""
    import requests

    done = stream.seek(0, os.SEEK_END)
    # identity: a compressed body would not fit the byte ranges nor the digest
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == 416:  # the part is as long as the file, or the file changed
            if done == _full_length(response.headers.get("Content-Range")):
                return
            stream.truncate(0)
            raise requests.exceptions.ConnectionError("stale partial file")
        response.raise_for_status()
        if response.status_code != 206 and done:  # the server starts over
            stream.truncate(0)
            done = 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else size
        _require_space(target, (total or 0) - done)
        for block in response.iter_content(_BLOCK):
            stream.write(block)
            done += len(block)
            if progress is not None:
                progress(done, total)
    if total is not None and done < total:
        raise requests.exceptions.ConnectionError(f"{done} of {total} bytes")


def _full_length(content_range: str | None) -> int | None:
    """N of ``bytes */N``."""
    length = (content_range or "").rpartition("/")[2]
    return int(length) if length.isdigit() else None


def _check(part: Path, target: Path, sha256: str | None, url: str) -> None:
    if sha256 is None:
        return
    found = hash_file(part)
    if found != sha256.lower():
        part.unlink()
        raise WeightsError(
            f"the file from {url} has SHA-256 {found[:12]}…, expected {sha256[:12]}…",
            where=target.name,
            fix="Run the command again; if it repeats, a proxy changes the file or the file was replaced",
        )


def _require_space(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, {free:,} are free")


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Turn what the disk refuses into one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what, fix = f"no space left on the device ({error.strerror})", "Free some space"
        else:
            what, fix = f"cannot be written ({error.strerror or error})", "Check the folder's permissions"
        fix += " or set WSI_PIPELINE_WEIGHTS to another folder"
        raise WeightsError(what, where=target, fix=fix) from None


@contextmanager
def _exclusive(stream: BinaryIO, target: Path) -> Iterator[None]:
    """Keep a second process from appending to the same partial file (where the system has advisory locks)."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise WeightsError(
            "is being downloaded by another process", where=target.name, fix="Wait for it to finish"
        ) from None
    yield
