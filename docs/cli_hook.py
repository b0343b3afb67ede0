"""Generates the command-line reference from the commands themselves, so that it cannot go stale."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import Enum
from typing import Any

import typer

from wsi_pipeline.cli.app import app

MARKER = "<!-- cli-reference -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace(MARKER, cli_reference()) if MARKER in markdown else markdown


def cli_reference() -> str:
    """One section per command: what it does, how it is called, its arguments and options."""
    return "\n\n".join(_section(name, command) for name, command in commands())


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its full name, in the order of ``--help``."""
    yield from _leaves("wsi-pipeline", typer.main.get_command(app))


def _leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", None)
    if not below:
        yield name, command
        return
    for word, child in below.items():
        yield from _leaves(f"{name} {word}", child)


def _section(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    parts = [f"## {name}", _text(inspect.cleandoc(command.help or ""))]
    parts.append(f"```text\n{name} {' '.join([*(['[OPTIONS]'] if options else []), *map(_usage, arguments)])}\n```")
    rows = [_row(f"`{_usage(p)}`", p) for p in arguments] + [
        _row(", ".join(f"`{opt}`" for opt in p.opts), p) for p in options
    ]
    if rows:
        parts.append("\n".join(["| argument or option | meaning | default |", "| --- | --- | --- |", *rows]))
    return "\n\n".join(parts)


def _usage(argument: Any) -> str:
    name = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _row(name: str, parameter: Any) -> str:
    default = parameter.default
    words = _text(getattr(parameter, "help", None) or "")
    if isinstance(default, Enum):
        words += f" One of {', '.join(f'`{choice.value}`' for choice in type(default))}."
        default = default.value
    shown = "" if default in (None, False, (), []) else f"`{default}`"
    return f"| {name} | {words} | {shown} |"


def _text(text: str) -> str:
    """Help text as Markdown: what stands in angle brackets is no HTML, and a table cell has no bars."""
    return text.replace("<", "&lt;").replace("|", "\\|")
