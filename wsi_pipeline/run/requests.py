"""What a run is asked for: files, folders, globs, URLs and manifests, checked as a whole before anything runs."""

from __future__ import annotations

import difflib
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, get_args

import yaml

from wsi_pipeline.errors import ManifestError, WorkflowError
from wsi_pipeline.manifest import MANIFEST_SUFFIXES, stream_manifest
from wsi_pipeline.settings import Section
from wsi_pipeline.slides.find import SLIDE_SUFFIXES, find_slides, is_slide_folder
from wsi_pipeline.slides.remote import find_remote
from wsi_pipeline.slides.resolution import SANE_MPP
from wsi_pipeline.slides.urls import file_name, is_remote, shown
from wsi_pipeline.workflow import Workflow

Settings = tuple[tuple[str, Any], ...]
Change = Callable[[dict[str, Any]], Workflow]
"""Makes the workflow with some dotted keys changed, and raises ``WorkflowError`` where it refuses them."""

COLUMNS = ("path", "id", "mpp", "prompts", "tissue")
"""Columns of a manifest; the others are dotted keys of the workflow."""

_FILES = ("tissue.mask", "prompts.file")
"""Keys of the workflow whose values are paths."""

MOST_ID_BYTES = 200
"""File systems take 255, and files beside the folder have longer names."""

LEARNED = "learned"
"""Folder of the output folder with what was learned from points; see ``run.learning``."""

_OUR_OWN = re.compile(rf"(run\.json|report\.html|ledger\b.*|.*\.partial|{LEARNED})", re.IGNORECASE)
_NOT_IN_NAMES = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
_ASKED_AT_ONCE = 32
"""Files looked for at a time: a network share takes a millisecond to answer, whatever the question."""


@dataclass(frozen=True, slots=True)
class SlideRequest:
    """One slide somebody asked for.

    Attributes:
        source: absolute path or URL; a URL may hold secrets, see ``label``.
        id: its folder name in the output; None to make one from its name.
        mpp: µm per level-0 px that overrides the slide's own.
        prompts: QuPath GeoJSON, or a folder of them.
        settings: dotted workflow keys that differ for this slide, sorted.
    """

    source: str
    id: str | None = None
    mpp: float | None = None
    prompts: Path | None = None
    settings: Settings = ()

    @property
    def label(self) -> str:
        """The source without secrets: what is shown, written and compared."""
        return shown(self.source) if is_remote(self.source) else self.source


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a manifest: what it asks for, and all that is wrong with it."""

    at: str
    request: SlideRequest
    problems: list[str]

    def refuse(self, why: Iterable[str]) -> None:
        self.problems.extend(f"{self.at}: {said}" for said in why)


def read_requests(given: Sequence[str | Path], workflow: Change, mpp: float | None = None) -> list[SlideRequest]:
    """Every slide that is asked for, each once; a manifest's line about a slide counts more than the slide alone.

    Args:
        given: slide files, folders, globs, URLs of files, URLs ending in ``/``, URLs with ``*``, and manifests.
        workflow: what the settings of single slides change.
        mpp: µm per level-0 px of slides of which no manifest says another.

    Returns:
        Slides given by themselves, sorted, then those of the manifests in their order.

    Raises:
        SlideError: a folder, glob or URL without slides.
        ManifestError: a manifest cannot be read; or all that is wrong in those that can.
    """
    texts = [str(one) for one in given]
    manifests = [one for one in texts if one.lower().endswith(MANIFEST_SUFFIXES)]
    listed = _read_manifests(list(dict.fromkeys(manifests)), workflow)
    known = {one.label for one in listed}
    requests = [one for one in _plain([one for one in texts if one not in manifests]) if one.label not in known]
    return [replace(one, mpp=mpp) if one.mpp is None else one for one in requests + listed]


def workflow_keys(section: type[Section] = Workflow, within: str = "") -> Iterator[str]:
    """Every dotted key a workflow can have, whichever prompts it takes."""
    for name, one in section.model_fields.items():
        key = f"{within}{one.alias or name}"
        sections = [kind for kind in _kinds(one.annotation) if isinstance(kind, type) and issubclass(kind, Section)]
        if not sections:
            yield key
        for kind in sections:
            yield from workflow_keys(kind, f"{key}.")


def _kinds(annotation: Any) -> Iterator[Any]:
    inner = get_args(annotation)
    if not inner:
        yield annotation
    for one in inner:
        yield from _kinds(one)


def _plain(given: Sequence[str]) -> list[SlideRequest]:
    """What is given by itself; a file that is not there is found out when its turn comes."""
    urls = [url for one in given if is_remote(one) for url in find_remote(one)]
    paths = find_slides(one for one in given if not is_remote(one))
    requests = [SlideRequest(os.path.abspath(path)) for path in paths] + [SlideRequest(url) for url in sorted(urls)]
    return list({one.label: one for one in requests}.values())


def _read_manifests(paths: Sequence[str], workflow: Change) -> list[SlideRequest]:
    lines: list[_Line] = []
    for path in paths:
        lines += _lines(path, f"{path} " if len(paths) > 1 else "")
    _check_files(lines)
    _check_ids(lines)
    _check_workflows(lines, workflow)
    problems = [said for line in lines for said in line.problems]
    if problems:
        where = paths[0] if len(paths) == 1 else "manifests"
        raise ManifestError.of(problems, where=where, fix="Correct these lines, or take them out")
    return [line.request for line in lines]


def _lines(path: str, prefix: str) -> Iterator[_Line]:
    if is_remote(path):
        raise ManifestError("is not on this machine", where=shown(path), fix="Copy the manifest here")
    manifest, line = Path(os.path.abspath(path)), None
    for number, row in stream_manifest(manifest, ("path",), error=ManifestError):
        unknown = [] if line else [f"{prefix}header: {said}" for said in _unknown_columns(row)]
        cells = {column: cell for column, cell in row.items() if not _is_empty(cell)}
        request, problems = _request(cells, manifest.parent)
        line = _Line(f"{prefix}line {number}", request, unknown)
        line.refuse(problems)
        yield line
    if line is None:
        raise ManifestError("lists no slides", where=path, fix="Add a line for each slide")


def _unknown_columns(row: Mapping[str, Any]) -> Iterator[str]:
    known = [*COLUMNS, *_dotted_keys()]
    for column in row:
        if column is not None and column not in known:
            like = difflib.get_close_matches(column, known, n=1)
            yield f"unknown column {column or 'without a name'}" + (f", did you mean {like[0]}?" if like else "")


@cache
def _dotted_keys() -> frozenset[str]:
    """Those that may differ from slide to slide; what is learned is learned once."""
    return frozenset(key for key in workflow_keys() if "." in key and not key.startswith("learn."))


def _is_empty(cell: Any) -> bool:
    return cell is None or cell != cell or (isinstance(cell, str) and not cell.strip())  # NaN is no number


def _request(cells: Mapping[str, Any], folder: Path) -> tuple[SlideRequest, list[str]]:
    """What a line asks for, and what is wrong with its cells."""
    problems = [] if None not in cells else ["has more cells than there are columns"]
    path = str(cells.get("path", "")).strip()
    if not path:
        problems.append("path is empty")
    given_id = str(cells["id"]).strip() if "id" in cells else None
    if given_id is not None and not can_be_folder(given_id):
        problems.append(f"id {given_id} cannot be the name of a folder of results")
    mpp, wrong_mpp = _mpp(cells.get("mpp"))
    settings, wrong_settings = _settings(cells)
    if "tissue" in cells:
        settings = {"tissue.method": "mask"} | settings | {"tissue.mask": _beside(folder, str(cells["tissue"]).strip())}
    prompts = Path(_beside(folder, str(cells["prompts"]).strip())) if "prompts" in cells else None
    source = _beside(folder, path) if path else ""
    request = SlideRequest(source, given_id, mpp, prompts, tuple(sorted(settings.items())))
    return request, problems + wrong_mpp + wrong_settings


def _beside(folder: Path, name: str) -> str:
    """A path in a manifest is meant from the manifest's folder."""
    return name if is_remote(name) else os.path.abspath(folder / name)


def can_be_folder(name: str) -> bool:
    """Whether results may lie in a folder of that name: a safe one, and none that a run uses itself."""
    too_long = len(name.encode(errors="surrogatepass")) > MOST_ID_BYTES
    return not (too_long or name.startswith(".") or name.endswith(".") or _NOT_IN_NAMES.search(name)) and not (
        _OUR_OWN.fullmatch(name)
    )


def _mpp(cell: Any) -> tuple[float | None, list[str]]:
    if cell is None:
        return None, []
    least, most = SANE_MPP
    try:
        mpp = float(cell)
    except (TypeError, ValueError):
        return None, [f"mpp {cell} is no number"]
    return mpp, [] if least <= mpp <= most else [f"mpp {cell} is out of {least:g} … {most:g} µm/px"]


def _settings(cells: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    settings, problems = {}, []
    for key in cells.keys() & _dotted_keys():
        try:
            value = _value(cells[key])
            hash(value)
        except yaml.YAMLError:
            problems.append(f"{key} is not YAML, put {cells[key]} in quotes")
        except TypeError:
            problems.append(f"{key}: {cells[key]} is no single value")
        else:
            settings[key] = value
    return settings, sorted(problems)


def _value(cell: Any) -> Any:
    """A cell as ``--set`` reads it; those of Parquet have a type of their own."""
    return _parsed(cell) if isinstance(cell, str) else _frozen(cell)


@lru_cache(4096)  # columns repeat themselves, and YAML takes its time
def _parsed(text: str) -> Any:
    return _frozen(yaml.safe_load(text))


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _check_files(lines: Sequence[_Line]) -> None:
    """Look for all files that are named, each once and many at a time."""
    asked: dict[tuple[Callable[[str], str | None], str], list[_Line]] = {}
    for line in lines:
        for question in _questions(line.request):
            asked.setdefault(question, []).append(line)
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        for question_lines, said in zip(asked.values(), pool.map(lambda one: one[0](one[1]), asked), strict=True):
            for line in question_lines if said else ():
                line.refuse([str(said)])


def _questions(request: SlideRequest) -> Iterator[tuple[Callable[[str], str | None], str]]:
    if request.source:
        yield _slide_problem, request.source
    settings = dict(request.settings)
    for path in (request.prompts, *(settings.get(key) for key in _FILES)):
        if path is not None:
            yield _file_problem, str(path)


def _slide_problem(source: str) -> str | None:
    """What is seen to be wrong with a slide without opening it; what is remote is looked at when its turn comes."""
    if is_remote(source):
        is_slide = source.endswith("/") or file_name(source).lower().endswith(SLIDE_SUFFIXES)
        return None if is_slide else f"{shown(source)} is no slide by its name"
    mode, problem = _mode(source)
    if problem is None and stat.S_ISDIR(mode):
        return None if is_slide_folder(Path(source)) else f"{source} is a folder and no slide"
    return problem or (None if source.lower().endswith(SLIDE_SUFFIXES) else f"{source} is no slide by its name")


def _file_problem(path: str) -> str | None:
    return _mode(path)[1]


def _mode(path: str) -> tuple[int, str | None]:
    try:
        return os.stat(path).st_mode, None
    except FileNotFoundError:
        return 0, f"{path} is missing"
    except (OSError, ValueError) as error:
        return 0, f"{path} cannot be read ({getattr(error, 'strerror', None) or error})"


def _check_ids(lines: Sequence[_Line]) -> None:
    """No slide twice, and no two slides in one folder, also where file systems do not tell ``A`` from ``a``."""
    sources: dict[str, str] = {}
    ids: dict[str, str] = {}
    for line in lines:
        request = line.request
        first = sources.setdefault(request.label, line.at) if request.source else line.at
        if first != line.at:
            line.refuse([f"{request.label} is listed in {first} already"])
        if request.id is not None:
            first = ids.setdefault(unicodedata.normalize("NFC", request.id).casefold(), line.at)
            if first != line.at:
                line.refuse([f"id {request.id} is that of {first} already"])


def _check_workflows(lines: Sequence[_Line], workflow: Change) -> None:
    """Have the workflow checked with the settings of every line, each combination once."""
    verdicts: dict[Settings, Workflow | str] = {}
    for line in lines:
        # which file it is makes no difference to the schema, and every slide may have its own
        settings = tuple((key, "file" if key in _FILES else value) for key, value in line.request.settings)
        if settings not in verdicts:
            verdicts[settings] = _verdict(settings, workflow)
        verdict = verdicts[settings]
        if isinstance(verdict, str):
            line.refuse([verdict])
        elif line.request.prompts is not None and not verdict.takes_files:
            line.refuse([f"the workflow {verdict.name} takes no prompts"])


def _verdict(settings: Settings, workflow: Change) -> Workflow | str:
    try:
        return workflow(dict(settings))
    except WorkflowError as error:
        return error.what
