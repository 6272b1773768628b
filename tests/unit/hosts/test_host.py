"""This machine as a host, by the same commands as any other."""

from __future__ import annotations

import time

import pytest

from src.errors import HostError, LinkLost
from src.hosts.host import LocalHost, expanded


def test_a_command_reads_what_it_is_fed_and_says_how_it_ended() -> None:
    done = LocalHost().run(("sh", "-c", "cat; echo no >&2; exit 3"), [b"one ", b"two"])
    assert (done.code, done.out, done.said) == (3, b"one two", "no")


def test_much_goes_in_and_out_at_once() -> None:
    assert len(LocalHost().run(("cat",), [b"x" * 100_000] * 50).out) == 5_000_000


def test_a_command_that_does_not_answer_in_time_is_a_lost_link() -> None:
    started = time.monotonic()
    with pytest.raises(LinkLost, match="did not answer within"):
        LocalHost().run(("sleep", "30"), timeout_s=0.3)
    assert time.monotonic() - started < 10


def test_a_program_that_is_not_there_is_an_error_in_words() -> None:
    with pytest.raises(HostError, match="no-such-program cannot be run here"):
        LocalHost().run(("no-such-program",))


def test_a_stream_that_ends_badly_is_an_error() -> None:
    with pytest.raises(HostError, match="ended with 4: sorry"):
        list(LocalHost().stream(("sh", "-c", "echo some; echo sorry >&2; exit 4")))


@pytest.mark.parametrize(
    ("path", "absolute"),
    [
        ("~", "/home/me"),
        ("~/a", "/home/me/a"),
        ("a/../b", "/home/me/b"),
        ("/data//x", "/data/x"),
        ("~x", "/home/me/~x"),
    ],
)
def test_a_path_on_a_host_is_absolute(path: str, absolute: str) -> None:
    assert expanded(path, "/home/me") == absolute
