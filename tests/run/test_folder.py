"""An output folder is one run's, or that of the shards of one archive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import OutputError, WorkflowError
from wsi_pipeline.run.folder import Shard, open_folder, runs_now, slides_in
from wsi_pipeline.run.ledger import Ledger
from wsi_pipeline.run.provenance import write_json
from wsi_pipeline.workflow import load_workflow


@contextmanager
def opened(path: Path, shard: str | None = None, workflow: str = "tissue", overwrite: bool = False) -> Iterator[Ledger]:
    part = Shard.parse(shard) if shard else None
    with open_folder(
        path, load_workflow(workflow), shard=part, overwrite=overwrite, lost=lambda: None, say=print
    ) as ledger:
        yield ledger


@given(st.integers(1, 40), st.integers(0, 200))
def test_every_slide_is_of_exactly_one_shard(count: int, place: int) -> None:
    assert [Shard(index, count).holds(place) for index in range(1, count + 1)].count(True) == 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/", "/4", "a/b", "-1/4", "1/2/3", "1.5/4", ""])
def test_what_is_no_shard_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(WorkflowError, match=r"--shard"):
        Shard.parse(text)


def test_shards_share_a_folder_and_keep_a_whole_run_out(tmp_path: Path) -> None:
    with opened(tmp_path, "1/2") as one, opened(tmp_path, "2/2") as two:
        assert one.path != two.path
        assert runs_now(tmp_path)
        for other in (None, "1/3"):
            with pytest.raises(OutputError, match="another run is using this folder, with another --shard"):
                opened(tmp_path, other).__enter__()
        with pytest.raises(OutputError, match=r"another run is using this folder \(process"):
            opened(tmp_path, "1/2").__enter__()
    assert not runs_now(tmp_path)
    with opened(tmp_path), pytest.raises(OutputError, match="with another --shard"):
        opened(tmp_path, "1/2").__enter__()
    assert not list(tmp_path.glob(".lease*"))


def test_of_what_several_ledgers_say_of_a_slide_what_got_further_counts(tmp_path: Path) -> None:
    states = {None: {"a": "failed", "b": "done"}, "1/2": {"a": "done", "b": "pending"}, "2/2": {"c": "running"}}
    for shard, told in states.items():
        with opened(tmp_path, shard) as ledger:
            for slide, state in told.items():
                ledger.add(slide, f"/{slide}.svs")
                ledger.set_state(slide, state)
    assert {row.id: row.state for row in slides_in(tmp_path)} == {"a": "done", "b": "done", "c": "running"}


def test_results_of_another_workflow_are_not_mixed_with_its_own(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"workflow": {"name": "nuclei"}})
    with pytest.raises(OutputError, match="holds results of the workflow nuclei, not tissue"):
        opened(tmp_path).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    with opened(tmp_path, overwrite=True) as ledger:
        assert ledger.slides() == []


def test_lease_goes_when_the_ledger_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").mkdir()
    with pytest.raises(OutputError, match="cannot be read"):
        opened(tmp_path).__enter__()
    assert not runs_now(tmp_path)
