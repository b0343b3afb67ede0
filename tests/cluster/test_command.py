"""`wsi-pipeline cluster` as people call it, and the page that tells them how."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from wsi_pipeline.cluster.jobs import SYSTEMS
from wsi_pipeline.cluster.profile import KubernetesProfile, Profile, load_profile

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "cluster.md"


def fences(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def page_profile(tmp_path: Path) -> Path:
    """The page's profiles as one file."""
    path = tmp_path / "cluster.yaml"
    path.write_text("\n".join(fences("yml")))
    return path


def test_profiles_on_the_page_are_valid(page_profile: Path) -> None:
    for system in yaml.safe_load(page_profile.read_text()):
        load_profile(system, page_profile, Profile if system in SYSTEMS else KubernetesProfile)


@pytest.mark.parametrize(("number", "system"), list(enumerate(["slurm", "pbs", "lsf"])))
def test_scripts_on_the_page_are_those_the_command_prints(
    tools: Any, page_profile: Path, number: int, system: str
) -> None:
    printed = tools.call_here("cluster", "script", "--cluster", system, "--cluster-profile", page_profile)
    assert printed.code == 0, printed.err
    assert printed.out == fences("bash")[number]


def test_profiles_are_printed_with_their_comments(tools: Any) -> None:
    printed = tools.call_here("cluster", "profiles")
    assert printed.out.startswith("# Your own profile: ")
    assert "# longest time a job may run" in printed.out
    assert set(SYSTEMS) < set(yaml.safe_load(printed.out))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["script", "--cluster", "local"], "--cluster local: has no job scripts"),
        (["script", "--cluster", "slurm", "--cluster-profile", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["check", "--cluster", "slrum"], "slrum: is no cluster"),
        (["check", "--cluster", "nonsense:"], "nonsense:: no Dask scheduler answers"),
    ],
)
def test_mistake_is_one_line(tools: Any, words: list[str], said: str) -> None:
    result = tools.call_here("cluster", *words)
    assert result.code == 2
    assert said in result.err
    assert len(result.err.splitlines()) == 1


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "out"
    assert list((tmp_path / "out").iterdir()) == [], "the check left files behind"


@pytest.mark.slow
def test_check_reports_what_a_worker_is_and_does(tools: Any, output: Path) -> None:
    result = tools.call_here("cluster", "check", "--output", output)
    assert result.code == 0, result.out + result.err
    lines = result.out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"ok    {name}" for name in ("worker", "resources", "software", "output", "tile")
    ]
    assert re.search(r"tile: read in \d+\.\d\d s, segmented in \d+\.\d\d s$", lines[-1])


def test_check_says_what_is_wrong(output: Path) -> None:
    from wsi_pipeline.cli import cluster
    from wsi_pipeline.cluster.probe import Place
    from wsi_pipeline.run.provenance import host_facts

    facts = host_facts()
    other = facts | {"python": "2.7", "libraries": facts["libraries"] | {"numpy": "0.1"}}
    place = Place("node7", None, 4, 0, None, sees_output=False)
    answer = cluster._software_answer(facts, other)
    assert (
        answer.said
        == f"the worker has Python 2.7 instead of {facts['python']}, numpy 0.1 instead of "
        + (facts["libraries"]["numpy"])
    )
    assert answer.wrong
    with cluster._question(output) as question:
        assert cluster._output_answer(place, question).said == f"node7 cannot read or write {output}"
        assert stat.S_ISREG(question.stat().st_mode)
