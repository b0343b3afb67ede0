"""What is asked for is found, told apart and checked as a whole."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import ManifestError, SlideError, WorkflowError
from wsi_pipeline.run.requests import SlideRequest, read_requests, workflow_keys
from wsi_pipeline.workflow import Workflow, load_workflow

NUCLEI, REGIONS = partial(load_workflow, "nuclei"), partial(load_workflow, "regions")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A folder of empty slides ``a.svs`` to ``d.svs``, and files that are none."""
    for name in ("a.svs", "b.svs", "c.svs", "d.svs", "notes.txt", "mask.png", "boxes.geojson", "deep/a.svs"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "1.dcm").touch()
    return tmp_path


def write_csv(folder: Path, *lines: str, name: str = "slides.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_parquet(folder: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    path = folder / "slides.parquet"
    pyarrow.parquet.write_table(pyarrow.table(dict(columns)), path)
    return path


def refusal(path: Path, workflow: Any = NUCLEI) -> str:
    """What is said about a manifest that is refused."""
    with pytest.raises(ManifestError) as caught:
        read_requests([path], workflow)
    return str(caught.value)


def test_files_folders_and_globs_are_slides_once_each(archive: Path) -> None:
    given = [archive / "b.svs", f"{archive}/*.svs", str(archive / "dicom")]
    found = [Path(one.source).name for one in read_requests(given, NUCLEI)]
    assert found == ["a.svs", "b.svs", "c.svs", "d.svs", "dicom"]


def test_file_that_is_missing_is_left_to_its_turn(archive: Path) -> None:
    assert read_requests([archive / "gone.svs"], NUCLEI) == [SlideRequest(str(archive / "gone.svs"))]


def test_relative_path_becomes_absolute(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(archive)
    assert read_requests(["a.svs"], NUCLEI)[0].source == str(archive / "a.svs")


def test_folder_without_slides_is_a_mistake(archive: Path) -> None:
    with pytest.raises(SlideError, match="holds no slide"):
        read_requests([archive / "folder"], NUCLEI)


def test_links_to_one_file_are_slides_of_their_own(archive: Path) -> None:
    (archive / "folder" / "x.svs").symlink_to(archive / "a.svs")
    (archive / "folder" / "y.svs").symlink_to(archive / "a.svs")
    assert len(read_requests([archive / "folder"], NUCLEI)) == 2


def test_nothing_is_written_beside_slides(archive: Path) -> None:
    manifest = write_csv(archive, "path", "a.svs", "b.svs")
    before = sorted((path, path.stat().st_mtime_ns) for path in archive.rglob("*"))
    read_requests([archive, manifest], NUCLEI)
    assert sorted((path, path.stat().st_mtime_ns) for path in archive.rglob("*")) == before


def test_manifest_says_everything_about_a_slide(archive: Path) -> None:
    manifest = write_csv(
        archive,
        "path,id,mpp,prompts,tissue,segment.model,segment.min_iou",
        "a.svs,case-1,0.25,boxes.geojson,mask.png,sam,0.7",
        f"{archive}/b.svs,,,,,,",
    )
    first, second = read_requests([manifest], REGIONS, mpp=0.5)
    assert first == SlideRequest(
        str(archive / "a.svs"),
        "case-1",
        0.25,
        archive / "boxes.geojson",
        (
            ("segment.min_iou", 0.7),
            ("segment.model", "sam"),
            ("tissue.mask", str(archive / "mask.png")),
            ("tissue.method", "mask"),
        ),
    )
    assert second == SlideRequest(str(archive / "b.svs"), mpp=0.5)
    assert REGIONS(dict(first.settings)).tissue.mask == archive / "mask.png"


def test_parquet_says_the_same_as_csv(archive: Path) -> None:
    csv = write_csv(archive, "path,id,mpp,tiling.batch,export.gzip", "a.svs,x,0.25,4,true", "b.svs,,,,")
    table = {
        "path": ["a.svs", "b.svs"],
        "id": ["x", None],
        "mpp": [0.25, float("nan")],
        "tiling.batch": [4, None],
        "export.gzip": [True, None],
    }
    assert read_requests([write_parquet(archive, table)], NUCLEI) == read_requests([csv], NUCLEI)


def test_lists_of_a_cell_can_be_compared_and_used(archive: Path) -> None:
    manifest = write_csv(archive, "path,prompts.roi_classes", 'a.svs,"[Region*, Tumour]"')
    (one,) = read_requests([manifest], REGIONS)
    assert hash(one.settings)
    assert REGIONS(dict(one.settings)).prompts.roi_classes == ["Region*", "Tumour"]


def test_text_of_a_spreadsheet_is_read(archive: Path) -> None:
    manifest = archive / "slides.csv"
    manifest.write_bytes("\ufeffpath,id\r\na.svs,007\r\n\r\n b.svs , \r\n".encode())
    assert [(Path(one.source).name, one.id) for one in read_requests([manifest], NUCLEI)] == [
        ("a.svs", "007"),
        ("b.svs", None),
    ]


def test_line_of_a_manifest_counts_more_than_the_slide_alone(archive: Path) -> None:
    manifest = write_csv(archive, "path,id", "b.svs,mine")
    requests = read_requests([archive, manifest], NUCLEI)
    assert [(Path(one.source).name, one.id) for one in requests] == [
        ("a.svs", None),
        ("c.svs", None),
        ("d.svs", None),
        ("dicom", None),
        ("mask.png", None),
        ("b.svs", "mine"),
    ]


def test_everything_wrong_is_said_at_once_with_its_line(archive: Path) -> None:
    manifest = write_csv(
        archive,
        "path,id,mpp,segment.modle,colour,prompts,segment.min_iou",
        "gone.svs,one,0.25,,,,",
        "notes.txt,two,much,,,,",
        "folder,three,0.01,,,,",
        "a.svs,one,nan,,,,",
        "./a.svs,ONE,,,,,",
        ",four,,,,,",
        "b.svs,../out,,,,,",
        "c.svs,,,,,boxes.geojson,",
        "d.svs,,,,,none.geojson,3",
        "dicom,run.json,,,,,,,",
    )
    said = refusal(manifest)
    assert len(said.splitlines()) == 1
    for problem in (
        "slides.csv: ",
        "header: unknown column segment.modle, did you mean segment.model?",
        "header: unknown column colour",
        f"line 2: {archive}/gone.svs is missing",
        f"line 3: {archive}/notes.txt is no slide by its name",
        "line 3: mpp much is no number",
        f"line 4: {archive}/folder is a folder and no slide",
        "line 4: mpp 0.01 is out of 0.05 … 20 µm/px",
        "line 5: id one is that of line 2 already",
        "line 5: mpp nan is out of",
        f"line 6: {archive}/a.svs is listed in line 5 already",
        "line 6: id ONE is that of line 2 already",
        "line 7: path is empty",
        "line 8: id ../out cannot be the name of a folder",
        "line 9: the workflow nuclei takes no prompts",
        f"line 10: {archive}/none.geojson is missing",
        "line 10: segment.min_iou: Input should be less than or equal to 1",
        "line 11: id run.json cannot be",
        "line 11: has more cells than there are columns",
    ):
        assert problem in said


def test_several_manifests_are_checked_together(archive: Path) -> None:
    first = write_csv(archive, "path,id", "a.svs,x", "gone.svs,", name="first.csv")
    second = write_csv(archive, "path,id", "b.svs,x", name="second.csv")
    with pytest.raises(ManifestError) as caught:
        read_requests([first, second], NUCLEI)
    assert f"{first} line 3: {archive}/gone.svs is missing" in str(caught.value)
    assert f"{second} line 2: id x is that of {first} line 2 already" in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("file", "a.svs"), "has no column path"),
        (("path",), "lists no slides"),
        (("path,mpp,mpp", "a.svs,1,2"), "has several columns mpp"),
        (("path,prompts.class", "a.svs,{a"), "is not YAML"),
        (("path,prompts.class", "a.svs,{a: 1}"), "no single value"),
    ],
)
def test_manifest_of_wrong_form_is_refused(archive: Path, lines: Sequence[str], said: str) -> None:
    assert said in refusal(write_csv(archive, *lines))


def test_manifest_that_cannot_be_read_is_refused(archive: Path) -> None:
    (archive / "slides.parquet").write_bytes(b"PAR1 no")
    assert "cannot be read" in refusal(archive / "slides.parquet")
    (archive / "slides.csv").write_bytes(b"path\n\xff.svs\n")
    assert "cannot be read" in refusal(archive / "slides.csv")
    assert "cannot be read" in refusal(archive / "gone.csv")


@pytest.mark.parametrize(
    "id", ["..", ".hidden", "a/b", "a\\b", "report.HTML", "learned", "ledger.jsonl", "a.partial", "x" * 201, "a:b"]
)
def test_id_that_is_no_folder_of_results_is_refused(archive: Path, id: str) -> None:
    assert "cannot be the name" in refusal(write_csv(archive, "path,id", f"a.svs,{id}"))


@given(st.text(max_size=30))
def test_no_id_leaves_the_output_folder(tmp_path_factory: pytest.TempPathFactory, id: str) -> None:
    folder = tmp_path_factory.mktemp("ids")
    (folder / "a.svs").touch()
    try:
        (one,) = read_requests([write_parquet(folder, {"path": ["a.svs"], "id": [id]})], NUCLEI)
    except ManifestError:
        return
    if one.id is not None:
        out = folder / "out"
        assert (out / one.id).resolve().parent == out.resolve()


def test_remote_slides_are_taken_as_they_are(archive: Path) -> None:
    manifest = write_csv(archive, "path", "s3://b/x.svs", "https://h/y.tif?sig=1", "s3://b/dicom/")
    assert [one.source for one in read_requests([manifest], NUCLEI)] == [
        "s3://b/x.svs",
        "https://h/y.tif?sig=1",
        "s3://b/dicom/",
    ]


def test_remote_slide_shows_no_secret_and_is_one_however_signed(archive: Path) -> None:
    manifest = write_csv(
        archive, "path", "https://h/y.tif?sig=secret", "https://u:secret@h/y.tif", "https://h/secret?y"
    )
    said = refusal(manifest)
    assert "line 3: https://h/y.tif is listed in line 2 already" in said
    assert "sig" not in said
    assert "u:secret" not in said
    assert SlideRequest("https://u:secret@h/y.tif?sig=1").label == "https://h/y.tif"


def test_every_combination_of_settings_is_checked_once(archive: Path) -> None:
    asked: list[dict[str, Any]] = []

    def change(settings: dict[str, Any]) -> Workflow:
        asked.append(settings)
        return NUCLEI(settings)

    for name in ("a", "b", "c", "d"):
        (archive / f"{name}.png").touch()
    lines = [
        f"{name}.svs,{name}.png,{model}" for name, model in zip("abcd", ("sam", "sam", "hq-sam", "sam"), strict=True)
    ]
    read_requests([write_csv(archive, "path,tissue,segment.model", *lines)], change)
    assert len(asked) == 2


def test_key_that_only_other_prompts_have_is_refused_in_its_line(archive: Path) -> None:
    said = refusal(write_csv(archive, "path,prompts.roi_classes", "a.svs,", "b.svs,[X]"))
    assert "line 3" in said
    assert "roi_classes" in said
    assert "line 2" not in said


def test_what_is_learned_is_the_same_for_all_slides(archive: Path) -> None:
    assert "unknown column learn.set" in refusal(write_csv(archive, "path,learn.set", "a.svs,{epochs: 1}"))


def test_slides_that_are_learned_from_may_have_prompts(archive: Path) -> None:
    listed = write_csv(archive, "path,prompts", "a.svs,boxes.geojson", "b.svs,")
    first, second = read_requests([listed], partial(load_workflow, "points-to-instances"))
    assert first.prompts is not None
    assert second.prompts is None


def test_keys_of_the_workflow_are_all_known() -> None:
    keys = set(workflow_keys())
    assert {"segment.model", "tiling.batch", "prompts.threshold", "prompts.class", "refine.points", "mpp"} <= keys
    assert "tiling.overlap.value" not in keys
    with pytest.raises(WorkflowError):
        NUCLEI({"segment.modle": "sam"})


def test_ten_thousand_lines_take_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a share where every question takes a millisecond."""
    names = [f"{number:05}" for number in range(10_000)]
    stat = os.stat

    def slow(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if str(path).endswith((".svs", ".png")):
            time.sleep(0.001)
            path = tmp_path / "a.svs"
        return stat(path, *args, **options)

    (tmp_path / "a.svs").touch()
    monkeypatch.setattr(os, "stat", slow)
    models = ("sam", "hq-sam")
    lines = [f"{name}.svs,s{name},0.25,{name}.png,{models[int(name) % 2]}" for name in names]
    manifest = write_csv(tmp_path, "path,id,mpp,tissue,segment.model", *lines)
    began = time.perf_counter()
    assert len(read_requests([manifest], NUCLEI)) == 10_000
    assert time.perf_counter() - began < 15
