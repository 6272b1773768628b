"""Values from outside: what a text may be, names that stay inside a folder, secrets that do not show themselves.

A check is a function from a text to what is wrong with it, "" when nothing is; `Annotated[str, check]` as the type of a
field makes `records` apply it, whether the record comes from a host, from one of our own files or from the config.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn
from urllib.parse import urlsplit

Check = Callable[[str], str]


def shown(value: str, limit: int = 60) -> str:
    """Foreign text for a message: short, in quotes, without control characters."""
    short = value if len(value) <= limit else value[: limit - 1] + "…"
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in short) + '"'


# In the query of an address: signed links, and keys that are passed along.
SECRET_PARAMETER = re.compile(r"(?:key|token|secret|password|credential|sig)[^=&]*=", re.IGNORECASE)


def says_nothing(text: str) -> bool:
    """Whether a text holds no letter and no digit: blanks of any kind, marks without a width, quotation marks."""
    return not any(map(str.isalnum, text))


def matching(pattern: str, meaning: str) -> Check:
    """The check that a whole text matches a pattern; meaning: what it should be, for the message."""
    compiled = re.compile(pattern)
    return lambda value: "" if compiled.fullmatch(value) else f"{shown(value)} is not {meaning}"


def one_of(*words: str) -> Check:
    return lambda value: "" if value in words else f"{shown(value)} is not one of {', '.join(words)}"


_PLAIN_NAME = re.compile(r"\w[\w.-]{0,199}", re.ASCII)  # as most are


def _leaves(value: str) -> str:
    if _PLAIN_NAME.fullmatch(value):
        return ""
    parts = value.split("/")
    fits = len(value) <= 1024 and all(len(part.encode("utf-8", "replace")) <= 255 for part in parts)  # NAME_MAX
    inside = value and fits and not any(part in ("", ".", "..") for part in parts)
    return "" if inside and value.isprintable() else f"{shown(value)} is not the name of a file inside its folder"


def _names_more(value: str) -> str:
    return _leaves(value) or (f"{shown(value)} is not the name of one file" if "/" in value else "")


def _is_option(value: str) -> str:
    """An argument that stands alone must be neither an option nor two lines."""
    odd = value.startswith("-") or any(not c.isprintable() for c in value)
    return (
        f"{shown(value)} starts with - or holds a line break, so a program would not take it literally" if odd else ""
    )


def _holds_password(value: str) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as e:
        return f"is not an address ({e})"
    if "@" in parts.netloc or SECRET_PARAMETER.search(f"{parts.query}&{parts.fragment}"):
        return "holds a user or a secret, which would be written down; set engine.api_key_env or engine.api_key_file"
    if value and (not parts.hostname or port == 0 or any(not c.isprintable() or c == " " for c in value)):
        return f"{shown(value)} is not an address, as in http://localhost:8000/v1"
    return ""


def _variable(value: str) -> str:
    """The value is not repeated: it may be the secret itself, in place of its variable's name."""
    return "" if re.fullmatch(r"(?:[A-Za-z_][A-Za-z0-9_]*)?", value) else "is not the name of an environment variable"


_SECRET_NAME = re.compile(r"(?i)(?:.*_)?(?:api_?key|key|token|secret|password|passwd|credentials?)(?:_.*)?")


def is_secret_name(variable: str) -> bool:
    return bool(_SECRET_NAME.fullmatch(variable))


def _environment(entry: str) -> str:
    name, given, _ = entry.partition("=")
    if _variable(name) or not name:
        return "has an entry that is neither NAME nor NAME=VALUE"
    if given and is_secret_name(name):
        return f"{name}=… looks like a secret, which would be written down; give {name} alone to take the host's own"
    return ""


# A path below a folder that the reader knows; "" for none.
Relative = Annotated[str, lambda value: value and _leaves(value)]
FileName = Annotated[str, _names_more]  # a file directly in it
Word = Annotated[str, _is_option]  # stands alone in a command line
# With its options.
Command = Annotated[tuple[str, ...], lambda words: _is_option(words[0]) if words else "names no command"]
Url = Annotated[str, _holds_password]  # "" for none
Variable = Annotated[str, _variable]  # "" for none
Environment = Annotated[str, _environment]
Label = Annotated[str, lambda value: f"{shown(value)} is too long" if len(value) > 200 else ""]
PixelSize = Annotated[str, matching(r"[1-9]\d{0,4}x[1-9]\d{0,4}", "a size, as in 320x180")]
# Names as ssh accepts them on its command line: nothing in them is an option, a word of a shell or of a pattern.
_NAME, _IPV6 = r"\w(?:[\w-]|\.(?!\.))*(?::\d{1,5})?", r"\[?[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(?:%\w+)?\]?"
HostName = Annotated[
    str,
    matching(
        rf"(?:(?:\w[\w.+$-]*@)?(?:{_NAME}|{_IPV6}))?", "the name or address of a machine, as in gpu-box or 10.0.0.7"
    ),
]
UserName = Annotated[str, matching(r"(?:[\w.][\w.@\\+$-]*)?", "the name of a user")]
ImageName = Annotated[str, matching(r"(?:[\w][\w./:@+-]*)?", "the name of an image")]


def inside(folder: Path, name: str) -> Path:
    """The file of this name in a folder. ValueError for a name that leads out of it, also through a link."""
    if wrong := _leaves(name):
        raise ValueError(wrong)
    path = folder / name
    there = os.path.join(os.path.realpath(folder), *Path(name).parts[:-1])
    if os.path.realpath(path.parent) != there or path.is_symlink():
        raise ValueError(f"{shown(name)} leads out of {folder} through a link")
    return path


class Secret:
    """A key, a token or a password. It shows itself only where `reveal` is called, and cannot be pickled."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def masked(self, text: str) -> str:
        """A text of others, with *** where it repeats the secret."""
        return text.replace(self._text, "***") if self._text else text

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not written down")


def secret_of(text: str, where: str) -> Secret:
    """A secret as it can stand in a header. ValueError, which names where it came from, for one that cannot."""
    text = text.strip()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{where}: holds no key: one line of visible ASCII characters is needed")
    return Secret(text)


def secret_in(file: Path, where: str) -> Secret:
    """The secret that a file holds. ValueError for a file that others may read, is not there, or holds something else."""
    try:
        with open(file, encoding="utf-8") as f:
            if os.fstat(f.fileno()).st_mode & 0o077:
                raise ValueError(f"{where}: {file} can be read by others; chmod 600 it")
            return secret_of(f.read(65_536), where)
    except UnicodeDecodeError:
        raise ValueError(f"{where}: {file} holds no text") from None
    except OSError as e:
        raise ValueError(f"{where}: {file} cannot be read: {e.strerror}") from None


def secret_named(variable: str, file: str) -> Secret:
    """The secret in a file, or else in a variable of the environment. ValueError in words when there is none."""
    if file:
        return secret_in(Path(os.path.expanduser(file)), "engine.api_key_file")
    if not (text := os.environ.get(variable)):
        raise ValueError(f"the environment variable {variable} (engine.api_key_env) is not set")
    return secret_of(text, f"the environment variable {variable} (engine.api_key_env)")
