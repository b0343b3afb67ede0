"""Learning from the points of some slides of an archive, before all of its slides are run with what was learned.

It is training as ``wsi-pipeline train`` does it, in a folder of the output folder, by the coordinator itself.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_pipeline.errors import OutputError, WorkflowError
from wsi_pipeline.files import hash_file, writing
from wsi_pipeline.qupath.origin import Origin as QuPathOrigin
from wsi_pipeline.run.lease import BEAT_SECONDS, Lease, is_held
from wsi_pipeline.run.provenance import read_json, write_json
from wsi_pipeline.run.requests import LEARNED, SlideRequest
from wsi_pipeline.run.walk import SCRATCH
from wsi_pipeline.slides.staging import describe_remote, is_remote, stage
from wsi_pipeline.training.curves import TABLE as CURVES
from wsi_pipeline.workflow import SegmentSettings, Workflow, change_workflow, load_workflow

if TYPE_CHECKING:
    from wsi_pipeline.run.progress import Reporter
    from wsi_pipeline.training.recipe import Recipe
    from wsi_pipeline.training.sources import DataSet

OUTLINED = "clicks"
"""Output folder, inside that of what was learned, of the run that outlines the clicks; its workflow's name."""

RECORD = "learned.json"
"""File beside the weights: what they were made from, and when they are whole, their digest."""

_PARTS = {"recipe": "recipe", "slides": "points or their slides"}
"""Parts of what weights are made from, as people know them."""


@dataclass(frozen=True, slots=True)
class ClickedSlide:
    """A slide that somebody clicked on.

    Attributes:
        request: the slide.
        points: QuPath GeoJSON.
        mpp: µm per level-0 px given by the user, or None.
    """

    request: SlideRequest
    points: Path
    mpp: float | None

    def facts(self) -> dict[str, Any]:
        """What is learned from it follows from these."""
        from wsi_pipeline.slides.slide import open_slide, slide_name

        source = self.request.source
        if is_remote(source):
            version = describe_remote(source).version
        else:
            with open_slide(source, mpp=self.mpp) as slide:
                version = slide.info.fingerprint
        name = slide_name(source)
        return {"name": name, "slide": version, "mpp": self.mpp, "points": hash_file(self.points)}

    def data_set(self, staging: Path, origin: QuPathOrigin) -> DataSet:
        """Its points as a data set; a remote slide is copied here, for the outlining of its clicks, too."""
        from wsi_pipeline.training.sources import DataSet

        source = self.request.source
        return DataSet(self.points, stage(source, staging) if is_remote(source) else Path(source), self.mpp, origin)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is to be learned.

    Attributes:
        recipe: how; its classes do not count where ``classes`` is false.
        classes: whether somebody named them; else those of the points are learned.
        device: where.
        origin: where the pixel (0, 0) of slides lay in QuPath.
    """

    recipe: Recipe
    classes: bool
    device: str
    origin: QuPathOrigin

    @classmethod
    def of(cls, workflow: Workflow) -> Lesson:
        """That of a workflow with a ``learn`` section, checked before anything runs.

        Raises:
            WorkflowError: the segment section cannot use what is learned.
            TrainingError: the recipe is not valid.
        """
        from wsi_pipeline.training.systems import flat, load_recipe

        learn, segment = workflow.learn, workflow.segment
        assert learn is not None
        assert segment is not None
        settings = flat(learn.set)
        # patches have to look as they do when the result is used; and a click is no outline to judge by
        given: dict[str, Any] = {"mpp": workflow.mpp, "context_factor": workflow.tiling.context_factor}
        given |= {"judged": False, "hold_out": 0.0}
        if segment.backbone is not None:
            given["backbone"] = segment.backbone
        twice = sorted(given.keys() & settings.keys())
        if twice:
            fix = "Leave it out: the workflow's own mpp, tiling and segment.backbone count, and points judge nothing"
            raise WorkflowError("is not for the recipe to say", where=f"learn.set.{twice[0]}", fix=fix)
        recipe = load_recipe(learn.system, None, settings | given)
        _check(segment, recipe)
        return cls(recipe, "classes" in settings, segment.device, workflow.export.qupath_origin)

    def facts(self) -> dict[str, Any]:
        """All that was decided, with the digests of files that are named.

        Raises:
            WeightsError: one is missing.
        """
        from wsi_pipeline.models.weights import locate, sha256_of

        facts = self.recipe.model_dump(mode="json")
        files = {key: sha256_of(locate(facts[key])) for key in self.recipe.files if facts[key] is not None}
        return facts | {"files": files} | ({} if self.classes else {"classes": None})


def _check(segment: SegmentSettings, recipe: Recipe) -> None:
    if segment.weights is not None:
        fix = "Leave the key out, or use a workflow without a learn section"
        raise WorkflowError("weights are learned", where="segment.weights", fix=fix)
    model = recipe.used_with("")["segment"]["model"]
    if segment.model != model:
        fix = f"Set it to {recipe.system}, and learn.set.instances to true"
        raise WorkflowError(f"a {model} is learned, not a {segment.model}", where="segment.model", fix=fix)


def outlining(workflow: Workflow, weights: Path) -> Workflow:
    """The workflow that outlines the clicks themselves, looking at slides as the one they were learned for does."""
    asked = workflow.segment
    assert asked is not None
    same = {
        "mpp": workflow.mpp,
        "tiling.context_factor": workflow.tiling.context_factor,
        "export.qupath_origin": workflow.export.qupath_origin,
        "segment.device": asked.device,
        "segment.precision": asked.precision,
    }
    return load_workflow(OUTLINED, same | {"segment.weights": str(weights)})


def finding(workflow: Workflow, weights: Path) -> Workflow:
    """The workflow with what was learned for it."""
    return change_workflow(workflow, {"segment.weights": str(weights)})


def learn(
    lesson: Lesson,
    clicked: Sequence[ClickedSlide],
    output: Path,
    *,
    embeddings: Path | None = None,
    staging: Path,
    keep_scratch: bool = False,
    reporter: Reporter,
) -> Path:
    """Train in the output folder, go on with a training that was interrupted there, or find that all is done.

    Args:
        lesson: what.
        clicked: what from, one slide at least.
        output: output folder of the run.
        embeddings: where to keep embeddings; None takes a folder that goes when all is learned.
        staging: where remote slides are copied to.
        keep_scratch: whether that folder of embeddings stays.
        reporter: told how far it is.

    Returns:
        The file of weights.

    Raises:
        WsiPipelineError: points or slides cannot be read, or training cannot go on.
    """
    folder = output / LEARNED
    weights, scratch = folder / f"{lesson.recipe.system}.safetensors", folder / SCRATCH
    with _alone(folder, reporter):
        made_from = {"recipe": lesson.facts(), "slides": [one.facts() for one in clicked]}
        begun = read_json(folder / RECORD) or {"made_from": made_from}
        other = [what for key, what in _PARTS.items() if begun.get("made_from", {}).get(key) != made_from[key]]
        if other:
            reporter.say(f"{LEARNED}: the {' and the '.join(other)} changed since; it is learned anew")
            shutil.rmtree(scratch, ignore_errors=True)
        elif weights.is_file() and begun.get("sha256") == hash_file(weights):
            return weights
        write_json(folder / RECORD, {"made_from": made_from})
        count = len(clicked)
        reporter.say(f"{LEARNED}: learning from the points of {count} slide{'s' * (count > 1)}")
        _train(lesson, [one.data_set(staging, lesson.origin) for one in clicked], folder, embeddings, reporter)
        write_json(folder / RECORD, {"made_from": made_from, "sha256": hash_file(weights)})
        if not keep_scratch:
            shutil.rmtree(scratch, ignore_errors=True)
    return weights


@contextmanager
def _alone(folder: Path, reporter: Reporter) -> Iterator[None]:
    """The right to learn in the folder; of several shards that start together, one learns and the others wait."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path, said = folder / ".lease", False
    while True:
        try:
            lease = Lease(path)
            break
        except OutputError:
            if not is_held(path):
                raise
            if not said:
                reporter.say(f"{LEARNED}: another shard is learning; waiting for it")
            said = True
            time.sleep(BEAT_SECONDS)
    with lease:
        yield


def _train(lesson: Lesson, given: Sequence[DataSet], folder: Path, embeddings: Path | None, reporter: Reporter) -> None:
    """Leave weights, their card and the curves in the folder; what is needed to go on lies in its scratch folder."""
    from wsi_pipeline.models.precision import pick_device
    from wsi_pipeline.training.loop import Training
    from wsi_pipeline.training.result import write_result
    from wsi_pipeline.training.sources import Joined, open_data_sets

    sources, recipe, scratch = open_data_sets(given, lesson.recipe), lesson.recipe, folder / SCRATCH
    if not lesson.classes:
        infos = [info for source in sources.values() for info in source.infos]
        found = sorted({name for info in infos for name in info.class_names})
        recipe = recipe.model_copy(update={"classes": tuple(found)})
    training = Training(
        recipe,
        Joined.for_recipe(recipe, list(sources.values())),
        scratch,
        embeddings or scratch / "embeddings",
        device=pick_device(lesson.device),
        reporter=_Epochs(reporter, recipe.epochs),
    )
    training.run()
    write_result(training, sources, folder)
    with writing(folder / CURVES):
        shutil.copyfile(scratch / CURVES, folder / CURVES)


class _Epochs:
    """Tells a run's reporter how far training is: as a stage, whose tasks are the steps of all epochs."""

    def __init__(self, reporter: Reporter, epochs: int) -> None:
        self._reporter, self._epochs = reporter, epochs

    def start(self, epoch: int, steps: int) -> None:
        self._reporter.start(LEARNED, _STAGE, (epoch - 1) * steps, self._epochs * steps)

    def advance(self) -> None:
        self._reporter.advance(LEARNED, _STAGE)

    def finish(self, row: dict[str, Any]) -> None:
        if row["loss"] is not None:  # before the first epoch there is none
            self.say(f"{LEARNED}: epoch {row['epoch']} of {self._epochs}, loss {row['loss']:.4g}")

    def say(self, message: str) -> None:
        self._reporter.say(message)

    def close(self) -> None:
        """The run goes on."""


_STAGE = "learn"
