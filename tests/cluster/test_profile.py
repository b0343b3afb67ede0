"""A lab's profile: what is wrong with it is one line, and what it leaves out is as shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from wsi_pipeline.cluster import profile as profiles
from wsi_pipeline.cluster.jobs import SYSTEMS
from wsi_pipeline.cluster.profile import KubernetesProfile, Profile, Range, load_profile, shipped_profiles, shipped_text
from wsi_pipeline.errors import WsiPipelineError


@pytest.fixture(autouse=True)
def no_file_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    file = tmp_path / "config" / "cluster.yaml"
    monkeypatch.setattr(profiles, "user_file", lambda: file)
    return file


def written(path: Path, data: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return path


def test_every_system_has_a_profile() -> None:
    assert set(shipped_profiles()) == {*SYSTEMS, "kubernetes"}


@pytest.mark.parametrize("system", SYSTEMS)
def test_shipped_profile_is_valid(system: str) -> None:
    profile = load_profile(system, None, Profile)
    assert profile.security
    assert profile.status
    assert profile.stagger < profile.walltime - profile.lifetime


def test_shipped_kubernetes_profile_is_valid() -> None:
    assert load_profile("kubernetes", None, KubernetesProfile).workers == 4


def test_file_changes_only_the_keys_it_has(tmp_path: Path) -> None:
    path = written(tmp_path / "a.yaml", {"slurm": {"walltime": "90min", "gpu": {"jobs": 2}}})
    changed, shipped = load_profile("slurm", path, Profile), load_profile("slurm", None, Profile)
    assert changed.walltime == 5400
    assert changed.gpu == shipped.gpu.model_copy(update={"jobs": 2})
    assert changed.model_copy(update={"walltime": shipped.walltime, "gpu": shipped.gpu}) == shipped


def test_number_of_workers_can_become_a_range(tmp_path: Path) -> None:
    path = written(tmp_path / "a.yaml", {"pbs": {"workers": {"minimum": 0, "maximum": 40}}})
    assert load_profile("pbs", path, Profile).workers == Range(minimum=0, maximum=40)


def test_users_own_file_is_found_and_may_be_about_another_system(no_file_of_the_user: Path) -> None:
    written(no_file_of_the_user, {"lsf": {"cores": 3}})
    assert load_profile("lsf", None, Profile).cores == 3
    assert load_profile("slurm", None, Profile).cores == 4


def test_shipped_text_is_what_the_defaults_are_read_from() -> None:
    assert yaml.safe_load(shipped_text())["slurm"]["status"] == load_profile("slurm", None, Profile).status


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"slurm": {"cpus": 4}}, "slurm: unknown key cpus"),
        ({"slurm": {"walltime": 43200}}, "walltime: 43200 needs the unit s, min, h or d, as in 24h"),
        ("slurm: {walltime: 12:00:00}", "walltime: 43200 needs the unit"),
        ({"slurm": {"memory": "16"}}, "memory: '16' needs a unit, as in 16GB"),
        ({"slurm": {"walltime": "4min"}}, "lifetime_margin has to be longer than stagger"),
        ({"slurm": {"workers": {"minimum": 5, "maximum": 4}}}, "minimum is larger than maximum"),
        ({"slurm": {"gpu": {"jobs": -1}}}, "gpu.jobs"),
        ({"slrum": {}}, "knows no system slrum"),
        ({"slurm": 3}, "slurm is not a section"),
        ({"pbs": {"cores": 3}}, "holds no section slurm"),
        ("[1]", "holds no cluster profile"),
        ("slurm: {", "invalid YAML in line 1"),
    ],
)
def test_mistake_is_one_line_that_names_file_and_key(data: Any, said: str, tmp_path: Path) -> None:
    path = written(tmp_path / "mine.yaml", data)
    with pytest.raises(WsiPipelineError) as caught:
        load_profile("slurm", path, Profile)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
