"""The server of the review page: who gets an answer, and what."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from src.reports.review_queue import ReviewQueue
from src.reports.review_server import ReviewServer
from src.reports.reviews import read_marks
from tests.conftest import Configure
from tests.harness.reviewed import reviewed_run

Ask = Callable[..., tuple[HTTPResponse, bytes]]
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def server(configure: Configure, clips: Path, tmp_path: Path) -> Iterator[ReviewServer]:
    server = ReviewServer(ReviewQueue([reviewed_run(configure, clips, tmp_path / "run")]), ["style"])
    thread = Thread(target=server.serve)
    thread.start()
    yield server
    server.finished.set()
    thread.join()


@pytest.fixture
def ask(server: ReviewServer) -> Ask:
    """A function that sends a request below the address of the page, and returns the reply with its body."""

    def asked(method: str, path: str, body: Any = None, *, token: str = server.token, **headers: str) -> Any:
        connection = HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        connection.request(method, f"/{token}/{path}", data, (JSON if data else {}) | named)
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply, content

    return asked


def test_page_loads_nothing_from_elsewhere(ask: Ask) -> None:
    reply, page = ask("GET", "")
    assert reply.status == 200 and b"default-src 'none'" in page
    assert b"http://" not in page and b"https://" not in page
    assert reply.headers["Access-Control-Allow-Origin"] is None and reply.headers["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize(
    "changes",
    [
        {"token": "x"},
        {"token": ""},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": ""},
    ],
)
def test_stranger_gets_nothing(ask: Ask, changes: dict[str, str]) -> None:
    reply, body = ask("GET", "rows?n=0", **changes)
    assert (reply.status, body) == (403, b"")


@pytest.mark.parametrize(
    "changes", [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Content_Type": "text/plain"}]
)
def test_posts_of_other_pages_are_refused(ask: Ask, changes: dict[str, str], tmp_path: Path) -> None:
    verdict = {"verdicts": [{"n": 0, "verdict": "accepted"}], "since": 0}
    assert ask("POST", "verdicts", verdict, **changes)[0].status == 403
    assert not (tmp_path / "run" / "review.jsonl").exists()


def test_verdict_is_saved_before_the_reply(ask: Ask, tmp_path: Path) -> None:
    verdict = {"verdicts": [{"n": 1, "verdict": "rejected", "reason": "style"}], "since": 0}
    reply, body = ask("POST", "verdicts", verdict)
    assert reply.status == 200 and json.loads(body)["decided"] == 1
    assert read_marks(tmp_path / "run" / "review.jsonl")["take 1"].reason == "style"
    assert json.loads(ask("GET", "rows?n=1")[1])[0]["mark"]["verdict"] == "rejected"


def test_clip_is_served_in_parts(ask: Ask, clips: Path) -> None:
    whole = (clips / "wide.mp4").read_bytes()
    assert ask("GET", "clip/0")[1] == whole
    for asked, first, last in (("5-9", 5, 9), ("5-", 5, len(whole) - 1), ("-4", len(whole) - 4, len(whole) - 1)):
        reply, part = ask("GET", "clip/0", Range=f"bytes={asked}")
        assert (reply.status, part) == (206, whole[first : last + 1])
        assert reply.headers["Content-Range"] == f"bytes {first}-{last}/{len(whole)}"
    assert ask("GET", "clip/0", Range=f"bytes={len(whole)}-")[0].status == 416


@pytest.mark.parametrize(
    "path",
    ["clip/9", "clip/x", "frame/0?n=5", "hint/..%2f", "../run/plan.json", "nothing", "rows?n=a", "rows", "clip/-1/.."],
)
def test_unknown_address_is_refused(ask: Ask, path: str) -> None:
    assert ask("GET", path)[0].status in (400, 404)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"verdicts": [{"n": 99, "verdict": "accepted"}], "since": 0}', b'"x"'])
def test_invalid_post_is_refused(ask: Ask, body: bytes) -> None:
    assert ask("POST", "verdicts", body)[0].status == 400


def test_reason_of_a_refusal_is_told(ask: Ask) -> None:
    reply, body = ask("POST", "verdicts", {"verdicts": [{"n": 2, "verdict": "accepted"}], "since": 0})
    assert reply.status == 400 and "was kept" in json.loads(body)["error"]


def test_finish_ends_the_review(ask: Ask, server: ReviewServer) -> None:
    assert ask("POST", "finish", {})[0].status == 200
    assert server.finished.wait(10)
