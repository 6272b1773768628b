"""Messages about ended runs: where they go, and what happens when they cannot be delivered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from src.config import NotifyConf
from src.errors import InputError
from src.tasks.ending import ATTEMPTS, address, post
from tests.harness.scripted_server import Response, ScriptedServer

BUSY: Response = (503, {}, b"")
REFUSED: Response = (404, {}, b"")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the attempts
    server = ScriptedServer()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("script", "posts", "delivered"),
    [
        ([], 1, True),
        ([BUSY, BUSY], 3, True),
        ([REFUSED], 1, False),
        ([BUSY] * ATTEMPTS, ATTEMPTS, False),
        ([(302, {"Location": "/elsewhere"}, b"")], 1, False),
    ],
    ids=["at once", "after a while", "refused", "never", "sent elsewhere"],
)
def test_message_is_retried_while_that_may_help(
    server: ScriptedServer, script: list[Response], posts: int, delivered: bool
) -> None:
    server.script = list(script)
    with structlog.testing.capture_logs() as events:
        post(f"{server.url}/secret", {"text": "läuft"})
    assert server.asked == [{"text": "läuft"}] * posts
    assert [event["event"] for event in events] == ([] if delivered else ["not_notified"])
    assert "secret" not in str(events)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://no-such-host.invalid/"])
def test_unreachable_address_is_only_logged(server: ScriptedServer, url: str) -> None:
    with structlog.testing.capture_logs() as events:
        post(url, {}, attempts=2)
    assert [event["event"] for event in events] == ["not_notified"]


def test_address_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "https://example.org/x")
    assert address(NotifyConf(url_env="HOOK")) == "https://example.org/x"
    assert address(NotifyConf()) == ""


@pytest.mark.parametrize(
    "notify",
    [
        NotifyConf(url="example.org"), NotifyConf(url="file:///etc/passwd"), NotifyConf(url_env="NOT_SET_HERE"),
        NotifyConf(url="http://[::1/hook"), NotifyConf(url="https://example.org/SECRET TOKEN"),
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(notify: NotifyConf) -> None:
    with pytest.raises(InputError, match=r"notify\.url"):
        address(notify)
