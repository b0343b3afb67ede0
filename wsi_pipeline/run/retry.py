"""A run once more, as ``run.json`` remembers what was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from wsi_pipeline.errors import OutputError
from wsi_pipeline.run.archive import RunOptions
from wsi_pipeline.run.ledger import FINISHED, SlideRow
from wsi_pipeline.run.provenance import read_json
from wsi_pipeline.workflow import Workflow, change_workflow


def asked_before(output: Path) -> tuple[list[str], Workflow, RunOptions]:
    """Slides, workflow and options of the latest run into a folder, without where it ran.

    Raises:
        OutputError: the folder does not say.
    """
    path = output / "run.json"
    facts = read_json(path) or {}
    try:
        workflow, asked = _as_asked(Workflow.model_validate(facts["workflow"])), facts["asked"]
        options = RunOptions(
            output=output,
            prompts=_path(asked["prompts"]),
            mpp=asked["mpp"],
            roi=None if asked["roi"] is None else tuple(asked["roi"]),
            threads=facts["threads"],
            keep_scratch=asked.get("keep_scratch", False),
            embeddings=_path(asked.get("embeddings")),
            staging=_path(asked.get("staging")),
        )
        return list(asked["slides"]), workflow, options
    except (KeyError, TypeError, ValidationError):
        raise OutputError(
            "does not say what was asked for",
            where=path,
            fix="Use wsi-pipeline run with the same slides, workflow and --output: it does what is not finished",
        ) from None


def _as_asked(workflow: Workflow) -> Workflow:
    """The workflow before it was told what was learned for it."""
    return workflow if workflow.learn is None else change_workflow(workflow, {"segment.weights": None})


def unfinished(rows: list[SlideRow], *, only_failed: bool) -> list[str]:
    """Ids of the slides that failed, or of all there is something left to do for."""
    return [row.id for row in rows if (row.state == "failed" if only_failed else row.state not in FINISHED)]


def _path(given: Any) -> Path | None:
    return None if given is None else Path(given)
