"""Commands through login shells of every kind, and replies among what those print by themselves."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from src.hosts.framing import LOGIN_COMMAND, Frame, Unframed

SHELLS = [shell for shell in ("sh", "bash", "dash", "tcsh", "fish", "zsh", "ksh") if shutil.which(shell)]
AWKWARD = (
    "sh",
    "-c",
    'printf "%s|" "$@"; cat; echo oops >&2; exit 3',
    "sh",
    "a 'b'",
    "!c",
    "$HOME",
    "d\ne\\n",
    "%s",
    "é",
)


def reply(
    shell: str, argv: tuple[str, ...], feed: bytes = b"", before: str = "", after: str = ""
) -> tuple[int, bytes, bytes]:
    """What a command answers through a login shell that prints before and after it."""
    frame = Frame(argv)
    done = subprocess.run(
        ["sh", "-c", f'{before}\n"$0" -c "$1"; code=$?; {after or ":"}; exit $code', shell, LOGIN_COMMAND],
        input=frame.line + feed, capture_output=True, check=False, timeout=20,
    )  # fmt: skip
    return frame.reply(done.stdout, done.stderr, done.returncode)


@pytest.mark.parametrize("shell", SHELLS)
def test_any_login_shell_runs_commands_unchanged(shell: str) -> None:
    expected = "|".join((*AWKWARD[4:], "")).encode() + b"fed\nlast"
    assert reply(shell, AWKWARD, b"fed\nlast") == (3, expected, b"oops\n")


@pytest.mark.parametrize("noise", ["echo '*** welcome ***'", "printf 'no line end'", "echo warning >&2"])
def test_what_a_shell_prints_is_left_out(noise: str) -> None:
    assert reply("sh", ("echo", "mine"), before=noise, after=noise)[:2] == (0, b"mine\n")


def test_streamed_output_starts_after_the_noise() -> None:
    frame = Frame(("tar",))
    pieces = iter([b"*** wel", b"come ***\n" + frame.mark.encode()[:5], frame.mark.encode()[5:] + b"\nab", b"cd"])
    assert b"".join(frame.stream(pieces)) == b"abcd"


def test_shell_without_commands_is_told() -> None:
    frame = Frame(("true",))
    with pytest.raises(Unframed, match="not available"):
        frame.reply(b"This account is currently not available.\n", b"", 1)
    with pytest.raises(Unframed, match="not available"):
        list(frame.stream(iter([b"not available"])))
