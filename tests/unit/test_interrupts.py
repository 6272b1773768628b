"""Ctrl-C is never lost, even where Python ignores what a signal handler raises."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator

import pytest

import src
from src import interrupts
from src.interrupts import threads


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupts.listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    interrupts._came = False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_is_an_interrupt(number: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupt_in_a_callback_is_raised_later() -> None:
    class Anything:
        pass

    thing = Anything()
    watched = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
    interrupts.raise_lost()
    del thing  # the interrupt strikes in the callback, where it is ignored
    assert watched() is None
    with pytest.raises(KeyboardInterrupt):
        interrupts.raise_lost()


def test_ignored_ctrl_c_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupts.listen()
    os.kill(os.getpid(), signal.SIGINT)
    interrupts.raise_lost()


@pytest.mark.parametrize(("started_as", "handler"), [("-m", signal.SIG_DFL), ("notebook", signal.default_int_handler)])
def test_early_ctrl_c_leaves_no_traceback(started_as: str, handler: object) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [started_as])
        importlib.reload(src)
    assert signal.getsignal(signal.SIGINT) is handler


def test_waiting_work_is_given_up_when_interrupted() -> None:
    began: list[int] = []

    def work(n: int) -> None:
        began.append(n)
        time.sleep(0.05)

    with threads(1) as pool:
        pool.map(work, range(100))
    assert len(began) < 10


def test_deferred_signal_of_a_plain_program_ends_it() -> None:
    """One that has no handler of its own, as a program that uses the Python API."""
    code = (
        "import os\nfrom src.interrupts import *\nwith interrupts_deferred():\n    os.kill(os.getpid(), 15)\nprint(1)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == -15 and not ended.stdout
