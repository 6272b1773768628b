"""Responses that come in pieces, over connections that break."""

from __future__ import annotations

import http.client
import os
import queue
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from src.worker import streams
from src.worker.chat import ChatClient
from src.worker.engines.engine import Request
from src.worker.records import InvalidRecord
from src.worker.streams import Reader, Response, send
from tests.harness.program import wait_for
from tests.harness.records import item
from tests.harness.scripted_server import ScriptedServer, stream

EVENTS = stream("a long boat", 7)
HEAD = b"HTTP/1.1 200 OK\r\n"


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    pair = socket.socketpair()
    yield pair
    for end in pair:
        end.close()


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize(
    "sent",
    [
        chunked(EVENTS, 5),
        chunked(EVENTS, 80),
        HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(EVENTS), EVENTS),
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + chunked(EVENTS, 80),
    ],
    ids=["small chunks", "chunks", "known length", "early hints"],
)
def test_body_is_whole_however_it_comes(ends: tuple[socket.socket, socket.socket], sent: bytes, size: int) -> None:
    ours, theirs = ends
    response = Response(ours, lambda events, first_s: None)
    ours.settimeout(0)
    is_whole = False
    for at in range(0, len(sent), size):
        assert not is_whole
        theirs.sendall(sent[at : at + size])
        is_whole = response.read()
    assert is_whole
    assert (response.status, response.body) == (200, EVENTS)


@pytest.mark.parametrize(
    "sent",
    [b"", HEAD, chunked(EVENTS, 9)[:-9], b"what?\r\n\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n\r\n"],
)
def test_closed_connection_is_an_error(ends: tuple[socket.socket, socket.socket], sent: bytes) -> None:
    ours, theirs = ends
    response = Response(ours, lambda events, first_s: None)
    Reader().add(response)
    theirs.sendall(sent)
    theirs.close()
    assert response.wait(10)
    assert isinstance(response.error, http.client.HTTPException)


@pytest.mark.parametrize("sent", [HEAD, HEAD + b"Transfer-Encoding: chunked\r\n\r\n7000000\r\n"])
def test_reply_without_end_is_bounded(
    ends: tuple[socket.socket, socket.socket], sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MOST_REPLY", 1000)
    response = Response(ends[0], lambda events, first_s: None)
    Reader().add(response)
    ends[1].sendall(sent + b"x" * 1000)
    assert response.wait(10)
    assert isinstance(response.error, InvalidRecord)


def test_silence_ends_at_its_time(ends: tuple[socket.socket, socket.socket]) -> None:
    response = Response(ends[0], lambda events, first_s: None)
    Reader().add(response)
    assert not response.wait(0.1)
    assert time.monotonic() - response.started >= 0.1


def test_kept_connection_is_read_again(ends: tuple[socket.socket, socket.socket]) -> None:
    reader = Reader()
    for number in range(3):
        response = Response(ends[0], lambda events, first_s: None)
        reader.add(response)
        ends[1].sendall(HEAD + b"Content-Length: 1\r\n\r\n%d" % number)
        assert response.wait(10) and response.body == b"%d" % number


def test_connection_dropped_while_it_is_read_is_forgotten(ends: tuple[socket.socket, socket.socket]) -> None:
    """A lane gives up just then; the next connection may get the same number."""
    reader = Reader()

    class Late(Response):
        def read(self) -> bool:
            reader.drop(self.sock.fileno())
            return super().read()

    response = Late(ends[0], lambda events, first_s: None)
    reader.add(response)
    ends[1].sendall(HEAD + b"Content-Length: 0\r\n\r\n")
    assert response.wait(10)
    again = Response(ends[0], lambda events, first_s: None)
    reader.add(again)
    ends[1].sendall(HEAD + b"Content-Length: 1\r\n\r\nx")
    assert again.wait(10) and again.body == b"x"


def test_closed_idle_connection_is_watched_no_more(ends: tuple[socket.socket, socket.socket]) -> None:
    reader, response = Reader(), Response(ends[0], lambda events, first_s: None)
    reader.add(response)
    ends[1].sendall(HEAD + b"Content-Length: 0\r\n\r\n")
    assert response.wait(10)
    ends[1].close()
    wait_for(lambda: not reader._selector.get_map())


@pytest.mark.parametrize(("is_counted", "pause_s"), [(False, streams.MOST_S), (True, streams.MOST_RELAXED_S)])
def test_tokens_the_server_counts_are_read_later(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, is_counted: bool, pause_s: float
) -> None:
    """What is read when tells the window how fast a server is, unless /metrics does."""
    pauses: queue.Queue[float] = queue.Queue()

    def pause(seconds: float) -> None:
        if threading.current_thread() is reader._thread:  # not that of an earlier test
            pauses.put(seconds)
        time.sleep(0.01)

    clock = SimpleNamespace(monotonic=time.monotonic, thread_time=time.thread_time, sleep=pause)
    monkeypatch.setattr(streams, "time", clock)
    reader, response = Reader(lambda: is_counted), Response(ends[0], lambda events, first_s: None)
    reader._every_s = 9.0  # as after answers of many minutes
    reader.add(response)
    ends[1].sendall(HEAD + b"Content-Length: 0\r\n\r\n")
    assert pauses.get(timeout=10) == pause_s


def test_idle_connection_that_closed_is_replaced(server: ScriptedServer) -> None:
    client = ChatClient(server.url, "pixtral", None, 5.0, 0.6)
    client.ask(Request(item("a"), (), 1, 20))
    client._idle[0].shutdown(socket.SHUT_RDWR)
    assert client.ask(Request(item("a"), (), 1, 20)).text == "a long boat "


@pytest.mark.parametrize("text", ['say "content": "x" \\', "a ü 😀 \n\t boat", '{"content": "no"}', "plain words"])
def test_long_streams_keep_every_letter(server: ScriptedServer, text: str) -> None:
    client = ChatClient(server.url, "pixtral", None, 5.0, 0.6)
    words = " ".join([text] * 9)
    server.script = [(200, {}, stream(words, 7))]
    assert client.ask(Request(item("a"), (), 1, 20)).text == words + " "


def test_large_body_is_sent_whole(ends: tuple[socket.socket, socket.socket]) -> None:
    mine, other = ends
    mine.settimeout(0)
    body, came = os.urandom(5_000_000), bytearray()

    def take() -> None:
        while len(came) < len(body):
            came.extend(other.recv(1 << 16))

    reading = threading.Thread(target=take)
    reading.start()
    send(mine, body, 30.0)
    reading.join(30)
    assert came == body


def test_body_that_is_not_taken_times_out(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[0].settimeout(0)
    with pytest.raises(TimeoutError):
        send(ends[0], bytes(50_000_000), 0.2)
