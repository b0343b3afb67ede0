"""Learning from the points of some slides, before all of them are run with what was learned."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsi_pipeline.errors import DatasetError, TrainingError, WorkflowError
from wsi_pipeline.run import learning
from wsi_pipeline.run.learning import OUTLINED, RECORD, ClickedSlide, Lesson, finding, learn, outlining
from wsi_pipeline.run.lease import Lease
from wsi_pipeline.run.requests import LEARNED, SlideRequest
from wsi_pipeline.run.retry import asked_before
from wsi_pipeline.run.slide import workflow_facts
from wsi_pipeline.training import sapnet_head
from wsi_pipeline.training.loop import Training
from wsi_pipeline.workflow import Workflow, load_workflow

CENTRES = [(x, y) for x in range(60, 512, 80) for y in range(60, 512, 80)]
SMALL: dict[str, Any] = {
    "width": 32,
    "selector.hidden": 16,
    "selector.negatives": 4,
    "solo.channels": 32,
    "solo.stacked": 1,
    "solo.kernel": 32,
    "solo.mask_channels": 32,
    "proposer.sides": [40, 60],
    "proposer.low_patch": False,
    "epochs": 2,
    "variants": 1,
    "accumulate": 1,
    "optimiser.warm_up": 0,
}
"""A recipe that takes a moment."""


def write_points(path: Path, centres: Sequence[tuple[int, int]] = CENTRES, name: str = "Cell") -> Path:
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": centre},
            "properties": {"objectType": "annotation", "classification": {"name": name}},
        }
        for centre in centres
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.fixture(scope="module")
def slide(tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """512 px with a dark disc at each of ``CENTRES``."""
    image = np.random.default_rng(0).normal((228, 186, 208), 4, (512, 512, 3))
    y, x = np.mgrid[:512, :512]
    for cx, cy in CENTRES:
        image[(x - cx) ** 2 + (y - cy) ** 2 < 12**2] = (98, 66, 138)
    return tools.write_tiff(tmp_path_factory.mktemp("slide") / "discs.tif", np.clip(image, 0, 255).astype(np.uint8))


def workflow_of(**changes: Any) -> Workflow:
    settings = {"mpp": 0.5, "segment.device": "cpu", "learn.set": SMALL | {"proposer.model": "threshold"}}
    return load_workflow("points-to-instances", settings | {key.replace("__", "."): changes[key] for key in changes})


class Told:
    """A reporter that remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.started: list[tuple[Any, ...]] = []

    def start(self, *words: Any) -> None:
        self.started.append(words)

    def advance(self, slide_id: str, stage: str) -> None: ...

    def say(self, message: str, **facts: Any) -> None:
        self.said.append(message)


@pytest.fixture
def tiny(plugin: None, small_sam: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder and a proposer that take no time."""
    monkeypatch.setattr(sapnet_head, "load_sam", lambda plan: small_sam())


@pytest.fixture
def run(tiny: None, slide: Path, tmp_path: Path) -> Callable[..., tuple[Path, Told]]:
    """Learns in a folder, from points that lie there from then on."""
    points = write_points(tmp_path / "points" / "discs.geojson")

    def call(output: Path, workflow: Workflow | None = None, **options: Any) -> tuple[Path, Told]:
        told = Told()
        clicked = [ClickedSlide(SlideRequest(str(slide)), points, None)]
        lesson = Lesson.of(workflow or workflow_of())
        weights = learn(lesson, clicked, output, staging=tmp_path / "staged", reporter=told, **options)  # type: ignore[arg-type]
        return weights, told

    return call


def test_what_is_learned_lies_in_a_folder_of_its_own(run: Any, tmp_path: Path) -> None:
    weights, told = run(tmp_path)
    assert weights == tmp_path / LEARNED / "sapnet.safetensors"
    assert {path.name for path in weights.parent.iterdir()} == {weights.name, "sapnet.json", "curves.csv", RECORD}
    card = json.loads(weights.with_suffix(".json").read_text())
    assert card["recipe"]["classes"] == ["Cell"], "those of the points"
    assert card["recipe"]["mpp"] == 0.5, "the workflow's"
    assert card["metrics"] is None, "points judge nothing"
    assert told.said[0] == "learned: learning from the points of 1 slide"
    assert told.said[-1].startswith("learned: epoch 2 of 2, loss ")
    steps = told.started[0][-1] // 2
    assert told.started == [(LEARNED, "learn", done, 2 * steps) for done in (0, steps)]


def test_interrupted_learning_goes_on_to_the_same_bytes(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = run(tmp_path / "whole")
    finish = Training._finish

    def stop(training: Training, epoch: int, *facts: Any) -> None:
        finish(training, epoch, *facts)
        if epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_finish", stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped")
    weights, told = run(tmp_path / "stopped")
    assert [words[2] for words in told.started] == [told.started[0][-1] // 2], "the second epoch alone"
    assert weights.read_bytes() == whole.read_bytes()


def test_what_is_learned_is_not_learned_again(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, _ = run(tmp_path)
    monkeypatch.setattr(learning, "_train", lambda *_: pytest.fail("it was learned again"))
    again, told = run(tmp_path)
    assert (again, told.said) == (weights, [])


def test_changed_points_and_recipes_are_learned_anew(run: Any, tmp_path: Path) -> None:
    weights, _ = run(tmp_path)
    before = weights.read_bytes()
    write_points(tmp_path / "points" / "discs.geojson", [(x + 3, y) for x, y in CENTRES])
    _, told = run(tmp_path)
    assert told.said[0] == "learned: the points or their slides changed since; it is learned anew"
    _, told = run(tmp_path, workflow_of(learn__set=SMALL | {"proposer.model": "threshold", "epochs": 1}))
    assert told.said[0] == "learned: the recipe changed since; it is learned anew"
    assert told.said[-1].startswith("learned: epoch 1 of 1")
    assert weights.read_bytes() != before


def test_weights_that_are_not_what_was_written_are_made_again(run: Any, tmp_path: Path) -> None:
    weights, _ = run(tmp_path)
    before = weights.read_bytes()
    weights.write_bytes(before[:-1])
    assert run(tmp_path)[0].read_bytes() == before
    weights.unlink()
    assert run(tmp_path)[0].read_bytes() == before


def test_embeddings_are_kept_where_they_are_wanted(run: Any, tmp_path: Path) -> None:
    weights, _ = run(tmp_path / "out", embeddings=tmp_path / "kept", keep_scratch=True)
    assert list((tmp_path / "kept").rglob("*.safetensors"))
    assert (weights.parent / ".scratch" / "checkpoint.pt").exists()


def test_points_that_cannot_be_learned_from_are_one_line(run: Any, tmp_path: Path) -> None:
    write_points(tmp_path / "points" / "discs.geojson", CENTRES[:1])
    with pytest.raises(DatasetError, match="there is one point only of Cell"):
        run(tmp_path)


def test_a_shard_waits_for_the_one_that_learns(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "BEAT_SECONDS", 0.05)
    (tmp_path / LEARNED).mkdir()
    other = Lease(tmp_path / LEARNED / ".lease")
    threading.Timer(0.5, other.release).start()
    weights, told = run(tmp_path)
    assert told.said[:2] == [
        "learned: another shard is learning; waiting for it",
        "learned: learning from the points of 1 slide",
    ]
    assert weights.is_file()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learn__set": {"mpp": 0.25}}, r"learn\.set\.mpp: is not for the recipe to say\. Leave it out"),
        ({"learn__set": {"hold_out": 0.2}}, r"learn\.set\.hold_out: is not for the recipe to say"),
        ({"segment__weights": "a.safetensors"}, r"segment\.weights: weights are learned\. Leave the key out"),
        ({"segment__model": "lora-sam"}, r"segment\.model: a sapnet is learned, not a lora-sam"),
        ({"learn__set": {"instances": False}}, r"segment\.model: a sapnet-select is learned, not a sapnet"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(WorkflowError, match=said):
        Lesson.of(workflow_of(**changes))


def test_keys_of_the_recipe_are_checked_before_anything_runs() -> None:
    with pytest.raises(TrainingError, match="unknown key epoch"):
        Lesson.of(workflow_of(learn__set={"epoch": 1}))


def test_recipes_are_changed_key_by_key() -> None:
    recipe = Lesson.of(workflow_of(learn__set={"optimiser": {"rate": 1e-3}, "solo.kernel": 32})).recipe
    assert recipe.optimiser.rate == 1e-3
    assert recipe.optimiser.warm_up == 50
    assert recipe.context_factor == 2


def test_clicks_and_slides_are_looked_at_as_they_were_learned_from() -> None:
    workflow = workflow_of(export__qupath_origin="full", tiling__context_factor=3.0)
    clicks, objects = (make(workflow, Path("w.safetensors")) for make in (outlining, finding))
    assert clicks.name == OUTLINED
    assert clicks.mpp == objects.mpp == 0.5
    assert clicks.tiling.context_factor == 3
    assert clicks.export.qupath_origin == "full"
    assert clicks.segment is not None
    assert objects.segment is not None
    assert clicks.segment.weights == objects.segment.weights == "w.safetensors"


def test_results_follow_from_the_weights_and_not_from_how_or_where_they_were_learned() -> None:
    one = finding(workflow_of(), Path("here/w.safetensors"))
    other = finding(workflow_of(learn__set={"epochs": 9}), Path("there/w.safetensors"))
    assert workflow_facts(one) == workflow_facts(other)
    assert workflow_facts(one) != workflow_facts(finding(workflow_of(segment__min_iou=0.7), Path("here/w.safetensors")))


def test_retry_learns_again_what_has_changed(tmp_path: Path) -> None:
    workflow = workflow_of()
    asked = {"slides": ["/in/a.svs"], "prompts": "/in/points", "mpp": None, "roi": None}
    used = finding(workflow, Path("w.safetensors")).model_dump(mode="json", by_alias=True)
    (tmp_path / "run.json").write_text(json.dumps({"workflow": used, "threads": 1, "asked": asked}))
    slides, again, options = asked_before(tmp_path)
    assert (slides, again, options.prompts) == (["/in/a.svs"], workflow, Path("/in/points"))


def words(output: Path, *more: object) -> list[str]:
    given = ["-w", "points-to-instances", "-o", output, *more]
    return ["run", *map(str, given)]


@pytest.mark.parametrize("given", ["nothing", "folder"])
def test_no_points_anywhere_are_one_line(tools: Any, slide: Path, tmp_path: Path, given: str) -> None:
    output, folder = tmp_path / "out", tmp_path / "points"
    folder.mkdir()
    prompts = ["--prompts", folder] if given == "folder" else []
    done = tools.call_here(*words(output, slide, *prompts))
    assert done.code == 2
    line = done.err.splitlines()[-1]
    assert "points-to-instances: no slide has a file of points to learn from. Give --prompts" in line
    assert not output.exists()


def test_one_file_is_for_one_slide(tools: Any, slide: Path, tmp_path: Path) -> None:
    other = shutil.copy(slide, tmp_path / "other.tif")
    done = tools.call_here(*words(tmp_path / "out", slide, other, "--prompts", write_points(tmp_path / "p.geojson")))
    assert done.code == 2
    assert "one prompt file cannot serve several slides" in done.err


AREA = ("--roi", "0,0,200,300")


@pytest.mark.slow
def test_points_of_one_slide_find_objects_on_all(tools: Any, cluster: str, slide: Path, tmp_path: Path) -> None:
    """Learned, outlined and found, with one command; the next one repeats nothing, and changed points are noticed."""
    output, archive = tmp_path / "out", tmp_path / "slides"
    archive.mkdir()
    for name in ("discs", "other"):
        shutil.copy(slide, archive / f"{name}.tif")
    clicks = [(x, y) for x, y in CENTRES if x < 200 and y < 300]  # within the area that is looked at
    points = write_points(tmp_path / "points" / "discs.geojson", clicks).parent
    settings = {"mpp": 0.5, "tissue.method": "none", "segment.device": "cpu", "segment.min_iou": 0.0}
    settings |= {f"learn.set.{key}": value for key, value in (SMALL | {"epochs": 1}).items()}
    command = [*words(output, archive, "--prompts", points, "--cluster", cluster, *AREA), *tools.arguments(settings)]
    first = tools.call_here(*command)
    assert first.code == 0, first.err
    outlined = json.loads((output / LEARNED / OUTLINED / "discs" / "annotations.geojson").read_text())["features"]
    assert [one["properties"]["classification"]["name"] for one in outlined] == ["Cell"] * len(clicks)
    assert {path.name for path in output.iterdir() if path.is_dir()} == {LEARNED, "discs", "other"}
    run = json.loads((output / "run.json").read_text())
    weights = next(one for one in run["weights"] if one["role"] == "sapnet")
    assert weights["sha256"] == json.loads((output / LEARNED / RECORD).read_text())["sha256"]

    again = tools.call_here(*command)
    assert again.code == 0, again.err
    assert {event["event"] for event in again.events} == {"slides", "slide"}
    assert all(event["reason"] == "finished by an earlier run" for event in again.slides().values())
    status = json.loads(tools.call_here("status", output, "--json").out)
    assert sum(status["states"].values()) == 2
    assert tools.call_here("retry", output).out == f"{output}: all 2 slides are finished\n"

    write_points(points / "discs.geojson", [(x + 2, y + 2) for x, y in clicks])
    changed = tools.call_here(*command)
    assert changed.code == 0, changed.err
    said = [event["message"] for event in changed.events if event["event"] == "message"]
    assert "learned: the points or their slides changed since; it is learned anew" in said
    assert "other: the slide, settings or weights changed since; it is done anew" in said
    assert tools.call_here("clean", output, "--all").code == 0
    assert list(output.iterdir()) == []
