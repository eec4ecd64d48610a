"""A download is resumed, proved, and appears whole or not at all."""

from __future__ import annotations

import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from features.download import fetch
from features.errors import UserError

CONTENT = bytes(range(256)) * 5_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Host(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; ``/ranges`` continues, ``/plain`` always starts over, ``/broken`` hangs up."""

    asked: list[str | None]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        ranges = self.path == "/ranges" and wanted
        if ranges and start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:] if ranges else CONTENT
        self.send_response(206 if ranges else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 3] if self.path == "/broken" else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[str]:
    Host.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_download_arrives_whole(host: str, tmp_path: Path) -> None:
    fetch(f"{host}/ranges", tmp_path / "new" / "file", DIGEST)
    assert (tmp_path / "new" / "file").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


@pytest.mark.parametrize(("path", "asked"), [("/ranges", "bytes=1000-"), ("/plain", "bytes=1000-")])
def test_what_arrived_before_is_continued_or_started_over(
    host: str, tmp_path: Path, path: str, asked: str
) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    fetch(host + path, tmp_path / "file", DIGEST)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert Host.asked == [asked]


def test_a_pipe_in_the_place_of_what_arrived_is_not_waited_for(host: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "file.part")
    fetch(f"{host}/ranges", tmp_path / "file", DIGEST)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_an_interrupted_download_goes_on_at_another_host(host: str, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        fetch(f"{host}/broken", tmp_path / "file", DIGEST)
    assert not (tmp_path / "file").exists()
    assert 0 < (tmp_path / "file.part").stat().st_size < len(CONTENT)
    fetch(f"{host}/ranges", tmp_path / "file", DIGEST)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert Host.asked[1] is not None


def test_a_whole_part_only_needs_its_name(host: str, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT)
    fetch(f"{host}/ranges", tmp_path / "file", DIGEST)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert Host.asked == []


def test_other_content_is_refused_and_leaves_nothing(host: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has other content: expected sha256 0000"):
        fetch(f"{host}/ranges", tmp_path / "file", "0" * 64)
    assert list(tmp_path.glob("file*")) == []


def test_a_closed_host_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9/x: .*refused"):
        fetch("http://127.0.0.1:9/x", tmp_path / "file", DIGEST)
