"""The cluster profile: what a lab's batch system or Kubernetes wants to be asked for."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from wsi_pipeline.errors import WsiPipelineError
from wsi_pipeline.settings import Section, describe, read_settings

_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|d)\s*")
_MEMORY = re.compile(r"\s*\d+(\.\d+)?\s*([kMGT]i?)?B\s*")


def _duration(value: object) -> float:
    # YAML reads 12:00:00 as a number of seconds and 12:00 as one of minutes, so that only a unit is clear
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise PydanticCustomError(
            "duration", "{value} needs the unit s, min, h or d, as in 24h", {"value": repr(value)}
        )
    return float(match[1]) * _SECONDS[match[2]]


def _memory(value: object) -> str:
    if not isinstance(value, str) or not _MEMORY.fullmatch(value):
        raise PydanticCustomError("memory", "{value} needs a unit, as in 16GB", {"value": repr(value)})
    return value


Duration = Annotated[float, BeforeValidator(_duration)]
"""Seconds, written with a unit."""

Memory = Annotated[str, BeforeValidator(_memory)]
Count = Annotated[int, Field(ge=1)]


class Range(Section):
    """Worker processes to move between, as the work that is left demands."""

    minimum: int = Field(ge=0)
    maximum: Count

    @model_validator(mode="after")
    def _in_order(self) -> Range:
        if self.minimum > self.maximum:
            raise ValueError("minimum is larger than maximum")
        return self


class GpuJobs(Section):
    """Jobs with a GPU beside the others; what is ``null`` is as in those."""

    jobs: int = Field(ge=0)
    queue: str | None
    cores: Count | None
    memory: Memory | None
    directives: list[str]
    readers: Count


class Profile(Section):
    """How to ask a batch system for workers. The keys are explained in ``profiles.yaml``."""

    queue: str | None
    account: str | None
    cores: Count
    memory: Memory
    walltime: Duration
    directives: list[str]
    prologue: list[str]
    python: str | None
    processes: Count | None
    workers: Count | Range
    interface: str | None
    scratch: str | None
    folder: str | None
    security: bool
    lifetime_margin: Duration
    stagger: Duration
    death_timeout: Duration
    interval: Duration
    status: str
    options: dict[str, Any]
    gpu: GpuJobs

    @model_validator(mode="after")
    def _ends_in_time(self) -> Profile:
        if not self.stagger < self.lifetime_margin < self.walltime - self.stagger:
            raise ValueError("lifetime_margin has to be longer than stagger, and both together shorter than walltime")
        return self

    @property
    def lifetime(self) -> float:
        """Seconds after which a worker hands over its work."""
        return self.walltime - self.lifetime_margin


class GpuPods(Section):
    """Pods with a GPU beside the others."""

    pods: int = Field(ge=0)
    limits: dict[str, str | int]
    readers: Count


class KubernetesProfile(Section):
    """How to ask Kubernetes for workers. The keys are explained in ``profiles.yaml``."""

    image: str | None
    namespace: str | None
    cores: Count
    memory: Memory
    workers: Count | Range
    interval: Duration
    pod: dict[str, Any]
    container: dict[str, Any]
    gpu: GpuPods


AnyProfile = TypeVar("AnyProfile", Profile, KubernetesProfile)
_DEFAULTS = resources.files("wsi_pipeline.cluster") / "profiles.yaml"
_FIX = "See `wsi-pipeline cluster profiles` for the keys"


def shipped_text() -> str:
    """The file of defaults, with its comments."""
    return _DEFAULTS.read_text(encoding="utf-8")


def shipped_profiles() -> dict[str, dict[str, Any]]:
    """The default keys of every system, by its name."""
    from dask.config import merge

    data = yaml.safe_load(shipped_text())
    common, kubernetes = data.pop("all"), data.pop("kubernetes")
    return {name: merge(common, keys) for name, keys in data.items()} | {"kubernetes": kubernetes}


def user_file() -> Path:
    """Where a user's own profile lies, if there is one."""
    from platformdirs import user_config_path

    return user_config_path("wsi-pipeline") / "cluster.yaml"


def load_profile(system: str, path: Path | None, kind: type[AnyProfile]) -> AnyProfile:
    """The shipped profile of a system with the keys of a file.

    Args:
        system: ``slurm``, ``kubernetes``, ….
        path: a file that names systems and keys; None takes the user's own file where there is one.
        kind: the profile's class.

    Raises:
        WsiPipelineError: the file cannot be read, or does not describe a cluster.
    """
    from dask.config import merge

    given = path or (user_file() if user_file().is_file() else None)
    own = {} if given is None else _read(given)
    if path is not None and system not in own:
        raise WsiPipelineError(f"holds no section {system}", where=path, fix=_FIX)
    try:
        return kind.model_validate(merge(shipped_profiles()[system], own.get(system, {})))
    except ValidationError as error:
        raise WsiPipelineError(f"{system}: {describe(error)}", where=given, fix=_FIX) from None


def _read(path: Path) -> dict[str, Any]:
    data = read_settings(path, error=WsiPipelineError, what="cluster profile", fix=_FIX)
    for name, keys in data.items():
        if name not in shipped_profiles():
            raise WsiPipelineError(f"knows no system {name}", where=path, fix=_FIX)
        if not isinstance(keys, dict):
            raise WsiPipelineError(f"{name} is not a section", where=path, fix=_FIX)
    return data
