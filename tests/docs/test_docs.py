"""What the documentation says can be typed can be typed, and what it says can be written can be written."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import typer
import yaml
from pydantic import BaseModel

from wsi_pipeline.cli.app import app
from wsi_pipeline.cli.run import parse_settings
from wsi_pipeline.training.systems import load_recipe
from wsi_pipeline.workflow import ExportSettings, Workflow, load_workflow, parse_workflow

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
FENCE = re.compile(r"^(?P<indent> *)```(?P<kind>\w*)[^\n]*\n(?P<body>.*?)^(?P=indent)```\s*$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(wsi-pipeline [^`]*)`")
PROGRAM = "wsi-pipeline"


def fences(page: Path, kind: str) -> Iterator[str]:
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        if match["kind"] == kind:
            yield match["body"]


def shell_lines(page: Path) -> Iterator[str]:
    """Every call of the program in a shell block, and every one in running text."""
    for body in fences(page, "sh"):
        for line in body.replace("\\\n", " ").splitlines():
            if line.strip().startswith(PROGRAM):
                yield line.strip()
    yield from INLINE.findall(FENCE.sub("", page.read_text(encoding="utf-8")))


def words_of(line: str) -> list[str]:
    """The words after the program's name, up to a redirection or comment."""
    words = shlex.split(line, comments=True)[1:]
    ends = [index for index, word in enumerate(words) if word in (">", "|", "&&")]
    return words[: ends[0]] if ends else words


COMMAND_LINES = [
    pytest.param(line, id=f"{page.relative_to(ROOT)}: {line}") for page in PAGES for line in shell_lines(page)
]
WORKFLOWS = [
    pytest.param(body, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, body in enumerate(fences(page, "yaml"))
]


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the first words name, and the words it gets."""
    command = typer.main.get_command(app)
    while words and hasattr(command, "commands") and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    return command, words


def parsed(line: str) -> Any:
    """What a command makes of its words, without running it."""
    command, words = find_command(words_of(line))
    return command.make_context(PROGRAM, list(words))


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_command_line_in_the_docs_parses(line: str) -> None:
    words = words_of(line)
    command, rest = find_command(words)
    if hasattr(command, "commands"):  # a group of commands, named in running text
        assert rest in ([], ["--help"], ["--version"], ["COMMAND", "--help"]), f"no such command: {line}"
    elif rest and rest != ["--help"]:
        parsed(line)
    # a bare `wsi-pipeline export` in running text names the command, which exists


@pytest.mark.parametrize("line", [p for p in COMMAND_LINES if "--set" in p.values[0]])
def test_settings_in_the_docs_are_keys_of_the_workflow(line: str) -> None:
    facts = parsed(line).params
    settings = parse_settings(facts["settings"])
    if "recipe" in facts:
        load_recipe(facts["system"], None, settings)
        return
    if "workflow" not in facts:
        ExportSettings.model_validate(settings)
        return
    shipped = facts["workflow"] if not facts["workflow"].endswith(".yaml") else "nuclei"
    load_workflow(shipped, settings)


def merged(base: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    result = deepcopy(base)
    for key, value in part.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


@pytest.mark.parametrize("body", WORKFLOWS)
def test_workflow_in_the_docs_validates(body: str) -> None:
    """A snippet with a name is a whole workflow; one without is a part that fits into ``nuclei``."""
    data = yaml.safe_load(body)
    if "name" not in data:
        data = merged(load_workflow("nuclei").model_dump(mode="json", by_alias=True), data)
    assert parse_workflow(data).mpp > 0


def test_the_docs_hold_command_lines_and_workflows() -> None:
    assert len(COMMAND_LINES) > 40
    assert len(WORKFLOWS) > 3


def test_a_wrong_option_or_command_would_be_found() -> None:
    with pytest.raises(Exception, match="--no-such-option"):
        parsed("wsi-pipeline run slide.svs --no-such-option")
    assert find_command(["models", "no-such-command"])[1] == ["no-such-command"]


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WRITTEN_OTHERWISE = ("Length", "NamedClass")
"""Values that a workflow file writes as a text or a list, and not as a section."""


def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A model and every section below it, each once."""
    seen = [model]
    for found in seen:
        yield found
        for field in found.model_fields.values():
            below = (option for option in options(field.annotation) if option not in seen)
            seen += [
                option for option in below if issubclass(option, BaseModel) and option.__name__ not in WRITTEN_OTHERWISE
            ]


def options(annotation: Any) -> Iterator[type]:
    """The classes an annotation is made of."""
    if isinstance(annotation, type):
        yield annotation
    for part in get_args(annotation):
        yield from options(part)


def rows_of(reference: str) -> list[tuple[str, str]]:
    """(key, meaning) of every row of the workflow reference."""
    cells = [line.strip("| ").split(" | ") for line in reference.splitlines() if line.startswith("| `")]
    rows = re.findall(r"^\| `([a-z_0-9]+)` \|.*\| (.*?) ?\|$", reference, re.MULTILINE)
    assert len(rows) == len(cells)
    return rows


def test_workflow_reference_has_every_key_of_every_section() -> None:
    keys = sorted(field.alias or name for section in sections(Workflow) for name, field in section.model_fields.items())
    assert len(keys) > 50
    assert sorted(key for key, _ in rows_of(hook("hooks").workflow_reference())) == keys


def test_workflow_reference_explains_every_key() -> None:
    silent = [key for key, meaning in rows_of(hook("hooks").workflow_reference()) if not meaning]
    assert silent == []


def test_command_reference_has_every_command_and_option() -> None:
    module = hook("cli_hook")
    reference = module.cli_reference()
    names = [name for name, _ in module.commands()]
    assert {"wsi-pipeline run", "wsi-pipeline models fetch", "wsi-pipeline workflows schema"} <= set(names)
    for name, command in module.commands():
        section = reference.split(f"## {name}\n")[1].split("\n## ")[0]
        for option in (option for parameter in command.params for option in parameter.opts):
            assert option in section or option.upper() in section, f"{name} {option}"


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.relative_to(ROOT / "docs").as_posix() in text
