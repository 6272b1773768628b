"""Several servers of one model: who is asked, who is left out and when it is asked again."""

from __future__ import annotations

import threading
from collections import Counter
from typing import cast
from urllib.parse import urlsplit

import pytest

from src.worker.chat import ChatClient, NotConnected
from src.worker.endpoints import DOWN_S, FAILURES, Endpoints
from src.worker.engines.engine import Answer, Request, Unavailable
from tests.harness.records import item

REQUEST = Request(item("a"), (), 1, 20)


class FakeClient:
    """Answers with its name, or raises what `error` is."""

    def __init__(self, name: str) -> None:
        self.name, self.asked, self.page = name, 0, f"page of {name}"
        self.base = urlsplit(f"http://{name}/v1")
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def ask(self, request: Request) -> Answer:
        self.asked += 1
        self.gate.wait(10)
        if self.error:
            raise self.error
        return Answer(self.name, "stop", 1, 1)

    def metrics_page(self) -> str:
        if self.error:
            raise OSError("gone")
        return self.page


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clients() -> list[FakeClient]:
    return [FakeClient("a"), FakeClient("b"), FakeClient("c")]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def endpoints(clients: list[FakeClient], clock: Clock) -> Endpoints:
    return Endpoints(cast(list[ChatClient], clients), clock)


def answers(servers: Endpoints, count: int) -> Counter[str]:
    return Counter(servers.ask(REQUEST).text for _ in range(count))


def test_requests_go_where_fewest_are_open(clients: list[FakeClient], clock: Clock) -> None:
    servers = endpoints(clients, clock)
    for client in clients:
        client.gate.clear()
    threads = [threading.Thread(target=servers.ask, args=(REQUEST,)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for client in clients:
        client.gate.set()
    for thread in threads:
        thread.join()
    assert sum(client.asked for client in clients) == 12
    assert all(client.asked >= 3 for client in clients)


def test_what_is_not_taken_goes_to_another(clients: list[FakeClient], clock: Clock) -> None:
    clients[0].error = NotConnected("refused")
    servers = endpoints(clients, clock)
    assert answers(servers, 20)["a"] == 0
    assert clients[0].asked == 1  # then it is left out
    clock.now += DOWN_S
    clients[0].error = None
    assert answers(servers, 20)["a"] == 20  # all have none open, and it is the first


def test_server_that_stays_away_is_asked_less(clients: list[FakeClient], clock: Clock) -> None:
    clients[0].error = NotConnected("refused")
    servers = endpoints(clients, clock)
    for _ in range(600):
        servers.ask(REQUEST)
        clock.now += 1
    assert 4 <= clients[0].asked <= 12


@pytest.mark.parametrize("error", [Unavailable("HTTP 500: no"), ConnectionResetError("broken")], ids=["5xx", "broken"])
def test_server_that_fails_long_is_left_out(clients: list[FakeClient], clock: Clock, error: Exception) -> None:
    clients[0].error = error
    servers = endpoints(clients, clock)
    for _ in range(FAILURES):
        with pytest.raises(Unavailable):
            servers.ask(REQUEST)
    assert answers(servers, 20)["a"] == 0


def test_busy_server_is_spared_as_it_asks(clients: list[FakeClient], clock: Clock) -> None:
    clients[0].error = Unavailable("HTTP 429: busy", 7.0, refused=True)
    servers = endpoints(clients, clock)
    answers(servers, 5)
    clock.now += 6.9
    answers(servers, 5)
    assert clients[0].asked == 1
    clock.now += 0.2
    answers(servers, 1)
    assert clients[0].asked == 2


def test_all_that_refuse_are_an_error(clients: list[FakeClient], clock: Clock) -> None:
    for client in clients:
        client.error = NotConnected("refused")
    with pytest.raises(Unavailable) as raised:
        endpoints(clients, clock).ask(REQUEST)
    assert raised.value.refused
    assert [client.asked for client in clients] == [1, 1, 1]


def test_load_of_all_is_one_page(clients: list[FakeClient], clock: Clock) -> None:
    servers = endpoints(clients, clock)
    assert servers.metrics_page() == "page of a\npage of b\npage of c"
    clients[1].error = OSError("gone")
    assert servers.metrics_page() == "page of a\npage of b\npage of c"  # its last one
    for client in clients:
        client.error = OSError("gone")
    with pytest.raises(OSError, match="gone"):
        servers.metrics_page()
