"""Text for people: durations, command lines, printable characters."""

from __future__ import annotations

import re
import shlex
import sys
import textwrap
from pathlib import Path

# As it was started, so that a printed command works where it is printed: a console script may have no `python` beside it.
PROGRAM = "upsample" if Path(sys.argv[0]).name == "upsample" else f"python -m {__package__}.run"


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Text without characters that move a terminal's cursor or reverse its writing direction; lines stay lines."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\u{ord(c):04x}" for c in text)


def is_valid_text(text: str) -> bool:
    """Whether UTF-8 has bytes for it: half of a surrogate pair has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def natural_key(name: str) -> list[tuple[str, int]]:
    """Sorts names as people number them: 4k before 16k, frame 2 before frame 10."""
    return [(word, int(number or 0)) for word, number in re.findall(r"(\D*)(\d*)", name)]


def cell(value: object) -> object:
    """A value for a spreadsheet: a text that it would run as a formula gets an apostrophe before it (OWASP, CSV Injection),
    a bare carriage return, which ends a row for some readers, is a line break, and other control characters are named."""
    if not value or not isinstance(value, str) or (value.isprintable() and value[:1].isalnum()):  # as most are
        return value
    text = _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", value.replace("\r\n", "\n").replace("\r", "\n"))
    is_number = re.fullmatch(r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?", text)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) and not is_number else text


def wrapped(text: str, width: int) -> str:
    """Lines broken between words to fit a terminal. Commands stay whole, since people paste them, and so do quotations of
    files, which are indented deeply."""

    def fill(line: str) -> str:
        if len(line) <= width or f"{PROGRAM} " in line or line.startswith("      "):
            return line
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)

    return "\n".join(map(fill, text.split("\n")))


# What Hydra reads as a number, a truth value or nothing: 2026_01, 1e5, null.
_OF_ANOTHER_TYPE = re.compile(r"null|true|false|[-+]?(?:inf|nan|[0-9._]+(?:e[-+]?[0-9_]+)?)", re.IGNORECASE)


# Flags of Hydra that a word follows.
FLAGS_WITH_A_WORD = (
    "--cfg", "-c", "--package", "-p", "--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--info", "-i",
)  # fmt: skip


def is_other_type(value: str) -> bool:
    """Whether Hydra reads a text as something else."""
    return bool(_OF_ANOTHER_TYPE.fullmatch(value))


def run_command(words: str, folder: Path) -> str:
    """The command with a run's folder, quoted for Hydra and for the shell where the path needs it.

    words: overrides, the last of them without its value, as in "task=cancel run".
    """
    *others, key = words.split()
    return " ".join((PROGRAM, *others, path_override(key, folder)))


def path_override(key: str, path: Path) -> str:
    """The override that sets a field to a path, quoted for Hydra and for the shell where the path needs it."""
    override = plain_override(key, str(path))
    return override if override == f"{key}={path}" else shlex.quote(override)


def plain_override(key: str, value: str) -> str:
    """The override that sets a field to a text, quoted for Hydra where the text needs it."""
    plain = re.fullmatch(r"[A-Za-z0-9_./-]+", value) and not is_other_type(value)
    return f"{key}={value}" if plain else f"{key}={hydra_quoted(value)}"


def overrides_in(command: str) -> list[str]:
    """The overrides of a command line of this program, without the shell's quotes."""
    return shlex.split(command.removeprefix(PROGRAM))


def resume_command(folder: Path) -> str:
    """The command that resumes whatever is in a folder: a run, a pipeline, a review, a limits sweep."""
    return run_command("resume", folder)


def hydra_quoted(value: str) -> str:
    """A value as Hydra's command line reads it back, whatever letters it has: a backslash escapes a quotation mark, and
    itself only before one."""
    return '"' + re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), value) + '"'


def counted(number: int, word: str) -> str:
    """1 video, 2 videos."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """For what was estimated, or took long."""
    if seconds < 90:
        return f"{max(seconds, 0.1):.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def age(seconds: float) -> str:
    """How long ago something was, in one word."""
    for unit, length_s in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length_s:
            return f"{seconds // length_s:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def precise_duration(seconds: float) -> str:
    """For what was measured, to the digit that was measured."""
    if seconds < 0.001:
        return "less than 1 ms"
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 10 else duration(seconds)


def remaining(seconds: float) -> str:
    """For what is still to come, in one word."""
    return f"{seconds:.0f}s" if seconds < 90 else duration(seconds).replace(" ", "")
