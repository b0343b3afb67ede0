"""Which QuPath file belongs to which slide: its own in a manifest, or one of what ``--prompts`` names."""

from __future__ import annotations

from pathlib import Path

from wsi_pipeline.errors import PromptError
from wsi_pipeline.run.requests import SlideRequest
from wsi_pipeline.workflow import QuPathPrompts, Workflow

_SUFFIXES = (".geojson", ".geojson.gz", ".json", ".zip")


def file_of_prompts(request: SlideRequest, slides: int, workflow: Workflow, given: Path | None) -> Path | None:
    """A slide's file of prompts; None where the workflow wants none.

    Args:
        request: the slide.
        slides: how many there are.
        workflow: that the slide is run with.
        given: file or folder for all slides.

    Raises:
        PromptError: there is none and one is needed, or there is one and none is wanted; or see ``_file_among``.
    """
    own = request.prompts or given
    if not isinstance(workflow.prompts, QuPathPrompts):
        if own is not None and not workflow.takes_files:
            raise PromptError(
                f"the workflow {workflow.name} takes no prompt file", where=own, fix="Leave out --prompts"
            )
        return None
    source = own or workflow.prompts.file
    if source is None:
        raise PromptError(
            f"the workflow {workflow.name} needs prompts", where=workflow.name, fix="Give --prompts annotations.geojson"
        )
    return _file_among(source, request, slides, given)


def file_of_points(request: SlideRequest, slides: int, given: Path | None) -> Path | None:
    """A slide's file of points to learn from; that many have none is as it should be.

    Arguments and errors as of ``file_of_prompts``.
    """
    own = request.prompts or given
    source = None if own is None else _file_among(own, request, slides, given)
    return source if source is not None and source.exists() else None


def _file_among(source: Path, request: SlideRequest, slides: int, given: Path | None) -> Path:
    """A file as it is; of a folder the file of the slide's name, which need not be there.

    Raises:
        PromptError: no such file or folder, or one file for several slides.
    """
    from wsi_pipeline.slides.slide import slide_name

    if not source.exists():
        raise PromptError("no such file", where=source, fix="Check the path")
    if source.is_dir():
        return _named(source, slide_name(request.source))
    if slides > 1 and source == given:
        raise PromptError(
            "one prompt file cannot serve several slides", where=source, fix="Give a folder with one file per slide"
        )
    return source


def _named(folder: Path, name: str) -> Path:
    for suffix in _SUFFIXES:
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    return folder / f"{name}{_SUFFIXES[0]}"  # reported as missing when the slide's turn comes
