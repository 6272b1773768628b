"""Files that appear whole or not at all, and names that are safe on every system."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_PIECE = 4 << 20
_OF_A_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# Names that Windows keeps for devices; specs travel between machines.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def relative(path: Path) -> Path:
    """Below the working directory as a relative path, which people can read and paste."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path


def bundled(name: str) -> Path:
    """A file or folder that comes with the program: inside an installed package, and beside it in a checkout."""
    inside = Path(__file__).parent / name
    return inside if inside.exists() else Path(__file__).parents[1] / name


def file_sha256(path: Path, each: Callable[[], object] = lambda: None) -> str:
    """SHA-256 of a file. each: called with every piece, so that a large file can be given up."""
    hashed = hashlib.sha256()
    with open(path, "rb") as f:
        while piece := f.read(_PIECE):
            each()
            hashed.update(piece)
    return hashed.hexdigest()


def is_safe_name(name: str) -> bool:
    """Whether a name can be a file name as it stands, on every system."""
    return bool(_SAFE_NAME.fullmatch(name)) and not name.endswith(".") and not _RESERVED.fullmatch(name)


def safe_name(name: str) -> str:
    """`name` if it is a safe file name; else what can be kept of it plus a hash that keeps it apart from others."""
    if is_safe_name(name):
        return name
    kept = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-._")[:40]
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{kept}-{digest}" if kept else f"item-{digest}"


def aside_of(path: Path) -> Path:
    """Where a file or folder is made before it is renamed; its name tells which process makes it."""
    return path.with_name(f".{path.name}.part-{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(4)}")


def clear_asides(*folders: Path) -> None:
    """Remove what processes of this machine were making in these folders when they were killed."""
    for path in (
        found for folder in folders for found in folder.glob(f".*.part-{glob.escape(os.uname().nodename)}-*-*")
    ):
        maker = path.name.rsplit("-", 2)[1]
        if maker.isdecimal() and not Path("/proc", maker).exists() and Path("/proc/self").exists():
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True)


def link_atomic(source: Path, target: Path) -> None:
    """The same file under another name, unless that is there; a copy where the file system has no links."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(target)
    try:
        try:
            os.link(source.resolve(), aside)
        except OSError:
            shutil.copyfile(source, aside)
        os.replace(aside, target)
    finally:  # also where another thread was faster: a rename onto the same file does nothing
        aside.unlink(missing_ok=True)


@contextmanager
def open_atomic(path: Path, *, errors: str = "strict") -> Iterator[IO[str]]:
    """A text file to write into, which stands at `path` when the block ends well, and nowhere when it does not.

    It is written aside, flushed to disk and renamed, with the mode of the file before; a missing folder is made. errors:
    what to do about characters that UTF-8 has no bytes for, as in `open`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path)
    try:
        with open(aside, "w", encoding="utf-8", errors=errors, newline="") as f:
            with suppress(FileNotFoundError):
                shutil.copymode(path, aside)
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(aside, path)
    except BaseException as e:
        aside.unlink(missing_ok=True)
        if isinstance(e, OSError) and e.errno in _OF_A_DISK:  # a failed write does not say of which file
            e.filename = e.filename or str(path)
        raise


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file as `open_atomic` does."""
    with open_atomic(path) as f:
        if isinstance(data, str):
            f.write(data)
        else:
            f.buffer.write(data)  # type: ignore[attr-defined]


@contextmanager
def folder_atomic(path: Path) -> Iterator[Path]:
    """A folder to write into, which stands at `path`, in place of what stood there, when the block ends well, and nowhere
    when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path)
    old = path.with_name(f"{aside.name}.old")
    aside.mkdir()
    try:
        yield aside
        if path.exists():
            os.rename(path, old)
        os.rename(aside, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.rename(old, path)
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
