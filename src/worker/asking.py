"""One request to the engine: when it leaves, and what is to blame where no answer comes: the item, the server, the key."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from .engines.engine import Answer, Engine, ItemFailed, Refused, Request, Unavailable
from .flow import Flow
from .lifecycle import NoAccess
from .suspects import Suspects
from .work import Work

BUSY_EVERY_S = 30.0  # so often at most it is said that the server takes no requests
TRIES = 7  # of an item whose request the server takes and does not answer
PAUSE_S = 0.05  # of an item whose last try another one holds up


class NotAsked(Exception):
    """The worker ends before the item had its turn, or the item comes again later."""


class Asker:
    """Asks the engine for the lanes of a worker. say: told now and then why the server answers nothing; stop: called once it has
    taken nothing for too long; the reason is then in `unavailable`."""

    def __init__(
        self, engine: Engine, flow: Flow[Work], suspects: Suspects, say: Callable[[str], None], stop: Callable[[], None]
    ) -> None:
        self._engine, self._flow, self._suspects, self._say, self._stop = engine, flow, suspects, say, stop
        self.unavailable = ""
        self._said_at = -BUSY_EVERY_S
        self._answers = 0  # of the server, to any request; it only matters whether there were more
        # Of items that break their connection: one at a time, or one that kills its server takes others with it.
        self._last_try = threading.Lock()

    def answer(self, ticket: int, work: Work, request: Request) -> Answer:
        """The engine's answer, once there is room in flight. Raises NotAsked when the item has to come again: one that the
        server did not take as the next of all, one that it did not answer as the last."""
        error, answers = None, 0
        with self._turn(work):
            if not self._flow.enter(ticket):
                raise NotAsked
            self._suspects.asked(work.item.id)
            try:
                return self._asked(work, request)
            except Unavailable as e:
                error, answers = e, self._answers  # before others have the place
            finally:
                self._suspects.back(work.item.id)
                may_come_again = self._flow.leave(ticket, error)
        self._put_back(ticket, work, error, answers, may_come_again=may_come_again)
        raise NotAsked

    @contextlib.contextmanager
    def _turn(self, work: Work) -> Iterator[None]:
        """The last try of an item that breaks its connection waits for those of others."""
        if not (work.broke and work.failures == TRIES - 1):
            yield
            return
        if not self._last_try.acquire(blocking=False):
            time.sleep(PAUSE_S)
            self._flow.put_back(work)
            raise NotAsked
        try:
            yield
        finally:
            self._last_try.release()

    def _asked(self, work: Work, request: Request) -> Answer:
        """An item is to blame only for what a server that answers others does to it; one that refuses the key may moderate."""
        if work.failures and work.answers_before == self._answers and (away := self._why_away(request)):
            raise _refused(away, str(away))
        try:
            answer = self._engine.answer(request)
        except NoAccess as e:
            if away := self._why_away(request):
                raise _refused(away, str(e)) from e
            raise ItemFailed(str(e)) from e
        self._answers += 1
        return answer

    def _why_away(self, request: Request) -> Unavailable | None:
        """Why the server does not even answer a short question; None where it does. Raises NoAccess."""
        item = replace(request.item, id="probe", system="", text="Hello.", frames=(), pins={})
        try:
            self._engine.answer(Request(item, (), request.seed, max_tokens=1))
        except Unavailable as e:
            return e
        except (Refused, ItemFailed):
            pass
        self._answers += 1
        return None

    def _put_back(self, ticket: int, work: Work, error: Unavailable, answers: int, *, may_come_again: bool) -> None:
        """The item has its turn again: at once where its request was not taken. Raises ItemFailed after too many others."""
        now = time.monotonic()
        if now - self._said_at >= BUSY_EVERY_S:
            self._said_at = now
            pause = f"; it asks to wait {error.retry_after_s:g} s" if error.retry_after_s else ""
            self._say(f"{error}{pause}")
        if error.refused:
            if not may_come_again:  # the items stay open: a later start asks them
                patience_s = self._flow.patience_s
                self.unavailable = f"the server took no request for {patience_s:g} s (engine.patience_s): {error}"
                self._stop()
            self._flow.put_back(work, ticket)
            return
        work.failures, work.answers_before, work.broke = work.failures + 1, answers, error.broke
        if work.failures == TRIES:
            raise ItemFailed(f"the server did not answer {TRIES} times: {error}") from error
        self._flow.put_back(work)


def _refused(away: Unavailable, said: str) -> Unavailable:
    """The request that led to the question counts as not taken, too."""
    return Unavailable(said, away.retry_after_s, refused=True, broke=away.broke)
