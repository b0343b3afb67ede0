"""Fingerprints, and JSON files that are whole or not there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import OutputError
from wsi_pipeline.files import beside, hash_file
from wsi_pipeline.run.provenance import fingerprint_of, host_facts, read_json, write_json
from wsi_pipeline.run.slide import _identity
from wsi_pipeline.workflow import load_workflow

PARTS = st.dictionaries(st.text(), st.integers() | st.text() | st.none() | st.lists(st.integers()), min_size=1)


@given(PARTS)
def test_fingerprint_does_not_depend_on_the_order_of_keys(parts: dict) -> None:
    turned = dict(reversed(parts.items()))
    assert fingerprint_of(parts) == fingerprint_of(turned)
    assert len(fingerprint_of(parts)) == 16


@given(PARTS, PARTS)
def test_fingerprint_differs_where_a_part_differs(one: dict, other: dict) -> None:
    assert (fingerprint_of(one) == fingerprint_of(other)) == (one == other)


def parts(**settings: object) -> dict:
    changed = {key.replace("__", "."): value for key, value in settings.items()}
    return {"slide": "x", "workflow": load_workflow("nuclei", changed).model_dump(mode="json", by_alias=True)}


@pytest.mark.parametrize(
    "settings",
    [
        {"tiling__batch": 3},
        {"stitch__shard": 1024},
        {"export__gzip": True},
        {"vectorize__simplify": "2 um"},
        {"recognise__classes": ["Tumor", "Stroma"]},
    ],
)
def test_how_work_is_cut_and_what_is_said_and_written_changes_the_fingerprint_but_no_object_id(settings: dict) -> None:
    assert fingerprint_of(parts(**settings)) != fingerprint_of(parts())
    assert _identity(parts(**settings)) == _identity(parts())


@pytest.mark.parametrize("settings", [{"mpp": 1}, {"segment__min_iou": 0.1}, {"tiling__overlap": "9 um"}])
def test_what_finds_other_objects_gives_other_ids(settings: dict) -> None:
    assert _identity(parts(**settings)) != _identity(parts())
    assert _identity(parts() | {"slide": "y"}) != _identity(parts())


def test_json_is_read_back_and_damage_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert read_json(path) is None
    write_json(path, {"µ": [1, None]})
    assert read_json(path) == {"µ": [1, None]}
    for damaged in (b'{"a": ', b"[1]", b"\xff\xfe", b""):
        path.write_bytes(damaged)
        assert read_json(path) is None


def fail_midway(path: Path) -> None:
    with beside(path) as partial:
        partial.write_text("half")
        raise ValueError("midway")


def test_file_is_whole_or_as_before(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(ValueError, match="midway"):
        fail_midway(path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    with beside(path) as partial:
        partial.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def test_file_that_cannot_be_written_names_itself(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/a\.json: cannot be written \(Not a directory\)"):
        write_json(tmp_path / "file" / "a.json", {})


def test_digest_and_host(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert hash_file(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    facts = host_facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["libraries"].keys() >= {"torch", "zarr", "distributed"}
