"""Remote slides against servers on this machine that forget, refuse, break off, lie and come back."""

from __future__ import annotations

import base64
import hashlib
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import SlideError, StorageError
from wsi_pipeline.slides import staging
from wsi_pipeline.slides.find import slide_name
from wsi_pipeline.slides.remote import find_remote
from wsi_pipeline.slides.slide import open_slide
from wsi_pipeline.slides.staging import describe_remote, is_remote, release, stage
from wsi_pipeline.slides.urls import file_name, shown

BODY = bytes(range(256)) * 400
SECRET = "AKIA-very-secret"


class Server(ThreadingHTTPServer):
    """Serves BODY under any name; the attributes say how it misbehaves."""

    daemon_threads = True
    body = BODY
    etag = '"1"'
    status = 200
    failures = 0
    cut_after: int | None = None
    says_length = True
    heads = True
    authorization: str | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fetched = 0
        self.lock = threading.Lock()

    def handle_error(self, *args: Any) -> None:
        """Clients that hang up belong to the tests."""

    def url(self, path: str = "a.svs") -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def next_status(self, authorization: str | None) -> int:
        if self.authorization not in (None, authorization):
            return 401
        with self.lock:
            if self.failures > 0:
                self.failures -= 1
                return 503
        return self.status


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        if self.server.heads:
            self._begin(self.server.next_status(self.headers["Authorization"]))
        else:
            self._begin(405)

    def do_GET(self) -> None:
        status = self.server.next_status(self.headers["Authorization"])
        self._begin(status)
        if status == 200:
            self.server.fetched += 1
            cut, self.server.cut_after = self.server.cut_after, None
            self.wfile.write(self.server.body[:cut])

    def _begin(self, status: int) -> None:
        self.send_response(status)
        if status == 200:
            self.send_header("ETag", self.server.etag)
            if self.server.says_length:
                self.send_header("Content-Length", str(len(self.server.body)))
        else:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


class QuietFileHandler(SimpleHTTPRequestHandler):
    """Serves a folder and lists of it."""

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(staging, "_PAUSES_S", (0.0, 0.0, 0.0))
    with Server() as one:
        threading.Thread(target=one.serve_forever, args=(0.01,), daemon=True).start()
        yield one
        one.shutdown()


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A store with a bucket ``slides``."""
    moto = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto_server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto_server.start()
    host, port = moto_server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setattr(staging, "_PAUSES_S", (0.0,))
        store = fsspec.filesystem("s3", skip_instance_cache=True)
        store.mkdir("slides")
        for key in (
            "a.svs",
            "deep/b.svs",
            "m.mrxs",
            "m/Slidedat.ini",
            "m/Data0.dat",
            "v1.jpg",
            "photo.jpg",
            "notes.txt",
        ):
            store.pipe_file(f"slides/{key}", key.encode() * 100)
        for key in ("z.ome.zarr/zarr.json", "z.ome.zarr/0/c/0", "z.ome.zarr/0.png", "dicom/1.dcm", "dicom/2.dcm"):
            store.pipe_file(f"slides/{key}", key.encode() * 100)
        store.pipe_file("slides/v.vms", b"[Virtual Microscope Specimen]\nImageFile=v1.jpg\nMapFile=../../etc/passwd\n")
        yield store
        moto_server.stop()


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", ["a.svs", "/a.svs", "C:\\a.svs", "C:/a.svs", "a://", "*.svs"])
def test_path_is_no_url(path: str) -> None:
    assert not is_remote(path)


@pytest.mark.parametrize("url", ["s3://b/a.svs", "https://h/a.svs", "gs://b/", "abfs://c@a.dfs.core.windows.net/a.svs"])
def test_url_is_remote(url: str) -> None:
    assert is_remote(url)
    assert shown(url) == url


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://u:p@h:80/a.svs?X-Amz-Signature=s#f", "https://h:80/a.svs"),
        ("https://token@h/a.svs", "https://h/a.svs"),
        ("https://u:p@ss@h/a.svs", "https://h/a.svs"),
        ("sftp://u:p@h/a.svs", "sftp://h/a.svs"),
        ("s3://b/a?b@c.svs", "s3://b/a?b@c.svs"),
        ("GET 'https://u:p@h/a?sig=s' failed", "GET 'https://h/a failed"),
    ],
)
def test_secrets_are_not_shown(url: str, public: str) -> None:
    assert shown(url) == public


def test_url_names_its_slide() -> None:
    assert slide_name("https://h/x/my%20slide.ome.tif?sig=1/2.svs") == "my slide"
    assert slide_name("s3://b/k/a.b.svs") == "a.b"
    assert slide_name("s3://b/z.ome.zarr/") == "z"


@given(st.text(max_size=40))
def test_no_key_names_a_file_elsewhere(key: str) -> None:
    for url in (f"s3://bucket/{key}", f"https://host/{key}"):
        name = file_name(url)
        assert "/" not in name
        assert name not in (".", "..")
        assert not any(ord(sign) < 32 for sign in name)
        assert slide_name(url)


def test_slide_is_staged_whole_and_gone_when_released(server: Server, tmp_path: Path) -> None:
    path = stage(server.url(), tmp_path)
    assert path.name == "a.svs"
    assert path.read_bytes() == BODY
    release(server.url(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_staged_slide_opens_as_the_slide_it_is(server: Server, tmp_path: Path, tools: Any) -> None:
    server.body = tools.write_tiff(tmp_path / "b.tif", tools.stained(256, 256, 3)).read_bytes()
    with open_slide(stage(server.url("b.tif"), tmp_path / "cache")) as slide:
        assert (slide.info.width, slide.info.height) == (256, 256)


def test_slide_that_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    assert stage(server.url(), tmp_path) == stage(server.url(), tmp_path)
    assert server.fetched == 1


def test_damaged_copy_is_fetched_again(server: Server, tmp_path: Path) -> None:
    stage(server.url(), tmp_path).write_bytes(b"cut")
    assert stage(server.url(), tmp_path).read_bytes() == BODY


def test_new_version_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    before = describe_remote(server.url())
    stage(server.url(), tmp_path)
    server.body, server.etag = BODY[::-1], '"2"'
    assert describe_remote(server.url()).version != before.version
    assert stage(server.url(), tmp_path).read_bytes() == BODY[::-1]


def test_url_signed_anew_is_the_same_slide(server: Server, tmp_path: Path) -> None:
    first, second = server.url("a.svs?sig=1"), server.url("a.svs?sig=2")
    assert describe_remote(first) == describe_remote(second)
    assert stage(first, tmp_path) == stage(second, tmp_path)


def test_description_says_size_and_keeps_secrets(server: Server) -> None:
    remote = describe_remote(server.url(f"a.svs?sig={SECRET}"))
    assert remote.size == len(BODY)
    assert SECRET not in repr(remote)
    server.says_length = False
    assert describe_remote(server.url()).size is None


@pytest.mark.parametrize("heads", [True, False])
def test_server_that_fails_for_a_while_is_asked_again(server: Server, tmp_path: Path, heads: bool) -> None:
    server.failures, server.heads = 3, heads
    assert stage(server.url(), tmp_path).read_bytes() == BODY


def test_copy_that_breaks_off_is_begun_again(server: Server, tmp_path: Path) -> None:
    describe_remote(server.url())
    server.cut_after = 1000
    assert stage(server.url(), tmp_path).read_bytes() == BODY
    assert server.fetched > 1


@pytest.mark.parametrize(
    ("status", "said"),
    [(404, "no such file"), (403, "access is not allowed"), (401, "access is not allowed"), (500, "answered 500")],
)
def test_refusal_is_one_line_without_secrets(server: Server, tmp_path: Path, status: int, said: str) -> None:
    server.status = status
    url = server.url(f"a.svs?sig={SECRET}").replace("://", f"://{SECRET}:{SECRET}@")
    for ask in (describe_remote, lambda url: stage(url, tmp_path)):
        # a server in trouble may be all right later; an answer is final
        with pytest.raises(StorageError if status == 500 else SlideError, match=said) as caught:
            ask(url)
        assert SECRET not in str(caught.value)
        assert "a.svs" in str(caught.value)
    assert files(tmp_path) == []


def test_user_and_password_of_a_url_are_used(server: Server, tmp_path: Path) -> None:
    server.authorization = "Basic " + base64.b64encode(b"user:word").decode()
    assert stage(server.url().replace("://", "://user:word@"), tmp_path).read_bytes() == BODY
    with pytest.raises(SlideError, match="access is not allowed"):
        describe_remote(server.url())


def test_file_that_has_its_size_before_its_bytes_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_PAUSES_S", (0.0,))
    store = fsspec.filesystem("memory")
    store.pipe_file("/archive/a.svs", BODY)
    get, failures = type(store).get_file, iter([True, False])

    def fail_once(self: Any, path: str, target: str, **options: Any) -> None:
        if next(failures):
            Path(target).write_bytes(bytes(len(BODY)))
            raise ConnectionResetError
        get(self, path, target, **options)

    monkeypatch.setattr(type(store), "get_file", fail_once)
    assert stage("memory://archive/a.svs", tmp_path).read_bytes() == BODY


def test_copy_that_always_comes_short_leaves_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = describe_remote(server.url())
    monkeypatch.setattr(Handler, "do_GET", lambda self: (self._begin(200), self.wfile.write(BODY[:10])))
    with pytest.raises(StorageError, match="cannot be reached"):
        stage(server.url(), tmp_path)
    assert files(tmp_path) == []
    assert describe_remote(server.url()) == whole


def test_host_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "_PAUSES_S", ())
    with pytest.raises(StorageError, match="cannot be reached"):
        describe_remote(f"http://{SECRET}@127.0.0.1:9/a.svs")


def test_full_disk_is_no_fault_of_the_server(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(StorageError, match="cannot be written"):
        stage(server.url(), tmp_path)
    assert server.fetched == 0
    assert files(tmp_path) == []


def test_several_may_stage_one_slide_at_once(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: stage(server.url(), tmp_path), range(16)))
    assert len(paths) == 1
    assert files(tmp_path) == [next(iter(paths)).relative_to(tmp_path).as_posix()]
    assert next(iter(paths)).read_bytes() == BODY


@pytest.mark.parametrize(
    ("key", "opened", "brought"),
    [
        ("a.svs", "a.svs", ["a.svs"]),
        ("m.mrxs", "m.mrxs", ["m.mrxs", "m/Data0.dat", "m/Slidedat.ini"]),
        ("v.vms", "v.vms", ["v.vms", "v1.jpg"]),
        ("dicom/", "dicom", ["dicom/1.dcm", "dicom/2.dcm"]),
        ("dicom/1.dcm", "1.dcm", ["1.dcm", "2.dcm"]),
        ("z.ome.zarr", "z.ome.zarr", ["z.ome.zarr/0.png", "z.ome.zarr/0/c/0", "z.ome.zarr/zarr.json"]),
    ],
)
def test_slide_of_several_files_comes_whole(s3: Any, tmp_path: Path, key: str, opened: str, brought: list[str]) -> None:
    path = stage(f"s3://slides/{key}", tmp_path)
    assert path.name == opened
    assert files(path.parent) == brought
    copied = sum((path.parent / name).stat().st_size for name in brought)
    assert describe_remote(f"s3://slides/{key}").size == copied


def test_web_server_that_lists_folders_gives_slides_of_several_files(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    for name in ("my m.mrxs", "my m/Slidedat.ini", "deep/b.svs", "z.ome.zarr/zarr.json"):
        (archive / name).parent.mkdir(parents=True, exist_ok=True)
        (archive / name).write_text(name)
    handler = partial(QuietFileHandler, directory=str(archive))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}/"
        assert find_remote(root) == [f"{root}my%20m.mrxs", f"{root}z.ome.zarr"]
        assert find_remote(f"{root}**/*.svs") == [f"{root}deep/b.svs"]
        path = stage(f"{root}my%20m.mrxs", tmp_path / "cache")
        assert files(path.parent) == ["my m.mrxs", "my m/Slidedat.ini"]
        before = describe_remote(f"{root}my%20m.mrxs")
        (archive / "my m" / "Slidedat.ini").write_text("other")
        assert describe_remote(f"{root}my%20m.mrxs").version != before.version
        server.shutdown()


def test_change_of_any_file_is_another_version(s3: Any) -> None:
    before = describe_remote("s3://slides/m.mrxs").version
    assert describe_remote("s3://slides/m.mrxs").version == before
    s3.pipe_file("slides/m/Data0.dat", b"other" * 100)
    assert describe_remote("s3://slides/m.mrxs").version != before


def test_folder_and_pattern_stand_for_their_slides(s3: Any) -> None:
    everything = ["a.svs", "m.mrxs", "photo.jpg", "v.vms", "z.ome.zarr"]
    assert find_remote("s3://slides/") == [f"s3://slides/{name}" for name in everything]
    assert find_remote("s3://slides/*.svs") == ["s3://slides/a.svs"]
    assert find_remote("s3://slides/**/*.svs") == ["s3://slides/a.svs", "s3://slides/deep/b.svs"]
    assert find_remote("s3://slides/dicom/") == ["s3://slides/dicom/"]
    assert find_remote("s3://slides/gone.svs") == ["s3://slides/gone.svs"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://slides/*.ndpi", "holds no slide"),
        ("s3://none/", "no such bucket"),
        ("s3://none/a.svs", "no such bucket"),
        ("s3://slides/gone.svs", "no such file"),
        ("s3://no good/a.svs", "cannot be read"),
        ("gs://slides/a.svs", "gcsfs"),
        ("nothing://slides/a.svs", "nothing"),
    ],
)
def test_mistake_is_one_line(s3: Any, url: str, said: str) -> None:
    with pytest.raises(SlideError, match=said) as caught:
        describe_remote(*find_remote(url))
    assert url in str(caught.value)
    assert SECRET not in str(caught.value)


def test_missing_credentials_are_named(s3: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(SlideError, match="no credentials were found"):
        describe_remote("s3://slides/a.svs")
    fsspec.filesystem("s3").clear_instance_cache()


def test_file_that_would_land_elsewhere_is_refused(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pipe_file("/archive/m.mrxs", b"index")
    store.store["/archive/m/../../../evil"] = store.store["/archive/m.mrxs"]
    with pytest.raises(SlideError, match="cannot be called"):
        stage("memory://archive/m.mrxs", tmp_path / "cache")
    assert files(tmp_path) == []


def test_long_and_strange_addresses_have_homes_of_one_form(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    for key in ("/a/" + "x" * 300 + "/b.svs", "/ü ü/b.svs", "/a b/[1].svs"):
        store.pipe_file(key, b"x" * 10)
        path = stage(f"memory:/{key}", tmp_path)
        assert path.relative_to(tmp_path).parts[0] == hashlib.sha256(f"memory:/{key}".encode()).hexdigest()[:16]
        assert path.read_bytes() == b"x" * 10
