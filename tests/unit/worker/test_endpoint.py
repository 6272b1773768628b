"""Engine `endpoint`: retries, keys, and what is checked while loading."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.worker.engines.endpoint import EndpointEngine
from src.worker.engines.engine import Refused, Request, Unavailable
from src.worker.lifecycle import LoadFailed, NoAccess, NotThere
from tests.harness.records import ENGINE, JOB, item
from tests.harness.scripted_server import Response, ScriptedServer, stream

REQUEST = Request(item("a"), (), 1, 20)
TOO_LONG: Response = (400, {}, b'{"error": {"message": "your prompt contains 4687 input tokens"}}')


def endpoint(server: ScriptedServer, **engine: Any) -> EndpointEngine:
    settings = replace(ENGINE, name="endpoint", base_url=server.url, in_flight=0, **engine)
    return EndpointEngine(replace(JOB, engine=settings), Path())


def load(engine: EndpointEngine) -> None:
    engine.load(lambda name, **facts: None)


def test_version_is_read_while_loading(server: ScriptedServer) -> None:
    engine = endpoint(server)
    load(engine)
    assert engine.version == "0.0.fake"
    assert engine.answer(REQUEST).text == "a long boat "


@pytest.mark.parametrize(("status", "refused"), [(402, True), (429, True), (503, True), (500, False)])
def test_unavailable_server_is_told_apart(server: ScriptedServer, status: int, refused: bool) -> None:
    server.script = [(status, {}, b'{"error": {"message": "no"}}')]
    with pytest.raises(Unavailable, match=f"HTTP {status}: no") as error:
        endpoint(server).answer(REQUEST)
    assert error.value.refused is refused


def test_server_that_is_gone_refuses(server: ScriptedServer) -> None:
    engine = endpoint(server)
    server.close()
    with pytest.raises(Unavailable, match="cannot be reached") as error:
        engine.answer(REQUEST)
    assert error.value.refused


def test_refusal_is_not_retried(server: ScriptedServer) -> None:
    server.script = [TOO_LONG]
    with pytest.raises(Refused, match="4687"):
        endpoint(server).answer(REQUEST)
    assert len(server.asked) == 1


@pytest.mark.parametrize("body", [stream("half an", 7, done=False), stream("half an", 7, finish="abort")])
def test_broken_answer_may_be_asked_again(server: ScriptedServer, body: bytes) -> None:
    server.script = [(200, {}, body)]
    with pytest.raises(Unavailable) as error:
        endpoint(server).answer(REQUEST)
    assert not error.value.refused


def events(*events: dict[str, Any]) -> bytes:
    return b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in events) + b"data: [DONE]\n\n"


PART, ERROR = {"choices": [{"delta": {"content": "a car"}}]}, {"code": 502, "message": "provider is away"}


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "provider is away"}}',
        events(PART, {"error": ERROR}),
        events(PART, *[PART] * 5, {"error": ERROR, **PART}, PART, PART, {"choices": [], "usage": {"prompt_tokens": 7}}),
    ],
    ids=["in place of a stream", "at its end", "inside"],
)
def test_error_in_an_accepted_answer_is_one(server: ScriptedServer, body: bytes) -> None:
    server.script = [(200, {}, body)]
    with pytest.raises(Unavailable, match="provider is away") as error:
        endpoint(server).answer(REQUEST)
    assert not error.value.refused


def test_answer_that_ends_with_an_error_is_none(server: ScriptedServer) -> None:
    server.script = [(200, {}, stream("half an", 7, finish="error"))]
    with pytest.raises(Unavailable, match="ended the answer with an error"):
        endpoint(server).answer(REQUEST)


@pytest.mark.parametrize("status", [301, 307, 404, 405, 407, 410])
def test_refusal_of_all_requests_ends_the_job(server: ScriptedServer, status: int) -> None:
    server.script = [(status, {}, b"go elsewhere")]
    with pytest.raises(LoadFailed, match=f"HTTP {status}"):
        endpoint(server).answer(REQUEST)


def test_key_comes_from_environment_or_file(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MY_KEY", "s3cret")
    endpoint(server, api_key_env="MY_KEY").answer(REQUEST)
    (tmp_path / "key").write_text("fromfile\n")
    (tmp_path / "key").chmod(0o600)
    endpoint(server, api_key_file=str(tmp_path / "key")).answer(REQUEST)
    assert server.keys == ["Bearer s3cret", "Bearer fromfile"]


def test_missing_key_variable_is_named(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(NoAccess, match="MY_KEY"):
        endpoint(server, api_key_env="MY_KEY")


def test_unknown_model_lists_the_served_ones(server: ScriptedServer) -> None:
    engine = endpoint(server)
    engine.client.model = "other"
    with pytest.raises(LoadFailed, match=r"serves pixtral, not other: set model\.name"):
        load(engine)


def test_refused_key_fails_loading(server: ScriptedServer) -> None:
    server.models = (401, {}, b"")
    with pytest.raises(NoAccess, match=r"refused the key \(HTTP 401\)"):
        load(endpoint(server))


def test_unreachable_server_fails_loading(server: ScriptedServer) -> None:
    server.close()
    with pytest.raises(NotThere, match="cannot be reached"):
        load(endpoint(server))


def test_several_servers_are_one_engine(server: ScriptedServer) -> None:
    """One of them serves, the other is away while loading and afterwards."""
    away = ScriptedServer()
    away.close()
    engine = endpoint(server, more_urls=(away.url,))
    load(engine)
    assert {engine.answer(REQUEST).text for _ in range(4)} == {"a long boat "}
    assert len(server.asked) == 4
    server.models = (200, {}, b'{"data": [{"id": "other"}]}')
    with pytest.raises(LoadFailed, match="serves other"):
        load(engine)
