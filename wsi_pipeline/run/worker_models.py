"""The models of a worker process: built once, used by all its threads, one call at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.run.job import SlideJob
from wsi_pipeline.segment.memory import Fitting
from wsi_pipeline.segment.refine import RefineStage
from wsi_pipeline.workflow import DomainDecoderPrompts, ModelSettings, PromptSettings, SegmentModelPrompts, Workflow

if TYPE_CHECKING:
    from wsi_pipeline.models.roles import Prompter


@dataclass
class ModelClock:
    """What one task needed the models for.

    Attributes:
        seconds: in a model.
        spent: the same with the wait for it.
        encoded: patches that an image encoder computed.
        recalled: patches whose embedding was there already.
    """

    seconds: float = 0.0
    spent: float = 0.0
    encoded: int = 0
    recalled: int = 0


_one_at_a_time = threading.Lock()
_local = threading.local()


@contextmanager
def model_clock() -> Iterator[ModelClock]:
    """Measure this thread's calls of models."""
    _local.clock = clock = ModelClock()
    yield clock
    _local.clock = ModelClock()


_CALLS = frozenset({"encode", "decode", "refine", "detect", "find"})


@dataclass
class SharedModel:
    """A model for all threads of a worker: one thread infers while the others read and write."""

    model: Any

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.model, name)
        if name not in _CALLS:
            return value

        def call(*arguments: Any, **options: Any) -> Any:
            with self._alone():
                return value(*arguments, **options)

        return call

    @contextmanager
    def _alone(self) -> Iterator[None]:
        encoder = getattr(self.model, "encoder", None)
        asked = time.perf_counter()
        with _one_at_a_time:
            started = time.perf_counter()
            before = (encoder.computed, encoder.recalled) if encoder else (0, 0)
            yield
            after = (encoder.computed, encoder.recalled) if encoder else (0, 0)
            ended = time.perf_counter()
        clock: ModelClock | None = getattr(_local, "clock", None)
        if clock is not None:
            clock.seconds += ended - started
            clock.spent += ended - asked
            clock.encoded += after[0] - before[0]
            clock.recalled += after[1] - before[1]


_fitting: dict[tuple[ModelSettings | None, ModelSettings | None], Fitting] = {}


def known_of(job: SlideJob) -> Fitting:
    """What this process knows about how many patch pairs of a job's models fit in memory at once."""
    known = _fitting.setdefault((job.workflow.segment, job.workflow.refine), Fitting())
    if job.fits is not None:
        known.most = min(job.fits, known.most or job.fits)
    return known


_building = threading.Lock()


@lru_cache(maxsize=2)
def _build(settings: ModelSettings, dtype: str) -> SharedModel:
    from wsi_pipeline.models.registry import build_segmenter

    return SharedModel(build_segmenter(settings, dtype=dtype))


def shared_model(settings: ModelSettings, dtype: str) -> SharedModel:
    """This process's model."""
    with _building:  # two threads asking at once must not build it twice
        return _build(settings, dtype)


@lru_cache(maxsize=2)
def _build_prompter(settings: DomainDecoderPrompts, device: str, dtype: str) -> SharedModel:
    from wsi_pipeline.prompts.sources import build_prompter

    return SharedModel(build_prompter(settings, device=device, dtype=dtype))


def prompter_of(job: SlideJob) -> Prompter | None:
    """A job's prompter, unless its segment model needs none; one with a network is this process's, as models are."""
    from wsi_pipeline.prompts.sources import build_prompter

    prompts, segment = job.workflow.prompts, job.workflow.segment
    if isinstance(prompts, SegmentModelPrompts):
        return None
    if not isinstance(prompts, DomainDecoderPrompts) or segment is None:
        return build_prompter(prompts)
    with _building:
        shared = _build_prompter(prompts, segment.device, job.dtypes["segment"])
    shared.model.encoder.keep_in(job.embeddings)
    prompter: Any = shared
    return prompter


def _model_of(job: SlideJob, settings: ModelSettings, stage: str) -> SharedModel:
    """The model of a stage, whose encoder keeps its embeddings where the job wants them."""
    model = shared_model(settings, job.dtypes[stage])
    encoder = getattr(model.model, "encoder", None)
    if encoder is not None:
        encoder.keep_in(job.embeddings)
    return model


def segmenter_of(job: SlideJob) -> SharedModel | None:
    """This process's model for a job's segment stage, where it has one."""
    settings = job.workflow.segment
    return None if settings is None else _model_of(job, settings, "segment")


def refiner_of(job: SlideJob) -> RefineStage | None:
    """This process's model for a job's refine stage, where it has one."""
    settings = job.workflow.refine
    return None if settings is None else RefineStage(_model_of(job, settings, "refine"), settings)


def prepare_models(workflow: Workflow, dtypes: dict[str, str]) -> dict[str, Any]:
    """Choose the precision of each stage, unless it is given, and build the models.

    Returns:
        ``dtypes`` by stage, the ``reasons`` for them, and ``input_size``: px of the patches the first stage takes.
    """
    from wsi_pipeline.models.precision import choose_precision

    chosen, reasons = dict(dtypes), dict.fromkeys(dtypes, "as the run began with")
    sizes: list[int] = []
    for stage, settings in (("segment", workflow.segment), ("refine", workflow.refine)):
        if settings is None:
            continue
        if stage not in chosen:
            if settings.precision == "auto" and "segment" in chosen:
                chosen[stage], reasons[stage] = chosen["segment"], "as the segment stage, whose embeddings it shares"
            else:
                choice = choose_precision(settings)
                chosen[stage], reasons[stage] = choice.dtype, choice.reason
        sizes.append(shared_model(settings, chosen[stage]).input_size)
    _check_patches(workflow.prompts, sizes[0])
    return {"dtypes": chosen, "reasons": reasons, "input_size": sizes[0]}


def _check_patches(prompts: PromptSettings | None, size: int) -> None:
    """Refuse a prompter that cannot look at the patches of ``size`` px that the first stage takes."""
    if not isinstance(prompts, DomainDecoderPrompts):
        return
    from wsi_pipeline.models.resolve import domain_plan

    backbone = domain_plan(prompts.weights).backbone
    if backbone.input_size != size:
        raise WorkflowError(
            f"the decoder takes patches of {backbone.input_size} px, the model patches of {size} px",
            where="prompts.weights",
            fix=f"Give a decoder trained on the segmenter's backbone, or set segment.backbone to {backbone.name}",
        )
