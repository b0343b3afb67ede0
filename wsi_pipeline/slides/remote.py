"""What lies at a URL: one slide with all its files, or the slides of a folder or pattern."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from wsi_pipeline.errors import SlideError, StorageError, WsiPipelineError
from wsi_pipeline.slides.find import INDEX_SUFFIXES, is_slide_file_name, named_in
from wsi_pipeline.slides.urls import is_web, safe_name, shown

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

Facts = dict[str, Any]
"""What fsspec says of one file: ``name``, ``type``, ``size`` and whatever its store tells besides."""

_CHANGES_WITH_CONTENT = (
    "ETag", "etag", "md5Hash", "md5", "content_md5", "Content-MD5", "Digest",
    "Last-Modified", "LastModified", "last_modified", "updated", "mtime", "modified", "created",
)  # fmt: skip
"""Facts that tell one version of a file from the next, the surest first."""

_CONNECT_S, _SILENCE_S = 15, 60
"""How long a server may take to answer, and then to say nothing; a slide may take as long as it takes."""

_S3 = ("s3://", "s3a://")

_FINAL = (FileNotFoundError, PermissionError, ImportError, ValueError, WsiPipelineError)

_CREDENTIALS = "Check your credentials and what they allow, in the environment or in the files of the store's client"


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a slide.

    Attributes:
        path: what its file system calls it.
        name: where it lies beside the slide's other files, with ``/``.
        size: bytes; None where the server does not say.
        version: changes when the content does.
    """

    path: str
    name: str
    size: int | None
    version: str


def open_store(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system that a URL is in, and what it calls the file."""
    import fsspec

    options: dict[str, Any] = {"use_listings_cache": False}  # a run lasts for days, and what is listed changes
    if is_web(url):
        options["client_kwargs"] = _web_options()
    if url.startswith(_S3):
        options["max_concurrency"] = 1  # of one file: its blocks would be held in memory, half a gigabyte of them
    store, path = fsspec.url_to_fs(url, **options)
    return store, path


def parts_of(store: AbstractFileSystem, path: str) -> tuple[str, list[Part]]:
    """The name of a slide's file or folder, and every file it is made of.

    Raises:
        ValueError: it has none, or one whose name cannot be that of a file here.
    """
    facts = store.info(path)
    is_folder = facts["type"] == "directory" or path.endswith("/") or _suffix(path) == ".zarr"
    path = path.rstrip("/")
    if is_folder:
        files = list(store.find(path, detail=True).values())
    else:
        files = [facts | {"name": path}, *(one for one in _companions(store, path) if one["name"] != path)]
    # lists of web servers are names alone
    told = [one if one.get("size") is not None or one["name"] == path else store.info(one["name"]) for one in files]
    parts = [_part(one, path) for one in sorted(told, key=lambda one: str(one["name"]))]
    if not parts:
        raise ValueError("the folder is empty")
    return _local_name(path, path), parts


def find_remote(url: str) -> list[str]:
    """Expand a pattern, or a URL that ends in ``/``, to the slides in it; any other URL is taken as it is.

    A folder of DICOM files alone is one slide, and so is one named ``.zarr``.

    Returns:
        Sorted URLs.

    Raises:
        SlideError: it cannot be listed, or holds no slide.
    """
    magic = "*" if is_web(url) else "*?["
    pattern = any(sign in url for sign in magic)
    if not pattern and not url.endswith("/"):
        return [url]
    with explained(url):
        store, path = open_store(url)
        entries = list(store.glob(path, detail=True).values()) if pattern else store.ls(path, detail=True)
        slides = _slides_among(store, entries)
    if not pattern and not slides and any(_suffix(one["name"]) == ".dcm" for one in entries):
        return [url]
    if not slides:
        raise SlideError("holds no slide", where=shown(url), fix="Check the address, or look deeper with /**/*.svs")
    return sorted(store.unstrip_protocol(name) for name in slides)


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn whatever a store's client raises into one line about the URL.

    Raises:
        StorageError: it cannot be reached for now.
        SlideError: there is no such thing, or it is not for us.
    """
    try:
        yield
    except WsiPipelineError:
        raise
    except Exception as error:  # every client has a family of its own
        what, fix = _explanation(error)
        kind = SlideError if is_final(error) else StorageError
        raise kind(what, where=shown(url), fix=fix) from None


def is_final(error: BaseException) -> bool:
    """Whether asking again would get the same answer: nothing there, not allowed, not understood."""
    status = _status(error)
    if status is not None:
        return 400 <= status < 500 and status not in (408, 425, 429)
    return isinstance(_causes(error)[-1], _FINAL) or _is(error, "NoCredentialsError", "ParamValidationError")


def _web_options() -> dict[str, Any]:
    import aiohttp
    from fsspec.config import conf

    # the client's own limit is five minutes for the whole file
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
    given = conf.get("https", {}) | conf.get("http", {})
    return {"timeout": timeout} | given.get("client_kwargs", {})


def _part(facts: Facts, slide: str) -> Part:
    path, size = str(facts["name"]), facts.get("size")
    name = _local_name(path, slide)
    content = next((str(facts[key]) for key in _CHANGES_WITH_CONTENT if facts.get(key)), "")
    digest = hashlib.sha256(f"{name};{size};{content}".encode())
    return Part(path, name, size, digest.hexdigest())


def _local_name(path: str, slide: str) -> str:
    """Where a file lies beside the slide; a store may call it anything, but none gets out of there."""
    folder, web = shown(slide).rpartition("/")[0], is_web(path)
    if not shown(path).startswith(f"{folder}/"):
        raise ValueError(f"a file of it is elsewhere, at {path}")
    names = [safe_name(part, web=web) for part in shown(path)[len(folder) + 1 :].split("/")]
    if not all(names):
        raise ValueError(f"a file of it cannot be called {path} here")
    return "/".join(names)


def _companions(store: AbstractFileSystem, path: str) -> Iterable[Facts]:
    """The other files that a slide of this name is made of."""
    bare = path.partition("?")[0] if is_web(path) else path
    folder, suffix = bare.rpartition("/")[0], _suffix(path)
    if suffix == ".mrxs":
        return store.find(bare[: -len(suffix)], detail=True).values()
    if suffix == ".dcm":
        return [one for one in _listed(store, folder) if _suffix(one["name"]) == ".dcm"]
    if suffix in INDEX_SUFFIXES:
        named = named_in(store.cat_file(path).decode("latin-1"))
        return [one for one in _listed(store, folder) if str(one["name"]).rpartition("/")[2] in named]
    return []


def _listed(store: AbstractFileSystem, folder: str) -> list[Facts]:
    """The files of a folder; none where a store gives files and no lists of them."""
    try:
        return [one for one in store.ls(folder, detail=True) if one["type"] == "file"]
    except Exception as error:
        if is_final(error):
            return []
        raise


def _slides_among(store: AbstractFileSystem, entries: Iterable[Facts]) -> set[str]:
    slides, dicom, companions = set(), set(), set()
    for one in entries:
        name = str(one["name"]).rstrip("/")
        folder, _, last = name.rpartition("/")
        if last.startswith(".") or ".zarr/" in name.lower():
            continue
        suffix = _suffix(name)
        if one["type"] == "directory":
            slides |= {name} if suffix == ".zarr" else set()
        elif suffix == ".dcm":
            dicom.add(folder)
        elif is_slide_file_name(last):
            slides.add(name)
        if suffix in INDEX_SUFFIXES:
            companions |= {f"{folder}/{other}" for other in named_in(store.cat_file(name).decode("latin-1"))}
    return slides - companions


def _suffix(name: object) -> str:
    return PurePosixPath(shown(str(name))).suffix.lower()


def _explanation(error: Exception) -> tuple[str, str]:
    """What is wrong, and what to do."""
    first, status = _causes(error)[-1], _status(error)
    if isinstance(first, ImportError):
        return "needs a package that is not installed", shown(str(error)).rstrip(".")
    if _is(error, "NoCredentialsError"):
        return "no credentials were found", _CREDENTIALS
    if status in (401, 403) or isinstance(first, PermissionError):
        return "access is not allowed", _CREDENTIALS
    if status in (404, 410) or (status is None and isinstance(first, FileNotFoundError)):
        no_bucket = "bucket" in str(error).lower() and "exist" in str(error).lower()
        return ("no such bucket" if no_bucket else "no such file"), "Check the address"
    if status is not None:
        return f"the server answered {status}", "Run again later, or ask who runs the server"
    said = textwrap.shorten(shown(str(first)), 120) or type(first).__name__
    if isinstance(first, ValueError) or _is(error, "ParamValidationError"):
        return f"cannot be read ({said})", "Check the address"
    return f"cannot be reached ({said})", "Check the address and the network, then run again"


def _causes(error: BaseException) -> list[BaseException]:
    """An error and what it was raised from; clients hide the reason behind one of a more usual kind."""
    found = [error]
    while found[-1].__cause__ is not None:
        found.append(found[-1].__cause__)
    return found


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error, if a server gave one."""
    for one in _causes(error):
        status = getattr(one, "status", None)
        if isinstance(status, int):
            return status
        answer = getattr(one, "response", None)
        if isinstance(answer, dict):
            return answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return None


def _is(error: BaseException, *names: str) -> bool:
    """Whether it is of a class of some client, which is not imported to find out."""
    return any(type(one).__name__ in names for one in _causes(error))
