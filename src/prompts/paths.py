"""Where the path of a clip leads: relative to what, and spelled how."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from . import remote

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def expanded(path: str) -> Path:
    """A path with ~ expanded where it names a user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


@lru_cache(maxsize=4096)  # many items share a clip, and resolving a path is slow
def find_file(
    folder: Path, written: str, roots: tuple[str, ...] = (), checkouts: tuple[str, ...] = ()
) -> tuple[Path, str]:
    """The file that a path in a prompt file names, and a note where it was not found as it is written.

    It is relative to the folder of the file that names it. Where nothing is there, to one of `roots`, or, with a folder in
    it, of `checkouts` or of the folders above the file; then as it may have been meant: a file:// address, without blanks
    around it, with the separators of Windows, in another Unicode normal form. Without any of these: what it names.
    """
    above = (*checkouts, *map(str, Path(os.path.abspath(folder)).parents[:3]))
    bases = (str(folder), *roots, *(above if "/" in written or "\\" in written else ()))
    for spelling, note in _spellings(written):
        for base in bases:
            found = Path(os.path.abspath(Path(base).expanduser() / expanded(spelling)))
            if os.path.exists(found):
                return found, note or ("" if base is bases[0] else f"clip found in {base}")
    if written[:5].casefold() == "file:":
        return Path(os.path.abspath(folder / unquote(urlsplit(written).path))), ""
    if _SCHEME.match(written):
        return Path(written), ""  # an address is no path below a folder
    if address := remote.beside(folder, written):
        return address, ""
    return Path(os.path.abspath(folder / expanded(written))), ""


def _spellings(written: str) -> Iterator[tuple[str, str]]:
    yield written, ""
    if written[:5].casefold() == "file:":
        yield unquote(urlsplit(written).path), ""
    if (stripped := written.strip()) != written:
        yield stripped, "path read without the blanks around it"
    if "\\" in stripped:
        yield stripped.replace("\\", "/"), "path read with / in place of \\"
    for form in ("NFC", "NFD"):
        normal = unicodedata.normalize(form, stripped)
        if normal != stripped:
            yield normal, f"path read in Unicode's form {form}"
