"""The client of OpenAI-compatible servers: what it sends, what it reads, which error a refusal becomes."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest

from src.media.encode import blank_clip
from src.media.geometry import Size
from src.worker.answer_form import AnswerForm
from src.worker.chat import ChatClient, chat_body
from src.worker.engines.engine import ItemFailed, Picture, Refused, Request, Unavailable
from src.worker.job_settings import Example
from src.worker.lifecycle import LoadFailed, NoAccess
from tests.harness.records import item
from tests.harness.scripted_server import ScriptedServer, stream

REQUEST = Request(item("a", text="a boat"), (), 1, 20)


@pytest.fixture
def client(server: ScriptedServer) -> ChatClient:
    return ChatClient(server.url, "pixtral", None, 5.0, 0.6)


def test_images_precede_the_text(server: ScriptedServer, client: ChatClient) -> None:
    picture = Picture(b"png", "0" * 64, "1x1")
    client.ask(Request(item("a", system="be brief"), (picture, picture), 99, 20))
    [body] = server.asked
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert [c["type"] for c in body["messages"][1]["content"]] == ["image_url", "image_url", "text"]
    assert (body["model"], body["seed"], body["max_tokens"], body["temperature"]) == ("pixtral", 99, 20, 0.6)


def test_clip_is_sent_as_a_video(server: ScriptedServer, client: ChatClient, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(blank_clip(Size(96, 54), 4, 2))
    picture = Picture.read(tmp_path / "clip.mp4")
    assert picture.is_clip and picture.size == "96x54"
    [message] = chat_body("", "Describe it.", [picture.data])["messages"]
    part, text = message["content"]
    assert part["type"] == "video_url" and part["video_url"]["url"].startswith("data:video/mp4;base64,")
    assert text == {"type": "text", "text": "Describe it."}
    client.ask(Request(item("a", text="Describe it."), (picture,), 1, 20))
    assert server.asked[0]["messages"] == [message]


def test_examples_are_turns_before_the_request(server: ScriptedServer) -> None:
    examples = (Example("a cat", "A ginger cat sleeps."),)
    ChatClient(server.url, "m", None, 5.0, 0.6, examples=examples).ask(
        Request(item("a", system="S", text="a boat"), (), 1, 20)
    )
    turns = [("system", "S"), ("user", "a cat"), ("assistant", "A ginger cat sleeps."), ("user", "a boat")]
    assert [(m["role"], m["content"]) for m in server.asked[0]["messages"]] == turns
    assert chat_body("S", "a boat", [], examples)["messages"] == server.asked[0]["messages"]


def test_picture_for_a_blind_model_fails_its_item(server: ScriptedServer, client: ChatClient) -> None:
    server.script.append((500, {}, b'{"error": {"message": "image input is not supported"}}'))
    with pytest.raises(ItemFailed, match=r"check model\.mmproj"):
        client.ask(REQUEST)


def test_text_alone_is_a_plain_message(server: ScriptedServer, client: ChatClient) -> None:
    client.ask(REQUEST)
    assert server.asked[0]["messages"] == [{"role": "user", "content": "a boat"}]


def test_answer_reports_tokens_and_first_token(client: ChatClient) -> None:
    answer = client.ask(REQUEST)
    assert (answer.text, answer.finish_reason) == ("a long boat ", "stop")
    assert (answer.prompt_tokens, answer.output_tokens, answer.queue_s) == (7, 3, None)
    assert answer.first_token_s is not None


def test_queue_time_is_read_where_reported(server: ScriptedServer, client: ChatClient) -> None:
    metrics = b'data: {"choices": [], "metrics": {"queue_time_ms": 1500}}\n\n'
    server.script = [(200, {}, metrics + stream("a boat", 7))]
    assert client.ask(REQUEST).queue_s == 1.5


@pytest.mark.parametrize("letter", ["x", "風"])
def test_endless_answer_fails_its_item(server: ScriptedServer, client: ChatClient, letter: str) -> None:
    server.script = [(200, {}, stream(letter * (1 << 20), 7))]
    with pytest.raises(ItemFailed, match="more than 1048576 bytes"):
        client.ask(REQUEST)


def test_half_a_surrogate_pair_is_replaced(server: ScriptedServer, client: ChatClient) -> None:
    server.script = [(200, {}, stream("half \ud83d", 7))]
    assert client.ask(REQUEST).text == "half ? "


def test_connection_is_reused(server: ScriptedServer, client: ChatClient) -> None:
    client.ask(REQUEST)
    [connection] = client._idle
    client.ask(REQUEST)
    assert client._idle == [connection]


@pytest.mark.parametrize(
    ("status", "body", "error", "message"),
    [
        (400, "your prompt contains 4687 input tokens", Refused, "4687"),
        (400, "Token id 131073 is out of vocabulary", ItemFailed, "check model.tokenizer"),
        (400, "what?", ItemFailed, r"refused the request \(HTTP 400\): what\?"),
        (401, "who?", NoAccess, r"refused the key \(HTTP 401\): who\?"),
        (403, "who?", NoAccess, r"refused the key \(HTTP 403\): who\?"),
        (404, "which?", LoadFailed, r"no such model or address \(HTTP 404\): which\?: check engine\.base_url"),
        (429, "busy", Unavailable, "HTTP 429: busy"),
        (503, "away", Unavailable, "HTTP 503: away"),
    ],
)
def test_refusal_has_a_type_and_message(
    server: ScriptedServer, client: ChatClient, status: int, body: str, error: type[Exception], message: str
) -> None:
    server.script = [(status, {}, json.dumps({"error": {"message": body}}).encode())]
    with pytest.raises(error, match=message):
        client.ask(REQUEST)


@pytest.mark.parametrize(("header", "seconds"), [("2.5", 2.5), ("Wed, 21 Oct 2015 07:28:00 GMT", None), (None, None)])
def test_retry_after_is_in_seconds(
    server: ScriptedServer, client: ChatClient, header: str | None, seconds: float | None
) -> None:
    server.script = [(429, {"Retry-After": header} if header else {}, b"busy")]
    with pytest.raises(Unavailable) as error:
        client.ask(REQUEST)
    assert error.value.retry_after_s == seconds


def test_refusal_carries_the_counted_tokens(server: ScriptedServer, client: ChatClient) -> None:
    server.script = [(400, {}, b'{"error": {"message": "your prompt contains 4687 input tokens"}}')]
    with pytest.raises(Refused) as error:
        client.ask(REQUEST)
    assert (error.value.kind, error.value.prompt_tokens) == ("too_long", 4687)


def test_answer_without_usage_has_no_count(server: ScriptedServer, client: ChatClient) -> None:
    server.script = [(200, {}, stream("a boat", None))]
    answer = client.ask(REQUEST)
    assert (answer.text, answer.prompt_tokens) == ("a boat ", None)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (stream("half an", 7, done=False), http.client.HTTPException, "broke off"),
        (stream("half an", 7, finish="abort"), Unavailable, "aborted"),
        (b'data: {"error": {"message": "engine died"}}\n\n', Unavailable, "engine died"),
    ],
    ids=["no end", "aborted", "error"],
)
def test_broken_stream_is_no_answer(
    server: ScriptedServer, client: ChatClient, body: bytes, error: type[Exception], message: str
) -> None:
    server.script = [(200, {}, body)]
    with pytest.raises(error, match=message):
        client.ask(REQUEST)
    assert client.ask(REQUEST).text == "a long boat "  # over a new connection where needed


def test_turns_follow_the_message(server: ScriptedServer, client: ChatClient) -> None:
    client.ask(Request(item("a", text="a boat"), (), 1, 20, (("assistant", "no"), ("user", "again"))))
    assert [m["content"] for m in server.asked[0]["messages"]] == ["a boat", "no", "again"]


def test_refused_response_format_is_left_out(server: ScriptedServer) -> None:
    wanted = AnswerForm(form="json", schema='{"type": "object"}').response_format(100)
    client = ChatClient(server.url, "pixtral", None, 5.0, 0.6, response_format=wanted)
    server.script = [(400, {}, b'{"error": {"message": "unknown field: response_format"}}')]
    assert "without" in client.ask(REQUEST).note and "without" in client.ask(REQUEST).note
    assert ["response_format" in body for body in server.asked] == [True, False, False]


def test_other_refusal_keeps_the_response_format(server: ScriptedServer) -> None:
    wanted = AnswerForm(form="json", schema='{"type": "object"}').response_format(100)
    client = ChatClient(server.url, "pixtral", None, 5.0, 0.6, response_format=wanted)
    server.script = [(400, {}, b'{"error": {"message": "no such model"}}')]
    with pytest.raises(ItemFailed):
        client.ask(REQUEST)
    assert client.response_format


def test_query_of_the_address_stays(server: ScriptedServer) -> None:
    """As Azure wants one in each request."""
    client = ChatClient(f"{server.url}/?api-version=7", "pixtral", None, 5.0, 0.6)
    client.ask(Request(item("a"), (), 1, 10))
    client.get(f"{client.base.path}/models")
    assert server.paths == ["/v1/chat/completions?api-version=7", "/v1/models?api-version=7"]
