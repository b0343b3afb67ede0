"""The models of a worker process: built once, used by all its threads, one call at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.run.job import SlideJob, seen_of
from wsi_pipeline.segment.memory import Fitting
from wsi_pipeline.segment.recognise import ANY_SIZE, RecogniseStage
from wsi_pipeline.segment.refine import RefineStage
from wsi_pipeline.workflow import (
    DomainDecoderPrompts,
    MatcherPrompts,
    ModelSettings,
    SegmentModelPrompts,
    TextPrompts,
    Workflow,
    model_sections,
)

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


_CALLS = frozenset({"encode", "decode", "refine", "detect", "find", "look", "recognise"})


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


_fitting: dict[tuple[ModelSettings, ...], Fitting] = {}


def known_of(job: SlideJob) -> Fitting:
    """What this process knows about how many patch pairs of a job's models fit in memory at once."""
    known = _fitting.setdefault(tuple(model_sections(job.workflow).values()), Fitting())
    if job.fits is not None:
        known.most = min(job.fits, known.most or job.fits)
    return known


_building = threading.Lock()


@lru_cache(maxsize=3)
def _build(settings: ModelSettings, dtype: str) -> SharedModel:
    from wsi_pipeline.models.registry import build_segmenter

    return SharedModel(build_segmenter(settings, dtype=dtype))


def shared_model(settings: ModelSettings, dtype: str) -> SharedModel:
    """This process's model."""
    with _building:  # two threads asking at once must not build it twice
        return _build(settings, dtype)


NetworkPrompts = DomainDecoderPrompts | MatcherPrompts | TextPrompts
"""Sources of prompts that are networks: a process has one of each, and they share the segmenter's embeddings."""


@lru_cache(maxsize=2)
def _build_prompter(settings: NetworkPrompts, device: str, dtype: str) -> SharedModel:
    from wsi_pipeline.prompts.sources import build_prompter

    return SharedModel(build_prompter(settings, device=device, dtype=dtype))


def shared_prompter(settings: NetworkPrompts, device: str, dtype: str) -> SharedModel:
    """This process's prompter with a network."""
    with _building:
        return _build_prompter(settings, device, dtype)


def prompter_of(job: SlideJob) -> Prompter | None:
    """A job's prompter, unless its segment model needs none; one with a network is this process's, as models are."""
    from wsi_pipeline.prompts.sources import build_prompter

    prompts, segment = job.workflow.prompts, job.workflow.segment
    if isinstance(prompts, SegmentModelPrompts):
        return None
    if not isinstance(prompts, NetworkPrompts) or segment is None:
        return build_prompter(prompts)
    shared = shared_prompter(prompts, segment.device, job.dtypes["segment"])
    _keep_embeddings(shared, job)
    prompter: Any = knowing_slide(shared, job)
    return prompter


def _keep_embeddings(shared: SharedModel, job: SlideJob) -> None:
    """Where the job wants them, if the model has an encoder whose embeddings can be kept."""
    encoder = getattr(shared.model, "encoder", None)
    if encoder is not None:
        encoder.keep_in(job.embeddings)


def knowing_slide(shared: SharedModel, job: SlideJob) -> SharedModel:
    """The same model knowing the job's slide, if that is what it wants, see ``SlideAware``."""
    if not getattr(shared.model, "learns_slide", False):
        return shared
    return SharedModel(shared.model.knowing(seen_of(job)))


def slide_aware_of(job: SlideJob) -> SharedModel | None:
    """The model or the prompter of a job that wants to know the slide first; it does not yet."""
    settings, prompts = job.workflow.segment, job.workflow.prompts
    if settings is None:
        return None
    found = [shared_model(settings, job.dtypes["segment"])]
    if isinstance(prompts, NetworkPrompts):
        found.append(shared_prompter(prompts, settings.device, job.dtypes["segment"]))
    return next((one for one in found if getattr(one.model, "learns_slide", False)), None)


def _model_of(job: SlideJob, settings: ModelSettings, stage: str) -> SharedModel:
    """The model of a stage, whose encoder keeps its embeddings where the job wants them."""
    model = shared_model(settings, job.dtypes[stage])
    _keep_embeddings(model, job)
    return model


def segmenter_of(job: SlideJob) -> SharedModel | None:
    """This process's model for a job's segment stage, where it has one."""
    settings = job.workflow.segment
    return None if settings is None else knowing_slide(_model_of(job, settings, "segment"), job)


def refiner_of(job: SlideJob) -> RefineStage | None:
    """This process's model for a job's refine stage, where it has one."""
    settings = job.workflow.refine
    return None if settings is None else RefineStage(_model_of(job, settings, "refine"), settings)


def recogniser_of(job: SlideJob) -> RecogniseStage | None:
    """This process's model for a job's recognise stage, where it has one."""
    settings = job.workflow.recognise
    if settings is None:
        return None
    recogniser: Any = _model_of(job, settings, "recognise")
    return RecogniseStage.of(recogniser, settings, job.classes)


def prepare_models(workflow: Workflow, dtypes: dict[str, str]) -> dict[str, Any]:
    """Choose the precision of each stage, unless it is given, and build the models.

    Returns:
        ``dtypes`` by stage, the ``reasons`` for them, and ``input_size``: px of the patches the first stage takes.
    """
    from wsi_pipeline.models.precision import choose_precision

    chosen, reasons = dict(dtypes), dict.fromkeys(dtypes, "as the run began with")
    sizes: list[int] = []
    first: str | None = None
    for stage, settings in model_sections(workflow).items():
        if stage not in chosen:
            if settings.precision == "auto" and first is not None:
                chosen[stage], reasons[stage] = chosen[first], f"as the {first} stage, whose embeddings it shares"
            else:
                choice = choose_precision(settings)
                chosen[stage], reasons[stage] = choice.dtype, choice.reason
        first = first or stage
        sizes.append(shared_model(settings, chosen[stage]).input_size or ANY_SIZE)
    _check_patches(workflow, chosen, sizes[0])
    return {"dtypes": chosen, "reasons": reasons, "input_size": sizes[0]}


def _check_patches(workflow: Workflow, dtypes: Mapping[str, str], size: int) -> None:
    """Refuse a prompter that cannot look at the patches of ``size`` px that the first stage takes."""
    prompts, segment = workflow.prompts, workflow.segment
    if not isinstance(prompts, NetworkPrompts) or segment is None:
        return
    wanted = shared_prompter(prompts, segment.device, dtypes["segment"]).input_size
    if wanted not in (None, size):
        raise WorkflowError(
            f"{prompts.source} takes patches of {wanted} px, the model patches of {size} px",
            where="prompts.source",
            fix="Set segment.backbone to the one that the prompter stands on, or give the prompter other weights",
        )
