"""The ledger and the journals remember what is finished, however the process that wrote them ended."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.errors import OutputError, StorageError
from wsi_pipeline.run.ledger import Journal, Ledger, SlideRow, read_ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    yield ledger
    ledger.close()


def test_slide_is_pending_until_it_is_told_otherwise_and_keeps_its_fingerprint(ledger: Ledger) -> None:
    ledger.add("a", "/slides/a.svs")
    assert ledger.slide("a") == SlideRow("a", "/slides/a.svs", None, "pending", None)
    ledger.set_state("a", "running", fingerprint="123")
    ledger.set_state("a", "failed", reason="no such file")
    assert ledger.slide("a") == SlideRow("a", "/slides/a.svs", "123", "failed", "no such file")
    ledger.set_state("a", "done", seconds=1.5, tiles=12, objects=3)
    assert ledger.slide("a") == SlideRow("a", "/slides/a.svs", "123", "done", None, 1.5, 12, 3)


def test_adding_a_known_slide_changes_nothing(ledger: Ledger) -> None:
    ledger.add("a", "/slides/a.svs")
    ledger.set_state("a", "done", fingerprint="123")
    ledger.add("a", "/slides/a.svs")
    ledger.add("b", "/slides/a.svs")
    assert [row.id for row in ledger.slides()] == ["a"]
    assert ledger.slide("a").state == "done"
    assert ledger.id_of("/slides/a.svs") == "a"
    assert ledger.id_of("/slides/b.svs") is None


STATES = st.sampled_from(["running", "done", "empty", "failed"])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), STATES, st.none() | st.text(max_size=5)), max_size=12), st.data())
def test_whatever_is_cut_off_the_end_the_lines_before_count(
    tmp_path_factory: pytest.TempPathFactory, told: list, data: Any
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    ledger = Ledger(path)
    history = [list(ledger.slides())]
    sizes = [path.stat().st_size]
    for slide in "abc":
        ledger.add(slide, f"/{slide}.svs")
        history.append(ledger.slides())
        sizes.append(path.stat().st_size)
    for slide, state, reason in told:
        ledger.set_state(slide, state, reason=reason)
        history.append(ledger.slides())
        sizes.append(path.stat().st_size)
    ledger.close()
    cut = data.draw(st.integers(0, sizes[-1]))
    path.write_bytes(path.read_bytes()[:cut])
    # a last line that lacks its end alone is whole all the same
    whole = max(index for index, size in enumerate(sizes) if size <= cut + 1)
    assert sorted(read_ledger(path), key=lambda row: row.id) == history[whole]
    again = Ledger(path)  # and what is added then does not run into what was cut
    assert again.slides() == history[whole]
    again.add("z", "/z.svs")
    again.close()
    assert [row.id for row in read_ledger(path)][-1:] == ["z"]


def test_lines_that_are_damaged_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    good = json.dumps({"id": "a", "path": "/a.svs", "state": "done"})
    path.write_bytes(b"\xff\xfe{nonsense\n[1, 2]\n" + good.encode() + b'\n{"id": "b"')
    assert list(read_ledger(path)) == [SlideRow("a", "/a.svs", state="done")]


def test_opening_makes_the_file_short_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.add("a", "/a.svs")
    for _ in range(50):
        ledger.set_state("a", "running")
    ledger.close()
    assert len(path.read_text().splitlines()) == 51
    Ledger(path).close()
    assert len(path.read_text().splitlines()) == 1


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 50), st.dictionaries(st.text(), JSON, max_size=4), max_size=8))
def test_facts_of_finished_tasks_come_back_in_the_order_of_their_numbers(
    tmp_path_factory: pytest.TempPathFactory, facts: dict[int, Any]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "tasks.jsonl"
    journal = Journal(path)
    for number, values in facts.items():
        journal.finish("segment", number, values)
        journal.finish("stitch", number, {})
    journal.close()
    for _ in range(2):  # opening it again loses nothing
        journal = Journal(path)
        found = journal.finished("segment")
        assert found == facts
        assert list(found) == sorted(facts)
        journal.close()


def test_tasks_of_stages_that_do_not_count_any_more_are_forgotten_for_good(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    journal = Journal(path)
    for stage in ("segment", "seams", "stitch"):
        journal.finish(stage, 0, {})
    journal.close()
    Journal(path, keep=("segment", "seams")).close()
    journal = Journal(path)
    assert [bool(journal.finished(stage)) for stage in ("segment", "seams", "stitch")] == [True, True, False]
    journal.close()


def test_everything_is_there_after_the_process_was_killed(tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from wsi_pipeline.run.ledger import Journal, Ledger
ledger = Ledger(Path({str(tmp_path / "ledger.jsonl")!r}))
ledger.add("a", "/a.svs")
journal = Journal(Path({str(tmp_path / "tasks.jsonl")!r}))
journal.finish("segment", 7, {{"objects": 3}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    assert [row.id for row in read_ledger(tmp_path / "ledger.jsonl")] == ["a"]
    journal = Journal(tmp_path / "tasks.jsonl")
    assert journal.finished("segment") == {7: {"objects": 3}}
    journal.close()


def test_ledger_that_cannot_be_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"ledger\.jsonl: cannot be read \(Is a directory\)"):
        Ledger(tmp_path / "ledger.jsonl")


def test_full_disk_leaves_whole_lines_and_says_that_it_may_pass(ledger: Ledger) -> None:
    ledger.add("a", "/a.svs")
    before = ledger.path.read_bytes()
    lines = ledger._lines
    file = lines._file

    class Full:
        written = False

        def __getattr__(self, name: str) -> Any:
            return getattr(file, name)

        def write(self, line: bytes) -> int:
            if self.written:
                raise OSError(28, "No space left on device")
            self.written = True
            return file.write(line[:10])

    lines._file = Full()
    with pytest.raises(StorageError, match=r"ledger\.jsonl: cannot be written \(No space left on device\)"):
        ledger.add("b", "/b.svs")
    lines._file = file
    assert ledger.path.read_bytes() == before
    assert ledger.slide("b") is None
    ledger.add("b", "/b.svs")
    assert [row.id for row in read_ledger(ledger.path)] == ["a", "b"]
