"""Ctrl-C and SIGTERM at moments when they would tear apart what belongs together."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
_came = False  # since `listen`


def listen() -> None:
    """SIGTERM means what Ctrl-C means: systemd, Slurm and Docker end a program so. Where Ctrl-C is ignored, it stays so."""
    global _came
    _came = False
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    global _came
    _came = True
    raise KeyboardInterrupt


def raise_lost() -> None:
    """Raise an interrupt that came and was lost: where one strikes in a callback of an import or of the garbage collector,
    Python ignores it."""
    if _came:
        raise KeyboardInterrupt


def in_background(work: Callable[[], T]) -> Future[T]:
    """Start work in a thread that ends with the program: nothing has to wait for it after Ctrl-C."""
    future = Future[T]()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as e:  # raised where the result is waited for
            future.set_exception(e)

    threading.Thread(target=run, daemon=True).start()
    return future


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads whose waiting work is given up when whoever waits for it is interrupted."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Keep Ctrl-C and SIGTERM waiting until the end of a short block.

    A signal mask would not do: with several threads, another one takes the signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is ever interrupted
        return
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came and callable(handler := before[signal.Signals(came[0])]):
        handler(came[0], None)
    elif came:
        os.kill(os.getpid(), came[0])
