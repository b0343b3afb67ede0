"""``wsi-pipeline cluster``: what is asked of a cluster, and whether it does what a run needs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer

from wsi_pipeline.cli import shared_options as shared
from wsi_pipeline.errors import EXIT_BAD_INPUT, WsiPipelineError

if TYPE_CHECKING:
    from distributed import Client

    from wsi_pipeline.cluster.probe import Place
    from wsi_pipeline.workflow import Workflow

app = typer.Typer(no_args_is_help=True, help="Try a cluster, and see what it is asked for.")

Cluster = Annotated[
    str, typer.Option("--cluster", help="slurm, pbs, lsf, sge, oar, htcondor, kubernetes, local or an address.")
]


@app.command()
def profiles() -> None:
    """Print the default profile of every system, and where a profile of your own may lie.

    Example: `wsi-pipeline cluster profiles`
    """
    from wsi_pipeline.cluster.profile import shipped_text, user_file

    typer.echo(f"# Your own profile: {user_file()}\n")
    typer.echo(shipped_text(), nl=False)


@app.command()
def script(cluster: Cluster, profile: shared.Profile = None, threads: shared.Threads = 1) -> None:
    """Print the job scripts that a run would submit; what is known later stands in capitals.

    Example: `wsi-pipeline cluster script --cluster slurm --cluster-profile cluster.yaml`
    """
    from wsi_pipeline.cluster.connect import KUBERNETES
    from wsi_pipeline.cluster.jobs import SYSTEMS, scripts
    from wsi_pipeline.cluster.profile import Profile, load_profile

    if cluster == KUBERNETES:
        typer.echo(_manifests(profile, threads), nl=False)
        return
    if cluster not in SYSTEMS:
        raise WsiPipelineError(
            "has no job scripts", where=f"--cluster {cluster}", fix=f"Give {', '.join(SYSTEMS)} or {KUBERNETES}"
        )
    typer.echo("\n".join(scripts(cluster, load_profile(cluster, profile, Profile), threads)), nl=False)


@app.command()
def check(
    cluster: Cluster = "local",
    profile: shared.Profile = None,
    threads: shared.Threads = 1,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder that runs will write to; workers have to see it.")
    ] = Path(),
    wait: Annotated[float, typer.Option("--wait", min=0, help="Minutes to wait for a worker.")] = 30,
) -> None:
    """Start one worker, let it segment one tile, and report what it is and has.

    Example: `wsi-pipeline cluster check --cluster slurm --output /shared/results`

    Exit code: 0 all is well, 2 something is wrong.
    """
    from wsi_pipeline.cluster.connect import connect

    asked = time.monotonic()
    with connect(cluster, profile=profile, workers=1, threads=threads, say=typer.echo) as client:
        _wait_for_worker(client, cluster, wait)
        started = time.monotonic() - asked
        healthy = [_report(answer) for answer in _answers(client, output, started)]
        if _asks_for_gpu(cluster, profile):
            healthy.append(_report(_gpu_answer(client, output, wait)))
    if not all(healthy):
        raise typer.Exit(EXIT_BAD_INPUT)


@dataclass(frozen=True, slots=True)
class Answer:
    """One line of the report; ``wrong`` says what to do about it."""

    name: str
    said: str
    wrong: str | None = None


def _answers(client: Client, output: Path, started: float) -> Iterator[Answer]:
    from distributed import KilledWorker

    from wsi_pipeline.cluster.probe import look_around
    from wsi_pipeline.run.provenance import host_facts
    from wsi_pipeline.workflow import load_workflow

    with _question(output) as question:
        place: Place = client.submit(look_around, question, pure=False).result()
        output_said = _output_answer(place, question)
    yield Answer("worker", f"on {place.host}{f', job {place.job}' if place.job else ''}, {started:.1f} s after asking")
    yield Answer("resources", f"{place.cores} cores, {place.memory / 1e9:.1f} GB, {place.gpu or 'no GPU'}")
    yield _software_answer(host_facts(), client.submit(host_facts, pure=False).result())
    yield output_said
    try:
        seconds = client.submit(segment_tile, load_workflow("nuclei"), pure=False).result()
    except KilledWorker:
        yield Answer("tile", "the worker died of it", f"Give it more memory than {place.memory / 1e9:.1f} GB")
    except Exception as error:  # what a node lacks shows here, whatever library misses it
        line = " ".join(str(error).split())
        yield Answer("tile", f"{type(error).__name__}: {line}", "Install wsi-pipeline on the nodes as it is here")
    else:
        yield Answer("tile", f"read in {seconds['read']:.2f} s, segmented in {seconds['segmented']:.2f} s")


def _asks_for_gpu(cluster: str, path: Path | None) -> bool:
    from wsi_pipeline.cluster.jobs import SYSTEMS
    from wsi_pipeline.cluster.profile import Profile, load_profile

    return cluster in SYSTEMS and load_profile(cluster, path, Profile).gpu.jobs > 0


def _gpu_answer(client: Client, output: Path, minutes: float) -> Answer:
    from wsi_pipeline.cluster.probe import look_around
    from wsi_pipeline.cluster.worker import GPU

    with _question(output) as question:
        asked = client.submit(look_around, question, resources={GPU: 1}, pure=False)
        try:
            place: Place = asked.result(timeout=60 * minutes)
        except TimeoutError:
            return Answer("GPU job", f"none came in {minutes:g} minutes", "See the queue, or give a longer --wait")
    if place.gpu is None:
        return Answer("GPU job", f"there is no GPU for it on {place.host}", "Correct gpu.directives in the profile")
    return Answer("GPU job", f"{place.gpu} on {place.host}")


def _report(answer: Answer) -> bool:
    if answer.wrong is None:
        typer.echo(f"ok    {answer.name}: {answer.said}")
    else:
        typer.echo(f"FAIL  {answer.name}: {answer.said}. {answer.wrong}.")
    return answer.wrong is None


def _wait_for_worker(client: Client, cluster: str, minutes: float) -> None:
    try:
        client.wait_for_workers(1, timeout=60 * minutes)
    except TimeoutError:
        raise WsiPipelineError(
            f"no worker came in {minutes:g} minutes",
            where=cluster,
            fix="See the queue and the lines above, or give a longer --wait",
        ) from None


@contextmanager
def _question(output: Path) -> Iterator[Path]:
    """A file in the output folder that workers shall find."""
    from wsi_pipeline.cluster.probe import ANSWER
    from wsi_pipeline.errors import OutputError

    question = output.absolute() / f".wsi-pipeline-{uuid4().hex[:8]}.question"
    try:
        output.mkdir(parents=True, exist_ok=True)
        question.write_text(uuid4().hex, encoding="ascii")
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error.strerror or error})", where=output, fix="Choose another --output folder"
        ) from None
    try:
        yield question
    finally:
        question.unlink()
        question.with_suffix(ANSWER).unlink(missing_ok=True)


def _output_answer(place: Place, question: Path) -> Answer:
    from wsi_pipeline.cluster.probe import ANSWER

    answer, asked = question.with_suffix(ANSWER), question.read_text(encoding="ascii")
    fix = "Give an --output that this machine and the nodes see under the same path"
    if not place.sees_output:
        return Answer("output", f"{place.host} cannot read or write {question.parent}", fix)
    if not answer.is_file() or answer.read_text(encoding="ascii") != asked:
        return Answer("output", f"what {place.host} writes to {question.parent} does not arrive here", fix)
    return Answer("output", f"{question.parent} is seen from {place.host}")


def _software_answer(here: dict[str, Any], there: dict[str, Any]) -> Answer:
    ours, theirs = _versions(here), _versions(there)
    differ = [f"{name} {theirs[name]} instead of {ours[name]}" for name in ours if theirs[name] != ours[name]]
    if differ:
        return Answer("software", f"the worker has {', '.join(differ)}", "Use one environment everywhere")
    return Answer("software", f"wsi-pipeline {ours['wsi-pipeline']}, Python {ours['Python']}, libraries as here")


def _versions(facts: dict[str, Any]) -> dict[str, str]:
    return {"wsi-pipeline": facts["wsi_pipeline"], "Python": facts["python"]} | facts["libraries"]


def segment_tile(workflow: Workflow) -> dict[str, float]:
    """Read one tile of the slide that ships with the package and run the segment stage's model on it.

    Returns:
        Seconds until it was ``read`` and until it was ``segmented``, with the model there already.
    """
    import numpy as np

    from wsi_pipeline.geometry import Region
    from wsi_pipeline.models.roles import PairImages, PromptBatch
    from wsi_pipeline.run.worker_models import prepare_models, shared_model
    from wsi_pipeline.slides.slide import open_slide

    if workflow.segment is None:
        raise ValueError(f"the workflow {workflow.name} has no segment stage")
    facts = prepare_models(workflow, {})
    model, size = shared_model(workflow.segment, facts["dtypes"]["segment"]), facts["input_size"]
    begun = time.perf_counter()
    with open_slide(Path(__file__).parents[1] / "data" / "CMU-1-Small-Region.svs") as slide:
        image = slide.read(Region(560, 1880, size, size), slide.info.resolution.x).image[None]
    read = time.perf_counter()
    embedding = model.encode(PairImages(image, image if model.uses_low_patch else None))
    box = np.array([[size / 4, size / 4, size / 2, size / 2]], np.float32)
    model.decode(embedding, PromptBatch(np.zeros(1, np.int64), boxes=box))
    return {"read": read - begun, "segmented": time.perf_counter() - read}


def _manifests(path: Path | None, threads: int) -> str:
    import yaml

    from wsi_pipeline.cluster.kubernetes import gpu_pods, manifest
    from wsi_pipeline.cluster.profile import KubernetesProfile, load_profile

    profile = load_profile("kubernetes", path, KubernetesProfile)
    count = profile.workers if isinstance(profile.workers, int) else profile.workers.minimum
    parts = [manifest(profile, threads, count), *([gpu_pods(profile, threads)] if profile.gpu.pods else [])]
    return yaml.safe_dump_all(parts, sort_keys=False)
