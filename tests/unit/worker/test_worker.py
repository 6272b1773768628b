"""The worker: its journal, its job folder, and how it treats each answer. The engine is a small fake; all else is real."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from src.worker import upsample
from src.worker.journal import Journal, read_records
from src.worker.lifecycle import run
from src.worker.protocol import CANCELLED, LOCKED, PROTOCOL, TIMEOUT, Answer, ItemFailed, ItemKept, LoadFailed, Request

Say = Callable[[Request], Answer]
SOURCE = Path(upsample.__file__)


def said(text: str, finish_reason: str = "stop", prompt_tokens: int | None = None) -> Answer:
    return Answer(text, finish_reason, prompt_tokens, len(text))


def own_words(request: Request) -> Answer:
    return said(f"A long and faithful prompt for {request.item.id}.")


class FakeEngine:
    """Answers with what a function says; remembers what it was asked."""

    name, version = "fake", "1"

    def __init__(self, say: Say = own_words, concurrency: int = 1, load: Callable[[], None] = lambda: None) -> None:
        self.say, self.concurrency, self._load = say, concurrency, load
        self.rungs: list[str] = []
        self.asked: list[Request] = []
        self.closed = 0

    def load(self, phase: Callable[..., None]) -> None:
        self._load()

    def answer(self, request: Request) -> Answer:
        self.asked.append(request)
        return self.say(request)

    def close(self) -> None:
        self.closed += 1


def line(item_id: str, **fields: Any) -> dict[str, Any]:
    """A batch line; fields that a test does not care about have plain values."""
    plain: dict[str, Any] = {
        "id": item_id, "prompt": f"prompt {item_id}", "text": f"prompt {item_id}", "system": "", "frames": [],
        "predicted": None, "max_tokens": 300, "seed": 7, "step": 0, "note": "",
    }  # fmt: skip
    return plain | fields


def stage(folder: Path, lines: Iterable[dict[str, Any]], name: str = "00000", *, closed: bool = True) -> None:
    (folder / "batches").mkdir(exist_ok=True)
    aside = folder / f"{name}.part"
    with open(aside, "w", encoding="ascii") as f:
        f.writelines(json.dumps(record) + "\n" for record in lines)
    aside.rename(folder / "batches" / f"{name}.jsonl")
    if closed:
        (folder / "closed").touch()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job folder without items, whose name would trip up a shell."""
    path = tmp_path / "job with 'quotes', ünïcode"
    path.mkdir()
    write_job(path)
    return path


def write_job(path: Path, **changes: Any) -> None:
    job = {
        "protocol": PROTOCOL, "engine": {"name": "fake", "max_attempts": 3, "grace_s": 30.0},
        "checks": {"cut_off": True, "script": ""}, "max_model_len": 4096, "linger_s": 30.0,
    }  # fmt: skip
    (path / "job.json").write_text(json.dumps(job | changes))


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """The worker takes over signals; pytest wants them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def serve(folder: Path, engine: FakeEngine) -> int:
    return run(folder, lambda job, folder: engine)


def results(folder: Path) -> list[dict[str, Any]]:
    return list(read_records(folder / "results.jsonl"))


def only_result(folder: Path) -> dict[str, Any]:
    [result] = results(folder)
    return result


def exit_record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "exit.json").read_text())
    return record


def wait_for(what: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


class Child:
    """A worker in a process of its own, forked from this one, with an engine made here."""

    def __init__(self, folder: Path, engine: FakeEngine) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            signal.signal(
                signal.SIGINT, signal.default_int_handler
            )  # tests in the background inherit that it is ignored
            code = 99
            with contextlib.suppress(BaseException):
                code = serve(folder, engine)
            os._exit(code)

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def png(width: int, height: int) -> bytes:
    """A black PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 1) * height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


# ----------------------------------------------------------------------------------------------------------- journal


def test_a_journal_cut_at_any_byte_keeps_the_whole_lines_and_takes_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    records: list[dict[str, Any]] = [
        {"id": "a", "text": "one"},
        {"id": "b", "text": "zwei \u2028 \U0001f327"},
        {"id": "c", "n": None},
    ]
    journal = Journal(path)
    for record in records:
        journal.append(record)
    journal.close()
    data = path.read_bytes()
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        journal = Journal(path)
        journal.append({"id": "new"})
        journal.close()
        assert list(read_records(path)) == [*records[: data[:cut].count(b"\n")], {"id": "new"}], cut


@pytest.mark.parametrize("tail", [1, 65_535, 65_536, 65_537, 200_000])
def test_a_torn_tail_of_any_length_is_cut_off(tmp_path: Path, tail: int) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"id":"a"}\n' + b"x" * tail)
    Journal(path).close()
    assert path.read_bytes() == b'{"id":"a"}\n'


def test_a_torn_tail_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"id":"a"}\n{"id":"b"}')  # whole JSON, but never committed
    assert list(read_records(path)) == [{"id": "a"}]


def test_line_separators_inside_an_answer_do_not_split_its_record(folder: Path) -> None:
    text = "first\u2028second\u2029third\x85fourth\x0b\x0c\x1c\x1d\x1e\r\nlast 雨 \U0001f327 \x00"
    stage(folder, [line("a"), line("b")])
    serve(folder, FakeEngine(lambda r: said(text) if r.item.id == "a" else own_words(r)))
    assert [r["text"] for r in results(folder)] == [text, "A long and faithful prompt for b."]
    assert (folder / "results.jsonl").read_bytes().count(b"\n") == 2


@contextlib.contextmanager
def room_for(path: Path, more_bytes: int) -> Iterator[None]:
    """No file may grow beyond the size of `path` plus this: writes are cut short, as on a disk that fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_record_that_the_disk_has_no_room_for_is_an_error_and_never_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    journal.append({"id": "a"})
    with room_for(path, 10), pytest.raises(OSError, match=r"."):
        journal.append({"id": "b", "text": "x" * 100})
    journal.append({"id": "c"})  # there is room again
    journal.close()
    assert list(read_records(path)) == [{"id": "a"}, {"id": "c"}]


def test_a_number_that_is_no_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    with pytest.raises(ValueError, match="JSON"):
        journal.append({"x": float("nan")})
    journal.close()
    assert (tmp_path / "j.jsonl").read_bytes() == b""


def test_records_of_many_threads_do_not_mix(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    threads = [
        threading.Thread(target=lambda n=n: [journal.append({"n": n, "k": k, "x": "y" * 3000}) for k in range(20)])  # type: ignore[misc]
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    found = [(r["n"], r["k"]) for r in read_records(tmp_path / "j.jsonl")]
    assert sorted(found) == [(n, k) for n in range(8) for k in range(20)]


# ------------------------------------------------------------------------------------------------ one item, one result


@pytest.mark.parametrize("lanes", [1, 8])
def test_every_item_ends_once_however_often_it_is_staged(folder: Path, lanes: int) -> None:
    ids = [f"i{n}" for n in range(60)]
    stage(folder, [line(i) for i in ids + ids[:10]], "00000", closed=False)
    stage(folder, [line(i) for i in ids[30:]], "00001")
    engine = FakeEngine(concurrency=lanes)
    assert serve(folder, engine) == 0
    assert Counter(r["id"] for r in results(folder)) == Counter(ids)
    assert Counter(r.item.id for r in engine.asked) == Counter(ids)
    assert exit_record(folder) == {"code": 0, "state": "done", "not_started": [], "answered": 60}


def test_items_are_asked_in_the_order_of_the_batches(folder: Path) -> None:
    stage(folder, [line("c"), line("a")], "00001", closed=False)
    stage(folder, [line("b"), line("d")], "00000")
    engine = FakeEngine()
    serve(folder, engine)
    assert [r.item.id for r in engine.asked] == ["b", "d", "c", "a"]


def test_a_restarted_worker_asks_only_what_has_no_result(folder: Path) -> None:
    stage(folder, [line(f"i{n}") for n in range(10)])

    def die_at_the_sixth(request: Request) -> Answer:
        if request.item.id == "i5":
            os.kill(os.getpid(), signal.SIGKILL)
        return own_words(request)

    assert Child(folder, FakeEngine(die_at_the_sixth)).wait() == -signal.SIGKILL
    assert len(results(folder)) == 5
    engine = FakeEngine()
    assert serve(folder, engine) == 0
    assert [r.item.id for r in engine.asked] == [f"i{n}" for n in range(5, 10)]
    assert [r["id"] for r in results(folder)] == [f"i{n}" for n in range(10)]


def test_killed_at_random_moments_every_item_still_ends_exactly_once(folder: Path) -> None:
    ids = [f"i{n}" for n in range(40)]
    stage(folder, [line(i) for i in ids])
    dice = random.Random(20261121)

    def slowly(request: Request) -> Answer:
        time.sleep(0.02)
        return own_words(request)

    kills = 0
    while len(results(folder)) < len(ids):
        child = Child(folder, FakeEngine(slowly, concurrency=2))
        goal = min(len(results(folder)) + dice.randrange(0, 6), len(ids))
        wait_for(lambda goal=goal: len(results(folder)) >= goal)  # type: ignore[misc]
        child.kill()
        child.wait()
        with open(folder / "results.jsonl", "ab") as f:
            f.write(b'{"id":"torn'[: dice.randrange(11)])
        kills += 1
    assert serve(folder, FakeEngine()) == 0
    assert kills > 5
    assert Counter(r["id"] for r in results(folder)) == Counter(ids)


def test_answers_of_before_a_restart_still_count_as_seen(folder: Path) -> None:
    stage(folder, [line("a")])
    assert Child(folder, FakeEngine(lambda r: said("the same words for all"))).wait() == 0
    stage(folder, [line("b")], "00001")
    serve(folder, FakeEngine(lambda r: said("the same words for all")))
    assert [(r["id"], r["state"]) for r in results(folder)] == [("a", "upsampled"), ("b", "kept")]


def test_a_result_tells_which_pictures_were_sent(folder: Path) -> None:
    (folder / "frames").mkdir()
    (folder / "frames" / "one.png").write_bytes(png(320, 180))
    stage(folder, [line("a", frames=["frames/one.png"])])
    engine = FakeEngine()
    serve(folder, engine)
    [frame] = only_result(folder)["frames"]
    assert (frame["size"], frame["bytes"]) == ("320x180", len(png(320, 180)))
    assert engine.asked[0].pictures[0].data == png(320, 180)


def test_an_item_whose_picture_is_missing_fails_by_itself_and_names_it(folder: Path) -> None:
    stage(folder, [line("a", frames=["frames/gone.png"]), line("b")])
    assert serve(folder, FakeEngine()) == 0
    first, second = results(folder)
    assert (first["state"], second["state"]) == ("failed", "upsampled")
    assert "gone.png" in first["reason"]


def test_an_error_of_the_engine_is_not_blamed_on_a_picture(folder: Path) -> None:
    stage(folder, [line("a"), line("b")])

    def unreadable(request: Request) -> Answer:
        if request.item.id == "a":
            raise OSError("cannot identify image file")  # Pillow's UnidentifiedImageError is an OSError like this
        return own_words(request)

    serve(folder, FakeEngine(unreadable))
    reason = next((r["reason"] for r in results(folder) if r["id"] == "a"), exit_record(folder).get("reason", ""))
    assert "cannot identify image file" in reason
    assert "None" not in reason


# ------------------------------------------------------------------------------------------------------------ retries


def test_each_try_has_a_seed_of_its_own_and_the_first_good_answer_counts(folder: Path) -> None:
    stage(folder, [line("a", seed=40)])
    engine = FakeEngine(lambda r: own_words(r) if r.seed == 42 else said(""))
    serve(folder, engine)
    result = only_result(folder)
    assert [r.seed for r in engine.asked] == [40, 41, 42]
    assert (result["state"], result["reason"]) == ("upsampled", "")
    assert [a["flaw"] for a in result["attempts"]] == ["empty answer", "empty answer", None]


@pytest.mark.parametrize(
    ("text", "finish_reason", "reason"),
    [
        ("", "stop", "empty answer, 3 times"),
        (" \n\t ", "stop", "empty answer, 3 times"),
        ("A sentence that breaks off in the", "length", "cut off at the token limit, 3 times"),
        ("A red kite, high above the dunes of Fanø.", "stop", "echo of the prompt, 3 times"),
        ("a RED kite,\n high above  the dunes of fanø.", "stop", "echo of the prompt, 3 times"),
        ("high above the dunes of Fanø.", "stop", "echo of the prompt, 3 times"),
    ],
)
def test_an_answer_that_stays_flawed_is_kept_with_the_reason_and_never_passed_off(
    folder: Path, text: str, finish_reason: str, reason: str
) -> None:
    stage(folder, [line("a", prompt="A red kite, high above the dunes of Fanø.")])
    serve(folder, FakeEngine(lambda r: said(text, finish_reason)))
    result = only_result(folder)
    assert (result["state"], result["reason"], result["text"]) == ("kept", reason, None)
    assert len(result["attempts"]) == 3


def test_an_answer_that_begins_with_the_prompt_is_no_echo(folder: Path) -> None:
    prompt = "A red kite, high above the dunes of Fanø."
    stage(folder, [line("a", prompt=prompt)])
    serve(folder, FakeEngine(lambda r: said(f"{prompt} The light is low.")))
    assert only_result(folder)["state"] == "upsampled"


@pytest.mark.parametrize("lanes", [1, 4])
def test_an_answer_is_given_to_one_item_only(folder: Path, lanes: int) -> None:
    stage(folder, [line(i) for i in "abcd"])
    serve(folder, FakeEngine(lambda r: said("one answer\nfor all of them"), lanes))
    states = Counter(r["state"] for r in results(folder))
    assert states == {"upsampled": 1, "kept": 3}
    owner = next(r["id"] for r in results(folder) if r["state"] == "upsampled")
    reasons = {r["reason"] for r in results(folder) if r["state"] == "kept"}
    assert reasons == {f"same answer as item {owner}, which has other input, 3 times"}


@pytest.mark.parametrize("restarted", [False, True])
def test_items_that_show_the_model_the_same_may_have_one_answer(folder: Path, restarted: bool) -> None:
    same = {"prompt": "A boat.", "text": "A boat."}
    if restarted:
        stage(folder, [line("a", **same)])
        serve(folder, FakeEngine(lambda r: said("one answer")))
    stage(folder, [line("a", **same), line("b", **same)])
    serve(folder, FakeEngine(lambda r: said("one answer")))
    assert [(r["id"], r["state"]) for r in results(folder)] == [("a", "upsampled"), ("b", "upsampled")]


def test_a_cut_off_answer_is_tried_again_with_a_larger_reserve_inside_the_context(folder: Path) -> None:
    write_job(folder, max_model_len=1000)
    stage(folder, [line("a", predicted=500, max_tokens=200)])
    engine = FakeEngine(lambda r: said("broken off in the", "length", 500))
    serve(folder, engine)
    assert [r.max_tokens for r in engine.asked] == [200, 400, 500]


def test_without_a_prompt_that_could_stand_a_flawed_answer_is_a_failure(folder: Path) -> None:
    stage(folder, [line("a", prompt="  ")])
    serve(folder, FakeEngine(lambda r: said("")))
    assert only_result(folder)["state"] == "failed"


@pytest.mark.parametrize(("error", "state"), [(ItemKept("no frames"), "kept"), (ItemFailed("broken"), "failed")])
def test_an_engine_can_end_an_item_with_its_own_reason(folder: Path, error: Exception, state: str) -> None:
    def refuse(request: Request) -> Answer:
        raise error

    stage(folder, [line("a")])
    assert serve(folder, FakeEngine(refuse)) == 0
    assert (only_result(folder)["state"], only_result(folder)["reason"]) == (state, str(error))


def test_a_prompt_that_the_engine_counts_otherwise_is_failed_at_once_naming_both_numbers(folder: Path) -> None:
    stage(folder, [line("a", predicted=509)])
    engine = FakeEngine(lambda r: said("an answer to something else", prompt_tokens=508))
    assert serve(folder, engine) == 0
    result = only_result(folder)
    assert (result["state"], result["text"], len(engine.asked)) == ("failed", None, 1)
    assert "508" in result["reason"]
    assert "509" in result["reason"]
    assert result["tokens"] == {"predicted": 509, "measured": 508, "output": 27}


def test_an_engine_that_counts_no_tokens_is_not_checked(folder: Path) -> None:
    stage(folder, [line("a", predicted=509)])
    serve(folder, FakeEngine())
    assert only_result(folder)["state"] == "upsampled"


# --------------------------------------------------------------------------------------------------- how a job ends


def test_a_job_that_nobody_closed_ends_after_its_patience(folder: Path) -> None:
    write_job(folder, linger_s=0.2)
    stage(folder, [line("a")], closed=False)
    assert serve(folder, FakeEngine()) == 0
    assert exit_record(folder)["answered"] == 1


def test_patience_begins_anew_with_every_answer_and_batch(folder: Path) -> None:
    write_job(folder, linger_s=0.3)
    stage(folder, [line("i0")], "00000", closed=False)

    def slow_and_then_more(request: Request) -> Answer:
        time.sleep(0.35)  # in flight for longer than the patience
        n = int(request.item.id[1:])
        if n < 2:
            stage(folder, [line(f"i{n + 1}")], f"{n + 1:05d}", closed=False)
        return own_words(request)

    serve(folder, FakeEngine(slow_and_then_more))
    assert [r["id"] for r in results(folder)] == ["i0", "i1", "i2"]


def test_batches_that_arrive_while_it_works_are_worked_off_before_it_ends(folder: Path) -> None:
    stage(folder, [line("first")], "00000", closed=False)

    def say(request: Request) -> Answer:
        if request.item.id == "first":
            stage(folder, [line(f"later{n}") for n in range(5)], "00001", closed=True)
        return own_words(request)

    assert serve(folder, FakeEngine(say)) == 0
    assert len(results(folder)) == 6


def test_sigterm_finishes_what_is_in_flight_and_lists_the_rest(folder: Path) -> None:
    stage(folder, [line(f"i{n}") for n in range(8)])
    release = folder / "release"

    def wait_to_be_released(request: Request) -> Answer:
        (folder / f"asked-{request.item.id}").touch()
        wait_for(release.exists)
        return own_words(request)

    child = Child(folder, FakeEngine(wait_to_be_released, concurrency=2))
    wait_for(lambda: len(list(folder.glob("asked-*"))) == 2)
    child.kill(signal.SIGTERM)
    assert results(folder) == []
    release.touch()
    assert child.wait() == CANCELLED
    assert {r["id"] for r in results(folder)} == {"i0", "i1"}
    assert all(r["state"] == "upsampled" for r in results(folder))
    end = exit_record(folder)
    assert (end["state"], end["answered"]) == ("cancelled", 2)
    assert end["not_started"] == [f"i{n}" for n in range(2, 8)]


def test_what_is_in_flight_beyond_the_grace_time_counts_as_not_started(folder: Path) -> None:
    write_job(folder, engine={"name": "fake", "max_attempts": 3, "grace_s": 0.3})
    stage(folder, [line("quick"), line("stuck"), line("waiting")])

    def say(request: Request) -> Answer:
        if request.item.id == "stuck":
            (folder / "asked").touch()
            time.sleep(60)
        return own_words(request)

    child = Child(folder, FakeEngine(say))
    wait_for((folder / "asked").exists)
    started = time.monotonic()
    child.kill(signal.SIGTERM)
    assert child.wait() == CANCELLED
    assert 0.3 <= time.monotonic() - started < 10
    assert [r["id"] for r in results(folder)] == ["quick"]
    end = exit_record(folder)
    assert (end["state"], end["not_started"]) == ("cancelled", ["stuck", "waiting"])


def test_a_job_that_reaches_its_time_limit_says_so_and_lists_what_is_left(folder: Path) -> None:
    write_job(folder, engine={"name": "fake", "max_attempts": 3, "grace_s": 30.0, "time_limit_s": 0.5})
    stage(folder, [line(f"i{n}") for n in range(50)])

    def say(request: Request) -> Answer:
        time.sleep(0.1)
        return own_words(request)

    assert Child(folder, FakeEngine(say)).wait() == TIMEOUT
    end = exit_record(folder)
    assert end["state"] == "timeout"
    assert 0 < end["answered"] < 50
    assert end["answered"] + len(end["not_started"]) == 50


def test_sigterm_while_the_engine_loads_ends_the_worker_at_once(folder: Path) -> None:
    stage(folder, [line("a")])

    def load() -> None:
        (folder / "loading").touch()
        time.sleep(60)

    child = Child(folder, FakeEngine(load=load))
    wait_for((folder / "loading").exists)
    started = time.monotonic()
    child.kill(signal.SIGTERM)
    assert child.wait() == CANCELLED
    assert time.monotonic() - started < 10
    assert exit_record(folder)["not_started"] == ["a"]


def test_sigint_is_not_meant_for_the_worker(folder: Path) -> None:
    stage(folder, [line(f"i{n}") for n in range(3)])
    sent = folder / "sent"

    def say(request: Request) -> Answer:
        (folder / "asked").touch()
        wait_for(sent.exists)
        return own_words(request)

    child = Child(folder, FakeEngine(say))
    wait_for((folder / "asked").exists)
    child.kill(signal.SIGINT)
    sent.touch()
    assert child.wait() == 0
    assert len(results(folder)) == 3


def test_a_second_worker_on_the_folder_refuses_and_touches_nothing(folder: Path) -> None:
    stage(folder, [line("a")])
    release = folder / "release"

    def say(request: Request) -> Answer:
        (folder / "asked").touch()
        wait_for(release.exists)
        return own_words(request)

    child = Child(folder, FakeEngine(say))
    wait_for((folder / "asked").exists)
    second = FakeEngine()
    assert serve(folder, second) == LOCKED == 75
    assert second.asked == []
    assert int((folder / "lock").read_text()) == child.pid
    release.touch()
    assert child.wait() == 0
    assert len(results(folder)) == 1


def test_two_workers_started_at_once_ask_each_item_once(folder: Path) -> None:
    stage(folder, [line(f"i{n}") for n in range(30)])

    def say(request: Request) -> Answer:
        time.sleep(0.05)
        return own_words(request)

    children = [Child(folder, FakeEngine(say)) for _ in range(4)]
    assert sorted(child.wait() for child in children) == [0, 75, 75, 75]
    assert Counter(r["id"] for r in results(folder)) == Counter(f"i{n}" for n in range(30))


def test_a_lock_that_is_only_looked_at_does_not_turn_a_worker_away(folder: Path) -> None:
    stage(folder, [line("a")])
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    looker = threading.Timer(0.1, os.close, [fd])
    looker.start()
    assert serve(folder, FakeEngine()) == 0
    looker.join()


def test_a_worker_gives_its_lock_back_when_it_has_ended(folder: Path) -> None:
    stage(folder, [line("a")])
    assert serve(folder, FakeEngine()) == 0
    assert serve(folder, FakeEngine()) == 0


def test_exit_record_is_there_only_after_the_end(folder: Path) -> None:
    stage(folder, [line("a")])
    (folder / "exit.json").write_text('{"code": 1}')  # of an earlier attempt
    seen: list[bool] = []

    def say(request: Request) -> Answer:
        seen.append((folder / "exit.json").exists())
        return own_words(request)

    serve(folder, FakeEngine(say))
    assert seen == [False]
    assert exit_record(folder)["code"] == 0


def test_an_engine_that_cannot_be_loaded_ends_the_job_with_its_words_and_asks_nothing(folder: Path) -> None:
    def load() -> None:
        raise LoadFailed("CUDA out of memory")

    stage(folder, [line("a")])
    engine = FakeEngine(load=load)
    assert serve(folder, engine) == 7
    assert exit_record(folder) == {"code": 7, "state": "load_failed", "reason": "CUDA out of memory", "answered": 0}
    assert (engine.asked, engine.closed) == ([], 1)


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_bug_in_the_engine_ends_the_job_at_once_and_what_was_answered_stays(folder: Path, lanes: int) -> None:
    def say(request: Request) -> Answer:
        if request.item.id == "i4":
            raise ZeroDivisionError("a bug")
        return own_words(request)

    stage(folder, [line(f"i{n}") for n in range(50)])
    engine = FakeEngine(say, lanes)
    assert serve(folder, engine) == 1
    end = exit_record(folder)
    assert (end["state"], end["reason"]) == ("failed", "ZeroDivisionError: a bug")
    assert 3 <= len(results(folder)) < 20
    assert engine.closed == 1


def test_a_disk_that_fills_up_ends_the_job_and_with_room_again_each_item_has_one_result(folder: Path) -> None:
    stage(folder, [line(f"i{n}") for n in range(20)])

    def fill_up() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    wordy = FakeEngine(lambda r: said(f"{r.item.id} " * 100), load=fill_up)
    assert Child(folder, wordy).wait() != 0
    assert len(results(folder)) < 20
    assert serve(folder, FakeEngine()) == 0
    assert Counter(r["id"] for r in results(folder)) == Counter(f"i{n}" for n in range(20))


# ------------------------------------------------------------------------------------------------------------ memory


def _peak_bytes(items: int) -> int:
    """Most memory at a time for this many items with answers of 2 kB; on a memory file system, where fsync is free."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    try:
        write_job(folder)
        stage(folder, (line(f"{n:016x}") for n in range(items)))
        engine = FakeEngine(lambda r: said(r.item.id * 128))
        engine.asked = _Forgetful()
        tracemalloc.start()
        assert serve(folder, engine) == 0
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        shutil.rmtree(folder)


class _Forgetful(list[Request]):
    def append(self, request: Request) -> None:
        pass


def test_memory_does_not_grow_with_the_answers() -> None:
    few, many = _peak_bytes(2_000), _peak_bytes(20_000)
    assert (many - few) / 18_000 < 1_000  # an identity and a few hashes an item, not its answer


# ------------------------------------------------------------------------------------------------------- the one file


def _imports() -> set[str]:
    tree = ast.parse(SOURCE.read_text())
    named = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    return named | {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def test_it_never_imports_the_package_that_it_came_from() -> None:
    assert not {name for name in _imports() if name.split(".")[0] in {"src", "launchers", "conf", "tests", ""}}


def test_it_speaks_python_3_10() -> None:
    ast.parse(SOURCE.read_text(), feature_version=(3, 10))
    assert not _imports() & {"tomllib", "wsgiref.types", "asyncio.timeouts"}  # new in 3.11


def test_it_needs_nothing_but_the_standard_library_until_an_engine_is_loaded(folder: Path) -> None:
    copy = folder / "worker.py"
    shutil.copyfile(SOURCE, copy)
    code = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('worker', 'worker.py');"
        "sys.modules['worker'] = it = importlib.util.module_from_spec(spec); spec.loader.exec_module(it);"
        "ours = {'worker', '__main__'};"
        "print([m for m in sys.modules if m.split('.')[0] not in sys.stdlib_module_names | ours])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert (done.stderr, done.stdout.strip()) == ("", "[]")


def test_called_without_a_folder_it_says_how_to_call_it() -> None:
    done = subprocess.run([sys.executable, "-I", SOURCE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "JOB_FOLDER" in done.stderr
