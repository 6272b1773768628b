"""Makes one call that writes fail, in any Python program that finds this on its PYTHONPATH; the product knows nothing of it.

FAIL_CALL=KIND NUMBER ERROR FOLDER MARK: the call of this kind (write, fsync, replace) with this number, counted from 1, that
touches a file below FOLDER fails with this error (ENOSPC, EIO), after half of the data where it writes some; once, or with a
minus before the number from then on. MARK is created when it happens. FAIL_ROLE: worker or controller, which alone is meant.
"""

from __future__ import annotations

import builtins
import errno
import io
import itertools
import os
import sys
from typing import Any


def install(kind: str, number: int, error: str, folder: str, mark: str) -> None:
    write, fsync, replace, rename, plain_open = os.write, os.fsync, os.replace, os.rename, io.open
    counted, code = itertools.count(1), getattr(errno, error)

    def fails(this: str, path: Any) -> bool:
        if this != kind:
            return False
        if isinstance(path, int):
            try:
                path = os.readlink(f"/proc/self/fd/{path}")
            except OSError:
                return False
        if not os.path.abspath(os.fsdecode(path)).startswith(folder):
            return False
        at = next(counted)
        if at == number or 0 < -number <= at:
            os.close(os.open(mark, os.O_CREAT | os.O_WRONLY))
            return True
        return False

    def failed() -> OSError:
        return OSError(code, os.strerror(code))

    class File(io.FileIO):
        def write(self, data: Any, /) -> int:
            if fails("write", self.fileno()):
                super().write(memoryview(data).cast("B")[: len(data) // 2])
                raise failed()
            return super().write(data)

    def failing_open(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        names = ("buffering", "encoding", "errors", "newline", "closefd", "opener")
        given = dict(zip(names, args, strict=False)) | kwargs
        if not set(mode) & set("wax+") or isinstance(file, int):
            return plain_open(file, mode, **given)
        raw = File(file, mode.replace("b", "").replace("t", ""), opener=given.get("opener"))
        if given.get("buffering") == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        line = given.get("buffering") == 1
        text = {name: given[name] for name in ("encoding", "errors", "newline") if name in given}
        return io.TextIOWrapper(buffered, line_buffering=line, **text)

    def failing_write(fd: int, data: Any, /) -> int:
        if fails("write", fd):
            write(fd, bytes(data)[: len(data) // 2])
            raise failed()
        return write(fd, data)

    def failing_fsync(fd: Any) -> None:
        if fails("fsync", fd):
            raise failed()
        fsync(fd)

    def failing_move(real: Any) -> Any:
        def move(source: Any, target: Any, **kwargs: Any) -> None:
            if fails("replace", target):
                raise failed()
            real(source, target, **kwargs)

        return move

    os.write, os.fsync, os.replace, os.rename = (
        failing_write,
        failing_fsync,
        failing_move(replace),
        failing_move(rename),
    )  # type: ignore[assignment]
    builtins.open = io.open = failing_open


if given := os.environ.get("FAIL_CALL"):
    role = "worker" if any(word.endswith("worker.pyz") for word in sys.orig_argv) else "controller"
    if role == os.environ.get("FAIL_ROLE"):
        kind, number, error, folder, mark = given.split(" ")
        install(kind, int(number), error, folder, mark)
