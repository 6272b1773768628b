"""The real vLLM on the CPU with a tiny random Pixtral: its words are noise, its token counts and errors are the engine's.

Needs an interpreter with vLLM, made by `launchers/vllm_env.sh DIR cpu` and named by the environment variable VLLM_PYTHON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from src.worker.chat import ChatClient
from src.worker.journal import read_records
from src.worker.processes import free_port

ROOT = Path(__file__).resolve().parents[2]
PYTHON = os.environ.get("VLLM_PYTHON", "")
START_S = 420.0  # patience with a loaded machine; a quiet one needs less than a minute

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        not PYTHON, reason="VLLM_PYTHON names no interpreter with vLLM (launchers/vllm_env.sh makes one)"
    ),
]


def prompts(folder: Path, count: int) -> Path:
    """A list of `count` distinct prompts over the example clips."""
    clips = sorted((ROOT / "examples" / "clips").iterdir())
    items = [
        {
            "name": f"item-{n:02}",
            "prompt": f"Prompt number {n} {'with more words ' * (n % 7)}",
            "video_path": str(clips[n % 7]),
        }
        for n in range(count)
    ]
    path = folder / "prompts.json"
    path.write_text(json.dumps(items))
    return path


def argv(prompt_file: Path, run: Path, *overrides: str) -> list[str]:
    return [
        sys.executable, "-m", "src.run", "engine=vllm", "model=tiny_random", f"worker.python={PYTHON}",
        f'prompts="{prompt_file}"', f'hydra.run.dir="{run}"', f'cache_dir="{run.parent / "cache"}"',
        "budget.max_output_tokens=32", "console.progress=lines", *overrides,
    ]  # fmt: skip


def start(prompt_file: Path, run: Path, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        argv(prompt_file, run, *overrides), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, _ = process.communicate(timeout=START_S * 2)
    return process.returncode, out


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = START_S) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {timeout_s:.0f} s")


def job_of(run: Path) -> Path | None:
    return next(iter((run / "job").glob("*/")), None)


def lines(path: Path) -> list[dict[str, Any]]:
    return list(read_records(path))


def check_all_answered_once(run: Path, count: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((run / "results.json").read_text())
    assert [row["name"] for row in rows] == [f"item-{n:02}" for n in range(count)]
    assert {row["state"] for row in rows} == {"upsampled"}
    assert all(row["tokens"]["predicted"] == row["tokens"]["measured"] for row in rows)
    journal = [record["id"] for record in lines(run / "journal.jsonl")]
    assert len(journal) == len(set(journal)) == count
    return rows


def engine_processes() -> set[str]:
    """Id and command line of all of vLLM's processes; its children call themselves VLLM::something."""
    found = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return {
        line
        for line in found.splitlines()
        if ("VLLM::" in line or "vllm.entrypoints" in line) and "<defunct>" not in line
    }


@pytest.fixture
def no_engine_left() -> Iterator[Callable[[], set[str]]]:
    """What engine processes there are beyond those that were there before the test."""
    before = engine_processes()
    yield lambda: engine_processes() - before
    assert engine_processes() - before == set()


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 104 prompts with hints as large as fit, whose server is killed in the middle."""
    folder = tmp_path_factory.mktemp("killed")
    run, before = folder / "run", engine_processes()
    process = start(prompts(folder, 104), run, "upsample=best_fit", "engine.in_flight=8")
    job = wait_for(lambda: job_of(run), "the job")
    wait_for(lambda: len(lines(job / "results.jsonl")) >= 3, "the third answer")
    os.killpg(int((job / "server.pid").read_text()), signal.SIGKILL)
    code, out = finish(process)
    assert code == 0, out
    assert engine_processes() - before == set()
    return run


def test_server_killed_in_the_middle_is_started_again_and_every_item_answered_once(killed_once: Path) -> None:
    check_all_answered_once(killed_once, 104)
    job = job_of(killed_once)
    assert job and [e["restart"] for e in lines(job / "events.jsonl") if e.get("phase") == "restarting"] == [1]


def test_predicted_tokens_are_the_measured_ones_for_104_prompts(killed_once: Path) -> None:
    rows = check_all_answered_once(killed_once, 104)
    assert len({row["tokens"]["measured"] for row in rows}) > 7  # clips of seven sizes, prompts of seven lengths
    assert {row["tokens"]["output"] for row in rows} == {32}
    assert all(row["seconds"] > 0 and row["finish_reason"] == "length" for row in rows)
    record = lines(next((killed_once / "job").glob("*/results.jsonl")))[0]
    assert record["engine"]["version"] == "0.32.0"
    assert record["seconds"]["total"] > record["seconds"]["first_token"] > record["seconds"]["queue"] >= 0


def test_prompts_that_the_engine_refuses_come_again_smaller_while_others_go_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    # The engine is given less context than the plan knows of, so that it refuses the portrait clip and no other.
    code, out = finish(start(prompts(tmp_path, 14), run, "model.extra_args=[--enforce-eager,--max-model-len,1300]"))
    assert code == 0, out
    rows = check_all_answered_once(run, 14)
    smaller = [row for row in rows if "was refused by the engine" in row["note"]]
    assert {row["video_path"].rsplit("/")[-1] for row in smaller} == {"snowy_street.mp4"}
    assert all(row["tokens"]["measured"] + 32 <= 1300 for row in rows)


def test_worker_and_server_killed_and_the_run_is_taken_up_again(
    tmp_path: Path, no_engine_left: Callable[[], set[str]]
) -> None:
    run = tmp_path / "run"
    process = start(prompts(tmp_path, 24), run, "engine.in_flight=2")
    job = wait_for(lambda: job_of(run), "the job")
    wait_for(lambda: len(lines(job / "results.jsonl")) >= 2, "the second answer")
    process.kill()
    os.kill(int((job / "lock").read_text()), signal.SIGKILL)
    process.wait()
    wait_for(lambda: not no_engine_left(), "the end of the engine with its worker", 30)
    before = {record["id"]: record["text"] for record in lines(job / "results.jsonl")}
    code, out = finish(start(prompts(tmp_path, 24), run, f'resume="{run}"'))
    assert code == 0, out
    check_all_answered_once(run, 24)
    records = lines(job / "results.jsonl")
    assert len(records) == 24
    assert {record["id"]: record["text"] for record in records} | before == {r["id"]: r["text"] for r in records}


@pytest.fixture(scope="module")
def standing_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A vLLM server that was there before us, for engine=endpoint."""
    folder = tmp_path_factory.mktemp("server")
    command = (
        "import sys; from pathlib import Path; from launchers.worker import *; folder = Path(sys.argv[1]); "
        "model = str(make_tiny_pixtral(folder / 'model')); "
        "settings = dict(checkpoint=model, name='tiny-random-pixtral', load_format='dummy', dtype='bfloat16', "
        "max_model_len=4096, max_num_seqs=64, gpu_memory_utilization=0.9, images=2, prefix_caching=True, "
        "tensor_parallel_size=1, data_parallel_size=1, extra_args=['--enforce-eager']); "
        "os.execve(sys.executable, vllm_argv(settings, int(sys.argv[2]), vllm_build()[0], cpu=True), vllm_environment(folder))"
    )
    port = free_port()
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [PYTHON, "-c", command, str(folder), str(port)], cwd=ROOT, stdout=log, stderr=log, start_new_session=True
        )
    client = ChatClient(f"http://127.0.0.1:{port}/v1", "", None, 5.0, 0.0)

    def healthy() -> bool:
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
        try:
            return client.get("/health")[0] == 200
        except OSError:
            return False

    wait_for(healthy, "the server")
    yield f"http://127.0.0.1:{port}/v1"
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=60)


def test_limits_of_the_real_engine_are_those_of_the_token_rule(standing_server: str, tmp_path: Path) -> None:
    """Sizes well inside and far beyond, and the largest that fits with the next one up, in both directions."""
    command = [
        sys.executable, "-m", "src.run", "--multirun", "task=limits", "model=tiny_random",
        f'cache_dir="{tmp_path / "cache"}"',
    ]  # fmt: skip
    found: list[dict[str, Any]] = []
    for name, *given in (
        ["sizes", "size=320x180,640x480,1920x1056,360x203", "engine=endpoint", f"engine.base_url={standing_server}"],
        ["edges", "search=true", "aspect='16:9','9:16'", "engine=vllm", f"worker.python={PYTHON}"],
    ):
        folder = tmp_path / name
        argv = [*command, *given, f'hydra.sweep.dir="{folder}"']
        ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=START_S * 2)
        assert ended.returncode == 0, ended.stderr
        data = json.loads((folder / "matrix.json").read_text())
        assert data["agreement"]["measured"] == data["agreement"]["exact"] == len(data["points"]) == 4
        events = [e for f in folder.glob("engines/*/job/*/events.jsonl") for e in lines(f)]
        assert sum(e.get("phase") == "loading" for e in events) == 1  # whatever the number of points
        found += data["points"]
    rows = {row["size"]: row for row in found}
    assert rows["910x512"]["measured"] == "accepted" and rows["912x514"]["measured"] == "no_room"
    assert rows["1920x1056"]["measured"] == "too_long"
    assert "KV cache" in rows["910x512"]["memory"]
    assert all(row["measured_tokens"] == row["prompt_tokens"] for row in found)


def test_endpoint_engine_answers_from_a_server_that_stands_already(standing_server: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, out = finish(start(prompts(tmp_path, 64), run, "engine=endpoint", f"engine.base_url={standing_server}"))
    assert code == 0, out
    check_all_answered_once(run, 64)


def test_system_message_is_counted_to_the_token(standing_server: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    path = prompts(tmp_path, 7)
    items = json.loads(path.read_text())
    items[3].pop("video_path")  # without images the system message is joined to the text before it is counted
    path.write_text(json.dumps(items))
    overrides = ("engine=endpoint", f"engine.base_url={standing_server}", "template=describe")
    code, out = finish(start(path, run, *overrides))
    assert code == 0, out
    check_all_answered_once(run, 7)


def test_same_run_again_gives_the_same_answers(standing_server: str, tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        run = tmp_path / name
        overrides = ("engine=endpoint", f"engine.base_url={standing_server}", "engine.in_flight=1")
        code, out = finish(start(prompts(tmp_path, 7), run, *overrides))
        assert code == 0, out
        texts.append([row["upsampled_prompt"] for row in json.loads((run / "results.json").read_text())])
    assert texts[0] == texts[1]


def test_sigterm_finishes_what_is_in_flight_and_leaves_no_process(
    tmp_path: Path, no_engine_left: Callable[[], set[str]]
) -> None:
    run = tmp_path / "run"
    process = start(prompts(tmp_path, 64), run, "engine.in_flight=2", "budget.max_output_tokens=200")
    job = wait_for(lambda: job_of(run), "the job")
    wait_for(lambda: len(lines(job / "results.jsonl")) >= 2, "the second answer")
    process.send_signal(signal.SIGINT)  # the controller passes it on to the worker as SIGTERM
    code, out = finish(process)
    assert code == 130, out
    assert "resume=" in out
    end = json.loads((job / "exit.json").read_text())
    assert end["state"] == "cancelled"
    assert end["answered"] + len(end["not_started"]) == 64
    assert no_engine_left() == set()
