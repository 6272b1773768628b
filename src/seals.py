"""Seals: that a file of a run folder is as this program wrote it for this user.

A run folder may come from another user, and names programs, machines and folders. What is started by such a file is trusted
where its seal holds: a keyed hash of its bytes in a file beside it, with a key that only this user has.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .files import open_atomic, write_atomic

KEY_FILE = "~/.config/prompt-upsampler/seal.key"
_KEY_BYTES = 32


def seal(file: Path) -> None:
    """Seal a file as it is now; without a home to keep the key in, it stays without one."""
    if key := _key():
        write_atomic(_seal_of(file), f"{_hash(file, file.name, key)}\n")


@contextmanager
def open_sealed(path: Path) -> Iterator[IO[str]]:
    """As `open_atomic`, for a file with a seal. The seal comes first, beside that of the file before: a kill between the two
    leaves no file without one."""
    with open_atomic(path) as f:
        yield f
        f.flush()
        if key := _key():
            write_atomic(_seal_of(path), f"{_sealed(path)}\n{_hash(Path(f.name), path.name, key)}\n")


def holds(file: Path) -> bool:
    """Whether a file is what was sealed, with this user's key."""
    return bool(_sealed(file))


def _sealed(file: Path) -> str:
    """The hash of a file that is what was sealed; "" for any other."""
    try:
        written = _seal_of(file).read_bytes()[:500].split()
        now = _hash(file, file.name, key) if (key := _key()) else ""
    except OSError:
        return ""
    return now if now.encode() in written else ""


def _seal_of(file: Path) -> Path:
    return file.with_name(f".{file.name}.seal")


def _hash(file: Path, name: str, key: bytes) -> str:
    with open(file, "rb") as f:
        return hashlib.file_digest(f, lambda: hashlib.blake2b(name.encode(), key=key)).hexdigest()


def _key() -> bytes:
    """This user's key, made when there is none yet; b"" where it can be neither read nor kept."""
    with suppress(OSError, RuntimeError):
        path = Path(KEY_FILE).expanduser()
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
            try:
                os.close(os.open(aside, os.O_CREAT | os.O_EXCL, 0o600))
                aside.write_bytes(secrets.token_bytes(_KEY_BYTES))
                try:
                    os.link(aside, path)
                except OSError:
                    if not path.exists():  # a file system without links; else another process was faster
                        os.rename(aside, path)
            finally:
                aside.unlink(missing_ok=True)
        key = path.read_bytes()
        return key if len(key) == _KEY_BYTES and not path.stat().st_mode & 0o077 else b""
    return b""
