"""The real vLLM on the CPU with a tiny random Pixtral: its words are noise, its token counts and errors are the engine's.

Needs an interpreter with vLLM, made by `launchers/vllm_env.sh DIR cpu` and named by the environment variable VLLM_PYTHON.
One run with engine=vllm is killed and interrupted on its way.
"""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness.processes import command_lines, has_ended
from tests.harness.program import Ended, journal_ids, journal_lines, program, quoted, results_of, start, wait_for
from tests.harness.tiny_server import assert_all_answered, write_prompts

PATIENCE_S = 600.0  # with a loaded machine; a quiet one needs less than a minute to load the engine
COUNT, TOKENS = 48, 16
pytestmark = pytest.mark.vllm


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
        f"hydra.run.dir={quoted(run)}", f"cache_dir={quoted(folder / 'cache')}", f"budget.max_output_tokens={TOKENS}",
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
    wait_for_answers(5)
    sessions.add(server := int((job / "server.pid").read_text()))
    os.killpg(server, signal.SIGKILL)
    wait_for(lambda: "restart" in (job / "events.jsonl").read_text(), PATIENCE_S)
    wait_for_answers(5)
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
    assert {row["tokens"]["output"] for row in rows} == {TOKENS}
    assert all(row["seconds"] > 0 and row["finish_reason"] == "length" for row in rows)
    record = next(line for line in journal_lines(life.job / "results.jsonl") if line["state"] == "upsampled")
    assert record["engine"]["version"] == "0.32.0"
    assert record["seconds"]["total"] > record["seconds"]["first_token"] > record["seconds"]["queue"] >= 0


def test_refused_prompts_come_again_smaller(life: Life) -> None:
    rows = results_of(life.run)
    smaller = [row for row in rows if "refused by the engine" in row["note"]]
    assert {row["video_path"].rsplit("/")[-1] for row in smaller} == {"snowy_street.mp4"}
    assert all(row["tokens"]["measured"] + TOKENS <= 1300 for row in rows)


def test_ctrl_c_finishes_requests_in_flight(life: Life) -> None:
    assert life.interrupted.code == 130, life.interrupted.err
    assert "resume=" in life.interrupted.err
    assert life.exit_record["state"] == "cancelled"
    assert life.exit_record["answered"] == life.answered_then
    assert life.answered_then + len(life.exit_record["not_started"]) == COUNT
