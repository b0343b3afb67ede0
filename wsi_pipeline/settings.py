"""Settings in YAML files, checked by pydantic: read, changed by dotted keys, and described when they are wrong."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from wsi_pipeline.errors import WsiPipelineError

Error = type[WsiPipelineError]


class Section(BaseModel):
    """A part of a settings file; unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def read_settings(path: Path, *, error: Error, what: str, fix: str) -> dict[str, Any]:
    """The keys of a YAML file.

    Args:
        path: the file.
        error: what to raise.
        what: the settings' name, for messages.
        fix: what to do when the file holds none.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"cannot be read ({problem})", where=path, fix="Give a readable YAML file") from None
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        said = getattr(problem, "problem", None) or "not YAML"
        raise error(f"invalid YAML{line}: {said}", where=path, fix="Correct that line") from None
    if not isinstance(data, dict):
        raise error(f"holds no {what}", where=path, fix=fix)
    return data


def set_key(
    data: dict[str, Any], dotted: str, value: Any, *, error: Error, where: object, fix: str, named: Collection[str] = ()
) -> None:
    """Set one key of nested settings.

    Args:
        data: the settings, which are changed.
        dotted: the key with the sections it is in, e.g. ``segment.model``.
        value: its new value.
        error, where, fix: what to raise when a section on the way is none.
        named: sections of which a bare name means a model.
    """
    *parents, last = dotted.split(".")
    for key in parents:
        if key in named and isinstance(data.get(key), str):
            data[key] = {"model": data[key]}
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise error(f"{dotted}: {key} is not a section", where=where, fix=fix)
    data[last] = value


def describe(error: ValidationError) -> str:
    """What pydantic objects to, as one line that names the keys."""
    problems = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            problems.append(f"unknown key {key}")
        else:
            problems.append(f"{key}: {item['msg']}")
    return "; ".join(problems)
