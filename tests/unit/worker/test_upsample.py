"""A job that upsamples: each item ends once, with the first answer that passes the checks. The engine is a fake."""

from __future__ import annotations

import os
import random
import shutil
import signal
import struct
import tempfile
import time
import tracemalloc
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from src.worker.engines.engine import Answer, ItemFailed, ItemKept, Refused, Request
from src.worker.protocol import fallback_state
from tests.harness.fake_engine import (
    Child,
    FakeEngine,
    distinct_reply,
    exit_record,
    only_result,
    reply,
    results,
    serve,
    stage,
    wait_until,
    write_job,
)
from tests.harness.records import ENGINE, JOB, item


def png(width: int, height: int) -> bytes:
    """A black PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 1) * height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


# ------------------------------------------------------------------------------------------------ one item, one result


@pytest.mark.parametrize("concurrency", [1, 8])
def test_item_staged_twice_ends_once(folder: Path, concurrency: int) -> None:
    ids = [f"i{n}" for n in range(40)]
    stage(folder, [item(i) for i in ids + ids[:10]], "00000", closed=False)
    stage(folder, [item(i) for i in ids[20:]], "00001")
    engine = FakeEngine(concurrency=concurrency)
    assert serve(folder, engine) == 0
    assert Counter(r["id"] for r in results(folder)) == Counter(ids)
    assert Counter(engine.asked) == Counter(ids)
    assert exit_record(folder) == {"code": 0, "state": "done", "reason": "", "not_started": [], "answered": 40}


def test_batches_are_processed_in_order(folder: Path) -> None:
    stage(folder, [item("c"), item("a")], "00001", closed=False)
    stage(folder, [item("b"), item("d")], "00000")
    engine = FakeEngine()
    serve(folder, engine)
    assert engine.asked == ["b", "d", "c", "a"]


def test_restarted_worker_asks_only_what_is_missing(folder: Path) -> None:
    stage(folder, [item(f"i{n}") for n in range(10)])

    def die_at_the_sixth(request: Request) -> Answer:
        if request.item.id == "i5":
            os.kill(os.getpid(), signal.SIGKILL)
        return distinct_reply(request)

    assert Child(folder, FakeEngine(die_at_the_sixth)).wait() == -signal.SIGKILL
    assert len(results(folder)) == 5
    engine = FakeEngine()
    assert serve(folder, engine) == 0
    assert engine.asked == [f"i{n}" for n in range(5, 10)]
    assert [r["id"] for r in results(folder)] == [f"i{n}" for n in range(10)]


def test_items_end_once_across_random_kills(folder: Path) -> None:
    ids = [f"i{n}" for n in range(24)]
    stage(folder, [item(i) for i in ids])
    dice = random.Random(20261121)

    def answer_slowly(request: Request) -> Answer:
        time.sleep(0.005)
        return distinct_reply(request)

    kills = 0
    while len(results(folder)) < len(ids):
        child = Child(folder, FakeEngine(answer_slowly, concurrency=2))
        goal = min(len(results(folder)) + dice.randrange(0, 5), len(ids))
        wait_until(lambda goal=goal: len(results(folder)) >= goal)  # type: ignore[misc]
        child.kill()
        child.wait()
        with open(folder / "results.jsonl", "ab") as f:
            f.write(b'{"id":"torn'[: dice.randrange(11)])
        kills += 1
    assert serve(folder, FakeEngine()) == 0
    assert kills > 3
    assert Counter(r["id"] for r in results(folder)) == Counter(ids)


def test_answers_before_a_restart_count_as_seen(folder: Path) -> None:
    stage(folder, [item("a")])
    assert serve(folder, FakeEngine(lambda r: reply("the same answer for all"))) == 0
    stage(folder, [item("b")], "00001")
    serve(folder, FakeEngine(lambda r: reply("the same answer for all")))
    assert [(r["id"], r["state"]) for r in results(folder)] == [("a", "upsampled"), ("b", "kept")]


def test_result_describes_the_sent_frames(folder: Path) -> None:
    (folder / "frames").mkdir()
    (folder / "frames" / "one.png").write_bytes(png(320, 180))
    stage(folder, [item("a", frames=("frames/one.png",))])
    engine = FakeEngine()
    serve(folder, engine)
    [frame] = only_result(folder)["frames"]
    assert (frame["size"], frame["bytes"]) == ("320x180", len(png(320, 180)))
    assert engine.requests[0].pictures[0].data == png(320, 180)


def test_damaged_frame_of_a_read_only_folder_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container has it."""
    (folder / "frames").mkdir()
    (folder / "frames" / f"{'0' * 64}.png").write_bytes(b"not what its name promises")
    stage(folder, [item("a", frames=(f"frames/{'0' * 64}.png",))])

    unlink = Path.unlink

    def read_only(path: Path, missing_ok: bool = False) -> None:
        if path.parent.name == "frames":
            raise OSError(30, "Read-only file system", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", read_only)
    assert serve(folder, FakeEngine()) == 0
    assert (only_result(folder)["state"], only_result(folder)["refusal"]) == ("refused", "damaged")


@pytest.mark.parametrize("name", ["gone.png", f"{'0' * 64}.png"], ids=["missing", "damaged"])
def test_unusable_frame_is_asked_for_again(folder: Path, name: str) -> None:
    (folder / "frames").mkdir()
    (folder / "frames" / f"{'0' * 64}.png").write_bytes(b"not what its name promises")
    stage(folder, [item("a", frames=(f"frames/{name}",)), item("b")])
    engine = FakeEngine()
    assert serve(folder, engine) == 0
    first, second = results(folder)
    assert (first["state"], first["refusal"], second["state"]) == ("refused", "damaged", "upsampled")
    assert name in first["reason"]
    assert not (folder / "frames" / name).exists()
    assert engine.asked == ["b"]


def test_engine_error_does_not_blame_a_frame(folder: Path) -> None:
    stage(folder, [item("a"), item("b")])

    def fail(request: Request) -> Answer:
        raise OSError("cannot identify image file")  # as Pillow's UnidentifiedImageError

    assert serve(folder, FakeEngine(fail)) == 1
    assert exit_record(folder)["reason"] == "OSError: cannot identify image file"
    assert results(folder) == []


# ------------------------------------------------------------------------------------------------------------ retries


def test_each_attempt_has_its_own_seed(folder: Path) -> None:
    stage(folder, [item("a", seed=40)])
    engine = FakeEngine(lambda r: distinct_reply(r) if r.seed == 42 else reply(""))
    serve(folder, engine)
    result = only_result(folder)
    assert [r.seed for r in engine.requests] == [40, 41, 42]
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
def test_rejected_answer_keeps_the_original_prompt(folder: Path, text: str, finish_reason: str, reason: str) -> None:
    stage(folder, [item("a", prompt="A red kite, high above the dunes of Fanø.")])
    serve(folder, FakeEngine(lambda r: reply(text, finish_reason)))
    result = only_result(folder)
    assert (result["state"], result["reason"], result["text"], result["rejected"]) == ("kept", reason, None, text)
    assert len(result["attempts"]) == 3


def test_rejected_answer_without_prompt_fails(folder: Path) -> None:
    stage(folder, [item("a", prompt="  ")])
    serve(folder, FakeEngine(lambda r: reply("")))
    assert only_result(folder)["state"] == fallback_state("  ") == "failed"


def test_answer_starting_with_the_prompt_passes(folder: Path) -> None:
    prompt = "A red kite, high above the dunes of Fanø."
    stage(folder, [item("a", prompt=prompt)])
    serve(folder, FakeEngine(lambda r: reply(f"{prompt} The light is low.")))
    assert only_result(folder)["state"] == "upsampled"


@pytest.mark.parametrize("concurrency", [1, 4])
def test_one_answer_serves_one_item_only(folder: Path, concurrency: int) -> None:
    stage(folder, [item(i) for i in "abcd"])
    serve(folder, FakeEngine(lambda r: reply("one answer\nfor all of them"), concurrency))
    states = Counter(r["state"] for r in results(folder))
    assert states == {"upsampled": 1, "kept": 3}
    owner = next(r["id"] for r in results(folder) if r["state"] == "upsampled")
    reasons = {r["reason"] for r in results(folder) if r["state"] == "kept"}
    assert reasons == {f"same answer as item {owner}, which has other input, 3 times"}


@pytest.mark.parametrize("restarted", [False, True])
def test_equal_inputs_may_share_an_answer(folder: Path, restarted: bool) -> None:
    same = {"prompt": "A boat.", "text": "A boat."}
    if restarted:
        stage(folder, [item("a", **same)])
        serve(folder, FakeEngine(lambda r: reply("one answer")))
    stage(folder, [item("a", **same), item("b", **same)])
    serve(folder, FakeEngine(lambda r: reply("one answer")))
    assert [(r["id"], r["state"]) for r in results(folder)] == [("a", "upsampled"), ("b", "upsampled")]


def test_cut_off_answer_gets_a_larger_reserve(folder: Path) -> None:
    write_job(folder, replace(JOB, max_model_len=1000))
    stage(folder, [item("a", predicted=500, max_tokens=200)])
    engine = FakeEngine(lambda r: reply("broken off in the", "length", 500))
    serve(folder, engine)
    assert [r.max_tokens for r in engine.requests] == [200, 400, 500]


@pytest.mark.parametrize("limit", [None, 910])
def test_refused_larger_reserve_is_no_refusal(folder: Path, limit: int | None) -> None:
    """The server is smaller than the plan believes, and has room for what was planned: nothing is made smaller."""

    def cut(request: Request) -> Answer:
        if request.max_tokens > 400:
            raise Refused("too long", "no_room", 510, limit)
        return reply("broken off in the", "length", 510)

    write_job(folder, replace(JOB, max_model_len=4096, engine=replace(ENGINE, max_attempts=4)))
    stage(folder, [item("a", predicted=510, max_tokens=300)])
    engine = FakeEngine(cut)
    serve(folder, engine)
    assert only_result(folder)["state"] == "kept"
    assert [r.max_tokens for r in engine.requests] == [300, 600, *([400] * 3 if limit else [300] * 3)]


@pytest.mark.parametrize(("error", "state"), [(ItemKept("no frames"), "kept"), (ItemFailed("broken"), "failed")])
def test_engine_may_end_an_item_itself(folder: Path, error: Exception, state: str) -> None:
    def refuse(request: Request) -> Answer:
        raise error

    stage(folder, [item("a")])
    assert serve(folder, FakeEngine(refuse)) == 0
    assert (only_result(folder)["state"], only_result(folder)["reason"]) == (state, str(error))


def test_refused_item_may_come_again_smaller(folder: Path) -> None:
    def refuse_the_first(request: Request) -> Answer:
        if request.item.step == 0:
            raise Refused("your prompt contains 4687 input tokens", "too_long", 4687, 4096)
        return distinct_reply(request)

    stage(folder, [item("a", predicted=4000)], closed=False)
    stage(folder, [item("a", step=1)], "smaller-a-1")
    assert serve(folder, FakeEngine(refuse_the_first)) == 0
    first, second = results(folder)
    assert (first["state"], first["refusal"]) == ("refused", "too_long")
    assert (first["tokens"]["measured"], first["limit"]) == (4687, 4096)
    assert (second["state"], second["step"]) == ("upsampled", 1)
    assert exit_record(folder)["answered"] == 1


def test_differing_token_count_fails_at_once(folder: Path) -> None:
    stage(folder, [item("a", predicted=509)])
    engine = FakeEngine(lambda r: reply("an answer to something else", prompt_tokens=508))
    assert serve(folder, engine) == 0
    result = only_result(folder)
    assert (result["state"], result["text"], len(engine.requests)) == ("failed", None, 1)
    assert "508" in result["reason"] and "509" in result["reason"]
    assert result["tokens"] == {"predicted": 509, "measured": 508, "output": 27}


def test_engine_without_token_count_is_not_checked(folder: Path) -> None:
    stage(folder, [item("a", predicted=509)])
    serve(folder, FakeEngine())
    assert only_result(folder)["state"] == "upsampled"


# ------------------------------------------------------------------------------------------------------------ memory

ANSWER_BYTES = 20_000


class _Forgetful(list[Request]):
    def append(self, request: Request) -> None:
        pass


def _peak_bytes(count: int) -> int:
    """The most memory held while this many items get long answers; on a memory file system, where fsync is free."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    try:
        write_job(folder)
        stage(folder, (item(f"{n:016x}") for n in range(count)))
        engine = FakeEngine(lambda r: reply(r.item.id * (ANSWER_BYTES // 16)))
        engine.requests = _Forgetful()
        tracemalloc.start()
        assert serve(folder, engine) == 0
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        shutil.rmtree(folder)


def test_memory_does_not_grow_with_answers() -> None:
    few, many = _peak_bytes(60), _peak_bytes(260)
    assert (many - few) / 200 < ANSWER_BYTES / 10  # an id and a few hashes for each item, not its answer
