"""The real vLLM on the CPU with a tiny random Pixtral: its words are noise, its token counts and errors are the engine's.

Needs an interpreter with vLLM, made by `launchers/vllm_env.sh DIR cpu` and named by the environment variable VLLM_PYTHON.
One server answers as engine=endpoint, and one run with engine=vllm is killed and interrupted on its way.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import config_of
from tests.harness.processes import command_lines, has_ended
from tests.harness.program import ROOT, Ended, journal_ids, journal_lines, program, quoted, results_of, start, wait_for
from tests.harness.tiny_server import tiny_server

PATIENCE_S = 600.0  # with a loaded machine; a quiet one needs less than a minute to load the engine
COUNT = 104
pytestmark = pytest.mark.vllm


def write_prompts(folder: Path, count: int) -> Path:
    """A list of distinct prompts, of seven lengths, over the example clips."""
    clips = sorted((ROOT / "examples" / "clips").iterdir())
    items = [
        {
            "name": f"item-{n:03}",
            "prompt": f"Prompt number {n} {'with more words ' * (n % 7)}",
            "video_path": str(clips[n % 7]),
        }
        for n in range(count)
    ]
    path = folder / "prompts.json"
    path.write_text(json.dumps(items))
    return path


def assert_all_answered(run: Path, count: int) -> list[dict[str, Any]]:
    """Every item once, in order, with the tokens that the plan predicted."""
    rows = results_of(run)
    assert [row["name"] for row in rows] == [f"item-{n:03}" for n in range(count)]
    assert {row["state"] for row in rows} == {"upsampled"}
    assert all(row["tokens"]["predicted"] == row["tokens"]["measured"] for row in rows)
    ids = journal_ids(run)
    assert len(ids) == len(set(ids)) == count
    return rows


def processes_in(sessions: set[int]) -> set[int]:
    """Processes that a server started; each server has a session of its own."""
    found = set()
    for pid, _ in command_lines():
        try:
            if os.getsid(pid) in sessions and not has_ended(pid):
                found.add(pid)
        except ProcessLookupError:
            continue
    return found


# ----------------------------------------------------------------------------------------- one run with engine=vllm


@dataclass(frozen=True)
class Life:
    """A run whose worker, server and controller were ended in turn, and what was seen on the way."""

    run: Path
    job: Path
    survivors: list[set[int]]  # engine processes left after the worker was killed, and after Ctrl-C
    texts: dict[str, str]  # answers from before the first kill
    interrupted: Ended
    exit_record: dict[str, Any]
    answered_then: int
    resumed: Ended


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory, vllm_python: str) -> Life:
    """The engine gets less context than the plan assumes, so that it refuses the portrait clip and no other."""
    folder = tmp_path_factory.mktemp("life")
    run, sessions = folder / "run", set[int]()
    overrides = (
        "engine=vllm", "model=tiny_random", f"worker.python={vllm_python}", f"prompts={quoted(write_prompts(folder, COUNT))}",
        f"hydra.run.dir={quoted(run)}", f"cache_dir={quoted(folder / 'cache')}", "budget.max_output_tokens=32",
        "console.progress=lines", "engine.in_flight=4", "model.extra_args=[--enforce-eager,--max-model-len,1300]",
    )  # fmt: skip

    def results() -> list[dict[str, Any]]:
        return [line for file in run.glob("job/*/results.jsonl") for line in journal_lines(file)]

    def wait_for_answers(more: int) -> None:
        count = len(results()) + more
        wait_for(lambda: len(results()) >= count or process.poll() is not None, PATIENCE_S)
        assert process.poll() is None, process.err

    process = start(*overrides)
    wait_for_answers(4)
    [job] = (run / "job").iterdir()
    sessions.add(int((job / "server.pid").read_text()))
    process.kill()
    os.kill(int((job / "lock").read_text()), signal.SIGKILL)
    with suppress(AssertionError):
        wait_for(lambda: not processes_in(sessions), 30)
    survivors = [processes_in(sessions)]
    texts = {line["id"]: line["text"] for line in results() if line["state"] == "upsampled"}
    process = start(f"resume={quoted(run)}")
    wait_for_answers(20)
    sessions.add(server := int((job / "server.pid").read_text()))
    os.killpg(server, signal.SIGKILL)
    wait_for(lambda: "restart" in (job / "events.jsonl").read_text(), PATIENCE_S)
    wait_for_answers(20)
    sessions.add(int((job / "server.pid").read_text()))
    process.interrupt()  # the controller passes it on to the worker as SIGTERM
    interrupted = process.ended(PATIENCE_S)
    survivors.append(processes_in(sessions))
    record, answered_then = json.loads((job / "exit.json").read_text()), len(journal_ids(run))
    resumed = program(f"resume={quoted(run)}", timeout_s=PATIENCE_S)
    return Life(run, job, survivors, texts, interrupted, record, answered_then, resumed)


def test_killed_worker_and_server_lose_nothing(life: Life) -> None:
    assert life.resumed.code == 0, life.resumed.err
    assert_all_answered(life.run, COUNT)
    assert life.survivors == [set(), set()]
    lines = [line for line in journal_lines(life.job / "results.jsonl") if line["state"] == "upsampled"]
    after = {line["id"]: line["text"] for line in lines}
    assert after | life.texts == after and len(lines) == COUNT
    restarts = [e["restart"] for e in journal_lines(life.job / "events.jsonl") if e.get("phase") == "restarting"]
    assert restarts == [1]


def test_predicted_tokens_equal_measured_tokens(life: Life) -> None:
    rows = assert_all_answered(life.run, COUNT)
    assert len({row["tokens"]["measured"] for row in rows}) > 7  # clips of seven sizes, prompts of seven lengths
    assert {row["tokens"]["output"] for row in rows} == {32}
    assert all(row["seconds"] > 0 and row["finish_reason"] == "length" for row in rows)
    record = next(line for line in journal_lines(life.job / "results.jsonl") if line["state"] == "upsampled")
    assert record["engine"]["version"] == "0.32.0"
    assert record["seconds"]["total"] > record["seconds"]["first_token"] > record["seconds"]["queue"] >= 0


def test_refused_prompts_come_again_smaller(life: Life) -> None:
    rows = results_of(life.run)
    smaller = [row for row in rows if "refused by the engine" in row["note"]]
    assert {row["video_path"].rsplit("/")[-1] for row in smaller} == {"snowy_street.mp4"}
    assert all(row["tokens"]["measured"] + 32 <= 1300 for row in rows)


def test_ctrl_c_finishes_requests_in_flight(life: Life) -> None:
    assert life.interrupted.code == 130, life.interrupted.err
    assert "resume=" in life.interrupted.err
    assert life.exit_record["state"] == "cancelled"
    assert life.exit_record["answered"] == life.answered_then
    assert life.answered_then + len(life.exit_record["not_started"]) == COUNT


# --------------------------------------------------------------------------------------- one server, engine=endpoint


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, vllm_python: str) -> Iterator[str]:
    """The override that names a vLLM server which runs already."""
    with tiny_server(vllm_python, config_of("model=tiny_random"), tmp_path_factory.mktemp("server")) as server:
        yield f"engine.base_url={server.url}"


def through_server(server: str, run: Path, *overrides: str) -> None:
    end = program(
        "engine=endpoint", server, "model=tiny_random", f"hydra.run.dir={quoted(run)}", "budget.max_output_tokens=32",
        f"cache_dir={quoted(run.parent / 'cache')}", *overrides, timeout_s=PATIENCE_S,
    )  # fmt: skip
    assert end.code == 0, end.out + end.err


def test_largest_hints_that_fit_are_accepted(server: str, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 14)
    through_server(server, tmp_path / "run", f"prompts={prompts}", "upsample=best_fit")
    assert_all_answered(tmp_path / "run", 14)


def test_system_message_is_counted_and_repeatable(server: str, tmp_path: Path) -> None:
    path = write_prompts(tmp_path, 7)
    items = json.loads(path.read_text())
    items[3].pop("video_path")  # without images the system message is joined to the text before it is counted
    path.write_text(json.dumps(items))
    for name in ("one", "two"):
        through_server(server, tmp_path / name, f"prompts={path}", "template=describe", "engine.in_flight=1")
        assert_all_answered(tmp_path / name, 7)
    texts = [[row["upsampled_prompt"] for row in results_of(tmp_path / name)] for name in ("one", "two")]
    assert texts[0] == texts[1]


def sweep_limits(folder: Path, *overrides: str) -> dict[str, dict[str, Any]]:
    """The points of a limits sweep by size; prediction and engine agree on all of them."""
    end = program(
        "--multirun", "task=limits", "model=tiny_random", *overrides, f"cache_dir={quoted(folder.parent / 'cache')}",
        f"hydra.sweep.dir={quoted(folder)}", timeout_s=PATIENCE_S,
    )  # fmt: skip
    assert end.code == 0, end.err
    data = json.loads((folder / "matrix.json").read_text())
    assert data["agreement"]["measured"] == data["agreement"]["exact"] == len(data["points"]) == 4
    assert all(row["measured_tokens"] == row["prompt_tokens"] for row in data["points"])
    return {row["size"]: row for row in data["points"]}


def test_limits_of_engine_follow_token_rule(server: str, tmp_path: Path) -> None:
    """Sizes well inside and far beyond."""
    size = "size=320x180,640x480,1920x1056,360x203"
    rows = sweep_limits(tmp_path / "sizes", "engine=endpoint", server, size)
    assert rows["1920x1056"]["measured"] == "too_long"


def test_largest_size_is_found_by_search(tmp_path: Path, vllm_python: str) -> None:
    """And the next one up, in both directions, with an engine that is loaded once for all points."""
    folder = tmp_path / "edges"
    rows = sweep_limits(folder, "search=true", "aspect='16:9','9:16'", "engine=vllm", f"worker.python={vllm_python}")
    assert rows["910x512"]["measured"] == "accepted" and rows["912x514"]["measured"] == "no_room"
    assert "KV cache" in rows["910x512"]["memory"]
    events = [e for f in folder.glob("engines/*/job/*/events.jsonl") for e in journal_lines(f)]
    assert sum(e.get("phase") == "loading" for e in events) == 1
