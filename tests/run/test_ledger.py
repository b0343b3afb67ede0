"""The ledger remembers what is finished, for one run at a time."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import OutputError
from wsi_pipeline.run.ledger import Ledger, SlideRow


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    yield ledger
    ledger.close()


def test_slide_is_pending_until_it_is_told_otherwise_and_keeps_its_fingerprint(ledger: Ledger) -> None:
    ledger.add("a", "/slides/a.svs")
    assert ledger.slide("a") == SlideRow("a", "/slides/a.svs", None, "pending", None)
    ledger.set_state("a", "running", fingerprint="123")
    ledger.set_state("a", "failed", reason="no such file")
    assert ledger.slide("a") == SlideRow("a", "/slides/a.svs", "123", "failed", "no such file")
    ledger.set_state("a", "done")
    assert ledger.slide("a") == SlideRow("a", "/slides/a.svs", "123", "done", None)


def test_adding_a_known_slide_changes_nothing(ledger: Ledger) -> None:
    ledger.add("a", "/slides/a.svs")
    ledger.set_state("a", "done", fingerprint="123")
    ledger.add("a", "/slides/a.svs")
    ledger.add("b", "/slides/a.svs")
    assert [row.id for row in ledger.slides()] == ["a"]
    assert ledger.slide("a").state == "done"
    assert ledger.id_of("/slides/a.svs") == "a"
    assert ledger.id_of("/slides/b.svs") is None


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.integers(0, 50), st.dictionaries(st.text(), JSON, max_size=4), max_size=8))
def test_facts_of_finished_tasks_come_back_in_the_order_of_their_numbers(facts: dict[int, Any]) -> None:
    ledger = _in_memory()
    for number, values in facts.items():
        ledger.finish("a", "segment", number, values)
        ledger.finish("b", "segment", number, {})
        ledger.finish("a", "stitch", number, {})
    found = ledger.finished("a", "segment")
    assert found == facts
    assert list(found) == sorted(facts)


def _in_memory() -> Ledger:
    """A ledger without files, since hypothesis asks for hundreds."""
    ledger = Ledger.__new__(Ledger)
    ledger.path, ledger._db = Path(":memory:"), sqlite3.connect(":memory:")
    from wsi_pipeline.run import ledger as module

    ledger._db.executescript(module._SCHEMA)
    return ledger


def test_tasks_of_one_slide_are_forgotten_but_for_the_stages_to_keep(ledger: Ledger) -> None:
    for slide in "ab":
        for stage in ("segment", "seams", "stitch"):
            ledger.finish(slide, stage, 0, {})
    ledger.forget_tasks("a", keep=("segment", "seams"))
    assert [bool(ledger.finished("a", stage)) for stage in ("segment", "seams", "stitch")] == [True, True, False]
    ledger.forget_tasks("a")
    assert not ledger.finished("a", "segment")
    assert ledger.finished("b", "stitch") == {0: {}}


def test_everything_is_there_after_the_process_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    script = f"""
import os, signal
from pathlib import Path
from wsi_pipeline.run.ledger import Ledger
ledger = Ledger(Path({str(path)!r}))
ledger.add("a", "/a.svs")
ledger.finish("a", "segment", 7, {{"objects": 3}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    ledger = Ledger(path)  # the lock went with the process
    assert ledger.finished("a", "segment") == {7: {"objects": 3}}
    ledger.close()


def test_second_run_is_kept_out_and_readers_are_not(ledger: Ledger) -> None:
    ledger.add("a", "/a.svs")
    with pytest.raises(OutputError, match="another run is using this folder"):
        Ledger(ledger.path)
    with sqlite3.connect(f"file:{ledger.path}?mode=ro", uri=True) as reader:
        assert reader.execute("SELECT state FROM slides").fetchall() == [("pending",)]
    ledger.close()
    Ledger(ledger.path).close()


def test_file_that_is_no_ledger_is_refused_and_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_text("a text that is no database at all, and long enough to be looked at")
    with pytest.raises(OutputError, match="the ledger cannot be used"):
        Ledger(path)
    path.unlink()
    Ledger(path).close()


def test_write_that_fails_says_so(ledger: Ledger) -> None:
    ledger._db.execute("PRAGMA query_only = 1")
    with pytest.raises(OutputError, match=r"ledger\.sqlite: the ledger cannot be written"):
        ledger.add("a", "/a.svs")
