"""One family of errors; every message says what is wrong, where, and what to do.

A command prints ``str(error)`` as its one line and exits with ``error.exit_code``; nothing below the
command line prints or exits. All of them survive pickling, because they travel from Dask workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

EXIT_OK = 0
EXIT_BAD_INPUT = 2
EXIT_SOME_FAILED = 3
EXIT_INTERRUPTED = 130


class WsiPipelineError(Exception):
    """A problem the user can do something about.

    Args:
        what: what is wrong, without a full stop.
        where: the file, feature, key or command it is about.
        fix: what to do next, as an imperative sentence without a full stop.
    """

    exit_code = EXIT_BAD_INPUT
    most_problems = 20

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, None if where is None else str(where), fix
        super().__init__(what)

    @classmethod
    def of(cls, problems: Sequence[str], *, where: object, fix: str) -> Self:
        """One error for all problems of a file or data set."""
        said, more = "; ".join(problems[: cls.most_problems]), len(problems) - cls.most_problems
        rest = f"; and {more} more" if more > 0 else ""
        return cls(f"{len(problems)} problem{'s' * (len(problems) > 1)}: {said}{rest}", where=where, fix=fix)

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        line = f"{head}. {self.fix}." if self.fix else head
        return " ".join(line.split())

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.what, self.where, self.fix)


def _rebuild(cls: type[WsiPipelineError], what: str, where: str | None, fix: str | None) -> WsiPipelineError:
    return cls(what, where=where, fix=fix)


class SlideError(WsiPipelineError):
    """A slide file cannot be opened or read."""


class ResolutionError(SlideError):
    """A slide's µm per pixel is unknown or out of the sane range."""


class ManifestError(WsiPipelineError):
    """A table of slides cannot be read, or names what cannot be run."""


class WorkflowError(WsiPipelineError):
    """A workflow file is not valid."""


class PromptError(WsiPipelineError):
    """Prompts cannot be read or do not fit the slide."""


class GeoJSONError(PromptError):
    """A GeoJSON file that QuPath would refuse; ``where`` names the feature."""


class WeightsError(WsiPipelineError):
    """A checkpoint is missing, damaged, unsafe or of another model."""


class DatasetError(WsiPipelineError):
    """Annotated data cannot be used for training."""


class TrainingError(WsiPipelineError):
    """A recipe is not valid, or training by it cannot go on."""


class LabelsError(WsiPipelineError):
    """Truth or predictions cannot be read, or cannot be compared."""


class OutputError(WsiPipelineError):
    """The output folder cannot be used."""


class StorageError(OutputError):
    """Storage is full or does not answer; what failed may be tried again later."""


class DamagedFileError(OutputError):
    """An intermediate file, named by ``where``, is damaged or gone; it can be made again."""


class WorkerError(WsiPipelineError):
    """Workers ended while they were at a task, again and again."""
