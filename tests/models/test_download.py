"""Downloads against a local server that can resume, lie, break off, say no, move files and stand in for a proxy."""

from __future__ import annotations

import errno
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from wsi_pipeline.errors import WeightsError
from wsi_pipeline.models import download as download_module
from wsi_pipeline.models.download import download

BODY = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(BODY).hexdigest()
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


class Server(ThreadingHTTPServer):
    """Serves BODY; the attributes say how it misbehaves."""

    daemon_threads = True
    ranges = True
    says_length = True
    status = 200
    cut_after: int | None = None
    failures = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str | None] = []
        self.targets: list[str] = []

    def handle_error(self, *args: Any) -> None:
        """Clients that hang up belong to the tests."""

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"{self.root}/weights.pth"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append(wanted)
        self.server.targets.append(self.path)
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", self.server.url)
            self.end_headers()
            return
        if self.server.status != 200 and (
            self.server.failures == 0 or len(self.server.requests) <= self.server.failures
        ):
            self.send_error(self.server.status)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(BODY):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(BODY)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if self.server.says_length:
            self.send_header("Content-Length", str(len(BODY) - start))
        self.end_headers()
        end = len(BODY) if self.server.cut_after is None else start + self.server.cut_after
        self.wfile.write(BODY[start:end])

    def do_CONNECT(self) -> None:
        self.server.targets.append(self.path)
        self.send_error(403)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download_module, "_BACKOFF_S", 0.0)
    for variable in ("WSI_PIPELINE_OFFLINE", *PROXY_VARIABLES, *map(str.lower, PROXY_VARIABLES)):
        monkeypatch.delenv(variable, raising=False)
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()


def test_file_arrives_whole_with_progress(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "new" / "weights.pth"
    download(server.url, target, sha256=SHA256, progress=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert [path.name for path in target.parent.iterdir()] == ["weights.pth"]


def test_partial_file_is_continued_not_repeated(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "weights.pth"
    (tmp_path / "weights.pth.part").write_bytes(BODY[:5000])
    download(server.url, target, sha256=SHA256)
    assert target.read_bytes() == BODY
    assert server.requests == ["bytes=5000-"]


def test_interrupted_download_goes_on_in_the_next_call(server: Server, tmp_path: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        if done > 100_000:
            raise KeyboardInterrupt

    target = tmp_path / "weights.pth"
    with pytest.raises(KeyboardInterrupt):
        download(server.url, target, sha256=SHA256, progress=interrupt)
    assert not target.exists()
    kept = (tmp_path / "weights.pth.part").stat().st_size
    assert kept > 100_000
    assert download(server.url, target, sha256=SHA256).read_bytes() == BODY
    assert server.requests == [None, f"bytes={kept}-"]


def test_moved_file_is_followed_and_continued(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(BODY[:5000])
    assert download(f"{server.root}/moved", tmp_path / "weights.pth", sha256=SHA256).read_bytes() == BODY
    assert server.targets == ["/moved", "/weights.pth"]
    assert server.requests == ["bytes=5000-", "bytes=5000-"]


def test_complete_partial_file_is_taken_as_it_is(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(BODY)
    assert download(server.url, tmp_path / "weights.pth", sha256=SHA256).read_bytes() == BODY


def test_partial_file_longer_than_the_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(BODY + b"more")
    assert download(server.url, tmp_path / "weights.pth", sha256=SHA256).read_bytes() == BODY


def test_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "weights.pth.part").write_bytes(b"x" * 5000)
    assert download(server.url, tmp_path / "weights.pth", sha256=SHA256).read_bytes() == BODY


def test_broken_connection_is_resumed_within_one_call(server: Server, tmp_path: Path) -> None:
    server.cut_after = 100_000
    assert download(server.url, tmp_path / "weights.pth", sha256=SHA256).read_bytes() == BODY
    assert server.requests[:3] == [None, "bytes=65536-", "bytes=131072-"]


def test_early_end_is_noticed_without_a_stated_length(server: Server, tmp_path: Path) -> None:
    server.says_length = False
    server.cut_after = 300_000
    target = tmp_path / "weights.pth"
    assert download(server.url, target, sha256=SHA256, size=len(BODY)).read_bytes() == BODY
    assert server.requests == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_connection_that_stays_broken_keeps_the_partial_file(server: Server, tmp_path: Path) -> None:
    server.cut_after = 1000
    (tmp_path / "weights.pth.part").write_bytes(BODY[:5000])
    with pytest.raises(WeightsError, match="stopped after 5,000 bytes") as caught:
        download(server.url, tmp_path / "weights.pth", sha256=SHA256)
    assert "continues there" in str(caught.value)
    assert (tmp_path / "weights.pth.part").read_bytes() == BODY[:5000]
    assert not (tmp_path / "weights.pth").exists()


def test_wrong_digest_leaves_nothing_behind(server: Server, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="SHA-256"):
        download(server.url, tmp_path / "weights.pth", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_partial_file_of_another_version_costs_one_run(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(b"x" * 5000)
    with pytest.raises(WeightsError, match=r"SHA-256.*Run the command again"):
        download(server.url, tmp_path / "weights.pth", sha256=SHA256)
    assert download(server.url, tmp_path / "weights.pth", sha256=SHA256).read_bytes() == BODY


def test_missing_file_on_the_server_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(WeightsError, match="answered 404"):
        download(server.url, tmp_path / "weights.pth")
    assert len(server.requests) == 1


def test_passing_server_error_is_tried_again(server: Server, tmp_path: Path) -> None:
    server.status, server.failures = 503, 2
    assert download(server.url, tmp_path / "weights.pth", sha256=SHA256).read_bytes() == BODY
    assert len(server.requests) == 3


def test_unreachable_server_is_one_line(tmp_path: Path, server: Server) -> None:
    with pytest.raises(WeightsError, match="stopped after 0 bytes") as caught:
        download("http://127.0.0.1:9/weights.pth", tmp_path / "weights.pth")
    assert "\n" not in str(caught.value)


def test_proxy_of_the_environment_is_asked(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.root)
    address = "http://weights.invalid/weights.pth"
    assert download(address, tmp_path / "weights.pth", sha256=SHA256).read_bytes() == BODY
    assert server.targets == [address]


def test_proxy_that_refuses_a_secure_address_is_one_line(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", server.root)
    with pytest.raises(WeightsError, match=r"stopped after 0 bytes \(ProxyError\)\. Check .* HTTPS_PROXY") as caught:
        download("https://weights.invalid/weights.pth", tmp_path / "weights.pth")
    assert "\n" not in str(caught.value)
    assert set(server.targets) == {"weights.invalid:443"}


def test_addresses_excepted_from_the_proxy_are_asked_directly(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert download(server.url, tmp_path / "weights.pth", sha256=SHA256).read_bytes() == BODY
    assert server.targets == ["/weights.pth"]


def test_offline_never_reaches_the_server(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSI_PIPELINE_OFFLINE", "1")
    with pytest.raises(WeightsError, match="WSI_PIPELINE_OFFLINE is set"):
        download(server.url, tmp_path / "weights.pth")
    assert server.requests == []


def test_too_little_space_is_said_before_writing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(WeightsError, match="no space left"):
        download(server.url, tmp_path / "weights.pth")
    assert (tmp_path / "weights.pth.part").stat().st_size == 0


def test_disk_that_fills_up_is_one_line(server: Server, tmp_path: Path) -> None:
    def full(done: int, total: int | None) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(WeightsError, match="no space left"):
        download(server.url, tmp_path / "weights.pth", progress=full)


def test_folder_that_cannot_be_made_is_one_line(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WeightsError, match="cannot be written"):
        download(server.url, tmp_path / "file" / "weights.pth")


def test_second_download_of_the_same_file_is_refused(server: Server, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / "weights.pth.part").open("ab") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        with pytest.raises(WeightsError, match="another process"):
            download(server.url, tmp_path / "weights.pth")
