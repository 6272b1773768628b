"""The server of the report: which files of a run it serves, and to whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest

from src.reports.page_server import ReportServer

Get = Callable[..., tuple[int, bytes]]


@pytest.fixture
def get(tmp_path: Path) -> Iterator[Get]:
    """A function that asks for an address relative to the report, as its links do; returns status and content."""
    files = ("run/report.html", "run/report_data/00000.js", "run/hints/a/frame_1.png", "run/log.jsonl", "clips/a b.mp4",
             "clips/other.mp4", "run/.lock")  # fmt: skip
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    server = ReportServer(tmp_path / "run" / "report.html", {str(tmp_path / "clips" / "a b.mp4")})
    thread = Thread(target=server.serve)
    thread.start()

    def got(path: str, **headers: str) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        folder = urlsplit(server.address).path.rpartition("/")[0]
        connection.request("GET", path if path.startswith("/") else f"{folder}/{path}", headers=headers)
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply.status, content

    yield got
    server.finished.set()
    thread.join()


@pytest.mark.parametrize("path", ["report.html", "report_data/00000.js", "hints/a/frame_1.png", "../clips/a%20b.mp4"])
def test_what_the_page_links_is_served(get: Get, path: str) -> None:
    status, content = get(path)
    assert status == 200 and content.decode().rpartition("/")[2] == path.rpartition("/")[2].replace("%20", " ")


@pytest.mark.parametrize(
    "path",
    ["../clips/other.mp4", ".lock", "hints", "hints/../../clips/other.mp4", "..%2fclips%2fother.mp4", "none.png"],
)
def test_other_files_are_not_served(get: Get, path: str) -> None:
    assert get(path) == (404, b"")


def test_report_needs_the_token(get: Get, tmp_path: Path) -> None:
    assert get(f"/x{tmp_path}/run/report.html") == (403, b"")
    assert get("report.html", Host="evil.example") == (403, b"")


def test_report_is_served_in_parts(get: Get) -> None:
    assert get("../clips/a%20b.mp4", Range="bytes=6-8") == (206, b"a b")
