"""Files to and from a host: one stream each way, never a round trip a file; verified by hash, and then renamed.

What arrives is collected in a folder of its own, whose name both ends know, so that what got through before a link
broke is not sent again.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from ..errors import FolderGone, HostError
from ..worker.values import inside, shown
from .host import CommandResult, Host, checked, reading, script

LARGE = 8 << 20  # files from this size on go one by one and are continued in their middle
PIECE = 1 << 18
BEGUN = 3  # exit code: something of an earlier try is there; it is listed, and nothing was taken in
GONE = 66  # exit code: the folder is not there, or was removed meanwhile

OnBytes = Callable[[int], None]

# Each script gets its values as arguments, never inside its text. $1 is the folder that files go to, $2 the name of
# the folder below it in which they are collected, $3 tells whether an earlier try is continued.
# Hashes are BLAKE2b: coreutils' b2sum takes a third of the time of its sha256sum.
# Paths are relative: a folder that is removed meanwhile is renamed first, and must not be created again. Whatever came of it then,
# the exit code is 66, also where another folder has its place by now.
ABSENT_IS_GONE = """
set -e
at=gone
trap '[ "$(stat -Lc %d:%i "$1" 2>/dev/null)" = "$at" ] || exit 66' EXIT
found=$(stat -Lc %d:%i "$1")
at=$found
"""
_TAKE = (
    ABSENT_IS_GONE
    + """
cd "$1"
mkdir -p "$2"
cd -P "./$2"
if [ "$3" = new ] && [ -n "$(ls -A)" ]; then find . -type f -printf '%s %P\\n'; exit 3; fi
tar -xf -
if ! b2sum --check --quiet --strict .sums >.wrong 2>/dev/null; then
  sed -n 's/: FAILED.*//p' .wrong | while IFS= read -r name; do rm -f "$name"; done
  echo "did not arrive as it was sent: $(head -c 300 .wrong)" >&2
  exit 65
fi
rm -f .wrong
cut -c131- .sums | sed 's|[^/]*$||' | sort -u | while IFS= read -r folder; do
  mkdir -p "../$folder"
  cut -c131- .sums | awk -v folder="$folder" '{ own = $0; sub("[^/]*$", "", own); if (own == folder) print }' |
    xargs -r -d '\\n' mv -f -t "../$folder"
done
rm -f .sums
cd -P .. && find "./$2" -depth -type d -empty -delete
"""
)
# $4 is the name, $5 how many bytes come; after them comes a line with the hash of the whole file.
_TAKE_LARGE = (
    ABSENT_IS_GONE
    + """
cd "$1"
mkdir -p "$2/$(dirname "$4")" "$(dirname "$4")"
cd -P "./$2"
if [ "$3" = new ]; then
  if [ -s "$4" ]; then stat -c '%s' "$4"; exit 3; fi
  got=$(head -c "$5" | tee "$4" | b2sum | cut -c1-128)
else
  head -c "$5" >> "$4"
  got=$(b2sum < "$4" | cut -c1-128)
fi
read -r sent
if [ "$got" != "$sent" ]; then rm -f "$4"; echo "$4 did not arrive as it was sent" >&2; exit 65; fi
mv -f "$4" "../$4"
cd -P .. && find "./$2" -depth -type d -empty -delete
"""
)


def send(
    host: Host, files: Mapping[str, Path], folder: str, key: str, *, on_bytes: OnBytes = lambda count: None
) -> None:
    """Bring files to a folder that is on the host, each under its own relative name; there they appear whole, or not at all.

    files: name -> local path; names consist of letters, digits and `._-/`. key: keeps what two controllers
    send at the same time apart. Raises HostError when it cannot be written there, FolderGone when there is no such folder,
    LinkLost when the link goes: then calling it again with the same key continues.
    """
    incoming = f".incoming-{key}"
    sizes = {name: path.stat().st_size for name, path in files.items()}
    for name, path in files.items():
        if sizes[name] >= LARGE:
            _send_large(host, name, path, sizes[name], folder, incoming, on_bytes)
    small = {name: path for name, path in files.items() if sizes[name] < LARGE}
    if not small:
        return
    done = host.run(script(_TAKE, folder, incoming, "new"), _tar(small, small.keys(), on_bytes))
    if done.code == BEGUN:
        with reading(host, done.out) as text:
            arrived = {name: int(size) for size, _, name in (line.partition(" ") for line in text.splitlines())}
        left = {name for name in small if arrived.get(name) != sizes[name]}
        done = host.run(script(_TAKE, folder, incoming, "again"), _tar(small, left, on_bytes))
    check_taken(done, host, "files cannot be put in place", folder)


def _send_large(host: Host, name: str, path: Path, size: int, folder: str, incoming: str, on_bytes: OnBytes) -> None:
    what = script(_TAKE_LARGE, folder, incoming, "new", name, str(size))
    done = host.run(what, _pieces(path, 0, on_bytes))
    if done.code == BEGUN:
        with reading(host, done.out) as text:
            start = min(max(int(text), 0), size)
        again = script(_TAKE_LARGE, folder, incoming, "again", name, str(size - start))
        done = host.run(again, _pieces(path, start, on_bytes))
    check_taken(done, host, f"{name} cannot be put in place", folder)


def check_taken(done: CommandResult, host: Host, what: str, folder: str) -> None:
    """Raise FolderGone where a script found no folder, HostError where it failed otherwise."""
    if done.code == GONE:
        raise FolderGone(f"{host.name}: {what}: there is no folder {folder}", folder=folder)
    checked(done, host, what)


def fetch(host: Host, folder: str, sizes: Mapping[str, int], target: Path) -> None:
    """Bring files of these names and sizes from a folder on the host; each appears whole in `target`, and none outside it.

    Raises HostError, LinkLost.
    """
    wanted = dict(sizes)
    source = _Reader(host.stream(("tar", "-C", folder, "-cf", "-", "--", *wanted)))
    try:
        with tarfile.open(fileobj=source, mode="r|", bufsize=PIECE) as archive:
            for member in archive:
                if not member.isfile() or member.size != wanted.pop(member.name, None):
                    raise HostError(
                        f"{host.name}: sent {shown(member.name)} of {member.size} bytes, which was not requested"
                    )
                try:
                    path = inside(target, member.name)
                except ValueError as e:
                    raise HostError(f"{host.name}: {e}") from None
                path.parent.mkdir(parents=True, exist_ok=True)
                aside = path.with_name(f".{path.name}.part")
                content = archive.extractfile(member)
                assert content is not None
                with open(aside, "wb") as f:
                    while piece := content.read(PIECE):
                        f.write(piece)
                os.replace(aside, path)
    except tarfile.TarError as e:
        raise HostError(f"{host.name}: {folder}: what tar sent cannot be read: {e}") from e
    source.drain()


class _Reader(io.RawIOBase):
    """An iterator of pieces as a file that can be read once."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, b""

    def read(self, size: int = -1) -> bytes:
        parts, have = [self._rest], len(self._rest)
        while have < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            parts.append(piece)
            have += len(piece)
        whole = b"".join(parts)
        self._rest = whole[size:]
        return whole[:size]

    def drain(self) -> None:
        """Read to the end, where the exit code of the other side is checked."""
        for _ in self._pieces:
            pass


def _pieces(path: Path, start: int, on_bytes: OnBytes) -> Iterator[bytes]:
    """The bytes of a file from `start` on, and then the hash of all of it as a line."""
    hashed = hashlib.blake2b()
    with open(path, "rb") as f:
        while f.tell() < start:
            hashed.update(f.read(min(PIECE, start - f.tell())))
        while piece := f.read(PIECE):
            hashed.update(piece)
            yield piece
            on_bytes(len(piece))
    yield f"{hashed.hexdigest()}\n".encode()


def _tar(files: Mapping[str, Path], sent: Collection[str], on_bytes: OnBytes) -> Iterator[bytes]:
    """Those of `files` that are `sent` as one tar stream, in pieces, and last `.sums` with the hashes of all; with fixed
    modes and owners."""
    held: list[bytes] = []
    sums: list[str] = []
    size = 0
    for name, path in files.items():
        data = path.read_bytes()
        sums.append(f"{hashlib.blake2b(data).hexdigest()}  {name}\n")
        if name not in sent:
            continue
        held += _entry(name, data)
        size += len(data) + 512
        if size >= PIECE:
            yield b"".join(held)
            on_bytes(size)
            held, size = [], 0
    yield b"".join([*held, *_entry(".sums", "".join(sums).encode()), b"\0" * 1024])
    on_bytes(size)


def _entry(name: str, data: bytes) -> tuple[bytes, ...]:
    header = tarfile.TarInfo(name)
    header.size, header.mode, header.mtime = len(data), 0o644, int(time.time())
    return header.tobuf(tarfile.USTAR_FORMAT), data, b"\0" * (-len(data) % 512)
