"""Addresses of slides that are elsewhere: told from paths, shown without secrets, and named."""

from __future__ import annotations

import re
from urllib.parse import unquote

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_WEB = re.compile(r"https?://", re.IGNORECASE)
_QUERY = re.compile(r"(https?://[^\s?#]*)[?#]\S*", re.IGNORECASE)
_WEB_USER = re.compile(r"(https?://)[^\s/?#]*@", re.IGNORECASE)
_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\]")
# az://container@account is an address; only what has a colon is a password
_USER_AND_PASSWORD = re.compile(r"(://)[^\s/?#]*:[^\s/?#]*@")


def is_remote(source: str) -> bool:
    """Whether this is a URL (``s3://…``, ``https://…``) and no path."""
    return _SCHEME.match(source) is not None


def is_web(url: str) -> bool:
    """Whether this is an HTTP address, in which ``?`` begins a query instead of matching a character."""
    return _WEB.match(url) is not None


def shown(text: str) -> str:
    """A URL, or a text with URLs, without user names, passwords and HTTP queries, which may be signatures.

    What is shown is what is written, too: a URL signed anew is the same slide.
    """
    return _USER_AND_PASSWORD.sub(r"\1", _WEB_USER.sub(r"\1", _QUERY.sub(r"\1", text)))


def file_name(url: str) -> str:
    """The last part of a URL's path as a file or folder can be called; empty where it has none."""
    path = shown(url).partition("://")[2].rstrip("/")
    return safe_name(path.rpartition("/")[2], web=is_web(url)) if "/" in path else ""


def safe_name(part: str, *, web: bool) -> str:
    """One part of a path in a store, as a file or folder here can be called; empty for ``..`` and its like."""
    name = unquote(part) if web else part
    return _UNSAFE.sub("_", name) if name.strip(".") else ""
