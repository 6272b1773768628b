"""This machine as a host: commands, streams, paths, messages of failed commands."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from src.errors import HostError, LinkLost
from src.hosts.host import WRONG, CommandResult, LocalHost, checked, expanded, unexpected_output


def test_command_reads_its_feed_and_ends() -> None:
    done = LocalHost().run(("sh", "-c", "cat; echo no >&2; exit 3"), [b"one ", b"two"])
    assert (done.code, done.out, done.message) == (3, b"one two", "no")


def test_large_data_flows_both_ways_at_once() -> None:
    assert len(LocalHost().run(("cat",), [b"x" * 100_000] * 50).out) == 5_000_000


HANGS = ("sh", "-c", "sleep 30; true")  # its child keeps the pipes open when only the shell is killed


@pytest.mark.parametrize(
    "use",
    [
        lambda host: host.run(HANGS),
        lambda host: list(host.stream(HANGS)),
        lambda host: host.run(("sh", "-c", "exec >&- 2>&-; sleep 30")),
        lambda host: host.run(HANGS, [b"x" * 1_000_000]),
    ],
    ids=["run", "stream", "closed output", "feed that is not taken"],
)
def test_silent_command_is_a_lost_link(use: Callable[[LocalHost], object]) -> None:
    started = time.monotonic()
    with pytest.raises(LinkLost, match=r"sh printed nothing for 0.05 s \(host\.command_timeout_s\)"):
        use(LocalHost(timeout_s=0.05))
    assert time.monotonic() - started < 10


def test_slow_command_that_moves_goes_on() -> None:
    slow = "for i in 1 2 3 4 5 6; do sleep 0.1; echo $i; done"
    assert LocalHost(timeout_s=0.4).run(("sh", "-c", slow)).out.split() == [b"1", b"2", b"3", b"4", b"5", b"6"]


def test_missing_program_is_named() -> None:
    with pytest.raises(HostError, match="no-such-program cannot be run here"):
        LocalHost().run(("no-such-program",))


def test_failed_stream_is_an_error() -> None:
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
def test_path_on_a_host_becomes_absolute(path: str, absolute: str) -> None:
    assert expanded(path, "/home/me") == absolute


def test_output_of_a_successful_command_is_returned() -> None:
    assert checked(CommandResult(0, b"out", b"a warning"), LocalHost(), "it cannot be done") == b"out"


@pytest.mark.parametrize(
    ("done", "error", "message"),
    [
        (CommandResult(1, b"", b"no\n  such file"), HostError, "local: it cannot be done: no such file"),
        (CommandResult(1, b"printed", b""), HostError, "local: it cannot be done: printed"),
        (CommandResult(9, b"", b""), HostError, "local: it cannot be done: ended with 9"),
        (CommandResult(WRONG, b"", b"a.png did not arrive as it was sent"), LinkLost, "did not arrive as it was sent"),
    ],
)
def test_failed_command_is_an_error(done: CommandResult, error: type[HostError], message: str) -> None:
    with pytest.raises(error, match=message):
        checked(done, LocalHost(), "it cannot be done")


def test_full_disk_has_a_hint() -> None:
    done = CommandResult(1, b"", b"tar: write error: No space left on device")
    with pytest.raises(HostError, match="No space left") as error:
        checked(done, LocalHost(), "files cannot be unpacked")
    assert "full" in error.value.hint


def test_unexpected_output_is_quoted_and_explained() -> None:
    error = unexpected_output(LocalHost("box"), "Welcome!\n" + "x" * 1000)
    assert error.message.startswith("box: unexpected output of a command: 'Welcome!\\nxxx")
    assert len(error.message) < 300 and ".bashrc" in error.hint
