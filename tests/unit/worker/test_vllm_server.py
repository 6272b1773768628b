"""How a vLLM server is started, and what is given up when memory is short."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import pytest

from src.worker.answer_form import AnswerForm
from src.worker.engines.vllm_server import Server, next_fallback, render_argv, vllm_argv, vllm_environment
from tests.harness.records import JOB, MODEL

SERVER = Server.of(JOB)


def test_command_is_the_known_one() -> None:
    assert vllm_argv(SERVER, 8001, "0.32.0", cpu=False) == (
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", "/models/it's", "--served-model-name", "pixtral", "--host", "127.0.0.1", "--port", "8001",
        "--tokenizer-mode", "mistral", "--config-format", "mistral", "--load-format", "mistral",
        "--dtype", "bfloat16", "--max-model-len", "4096", "--max-num-seqs", "64",
        "--gpu-memory-utilization", "0.92", "--limit-mm-per-prompt", '{"image": 2}', "--enable-prefix-caching",
        "--disable-uvicorn-access-log", "--enable-per-request-metrics", "--tensor-parallel-size", "2", "--enforce-eager",
    )  # fmt: skip


def arguments_of(**model: Any) -> list[str]:
    clips = model.pop("clips", 0)
    server = replace(SERVER, model=replace(MODEL, **model), clips=clips)
    return list(vllm_argv(server, 1, "0.32.0", cpu=False))


def test_other_families_load_their_own_format() -> None:
    argv = arguments_of(family="qwen3_vl", clips=1)
    assert "--tokenizer-mode" not in argv and argv[argv.index("--load-format") + 1] == "auto"
    assert argv[argv.index("--limit-mm-per-prompt") + 1] == '{"image": 2, "video": 1}'
    assert "--mm-processor-kwargs" not in argv


@pytest.mark.parametrize(
    ("family", "fields", "told"),
    [
        ("qwen2_5_vl", {"max_pixels": 65536}, '{"max_pixels": 65536}'),
        ("qwen3_vl", {"min_pixels": 1, "max_pixels": 9}, '{"size": {"shortest_edge": 1, "longest_edge": 9}}'),
        ("qwen3_5", {"cap_pixels_per_frame": False, "clips": 1}, '{"cap_pixels_per_frame": false}'),
    ],
)
def test_processor_is_told_what_was_planned(family: str, fields: dict[str, Any], told: str) -> None:
    argv = arguments_of(family=family, **fields)
    assert argv[argv.index("--mm-processor-kwargs") + 1] == told


def test_old_version_gets_its_own_spelling() -> None:
    argv = vllm_argv(SERVER, 1, "0.8.1", cpu=False)
    assert argv[argv.index("--limit-mm-per-prompt") + 1] == "image=2"
    assert "--no-enable-prefix-caching" in argv
    assert "--enable-prefix-caching" not in argv
    assert "--enable-per-request-metrics" not in argv


def test_cpu_build_processes_prompts_whole() -> None:
    argv = vllm_argv(SERVER, 1, "0.32.0", cpu=True)
    assert "--no-enable-chunked-prefill" in argv
    assert argv[argv.index("--max-num-batched-tokens") + 1] == "32768"
    hybrid = replace(SERVER, model=replace(MODEL, family="qwen3_5"))
    assert "--no-enable-chunked-prefill" not in vllm_argv(hybrid, 1, "0.32.0", cpu=True)


@pytest.mark.parametrize("options", ["", "--stream-interval"])
def test_events_are_rare_where_possible(options: str) -> None:
    assert ("--stream-interval" in vllm_argv(SERVER, 1, "0.32.0", cpu=False, options=options)) is bool(options)


def test_home_in_the_checkpoint_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert Server.of(replace(JOB, model=replace(MODEL, checkpoint="~/pixtral"))).checkpoint == "/home/me/pixtral"


def test_fallbacks_give_up_one_thing_each() -> None:
    server, given_up = SERVER, []
    while (changes := next_fallback(server, needed_len=1835)) is not None:
        [name] = changes
        server = replace(server, **changes)  # type: ignore[arg-type]
        given_up.append(name)
    assert given_up == ["gpu_memory_utilization"] * 2 + ["max_model_len"] + ["max_num_seqs"] * 2
    assert (server.max_model_len, server.max_num_seqs) == (1835, 1)


def test_requests_are_given_up_first_while_serving() -> None:
    server, given_up = SERVER, []
    while (changes := next_fallback(server, needed_len=1835, serving=True)) is not None:
        [name] = changes
        server = replace(server, **changes)  # type: ignore[arg-type]
        given_up.append(name)
    assert given_up == ["max_num_seqs"] * 2 + ["max_model_len"] + ["gpu_memory_utilization"] * 2


def test_variables_of_the_user_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "40")
    monkeypatch.delenv("VLLM_WORKER_MULTIPROC_METHOD", raising=False)
    environment = vllm_environment()
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "40"
    assert environment["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"


@pytest.mark.parametrize(("options", "form"), [("", "json"), ("structured_outputs_config", "text")])
def test_guided_decoding_is_set_up_where_wanted(options: str, form: str) -> None:
    server = Server.of(replace(JOB, answer=AnswerForm(form=form, schema='{"type": "object"}')))
    assert "--structured-outputs-config" not in vllm_argv(server, 1, "0.32.0", cpu=False, options=options)
    if form == "json":
        argv = vllm_argv(server, 1, "0.32.0", cpu=False, options="structured_outputs_config: X")
        assert json.loads(argv[argv.index("--structured-outputs-config") + 1])["disable_any_whitespace"]


def test_counting_server_has_the_users_arguments() -> None:
    """A template, or code of the checkpoint, changes what is counted."""
    server = replace(SERVER, model=replace(MODEL, extra_args=("--chat-template", "mine.jinja")))
    assert render_argv(server, 1, "python")[-2:] == ("--chat-template", "mine.jinja")


def test_build_without_a_version_is_a_new_one() -> None:
    assert "--enable-prefix-caching" in vllm_argv(SERVER, 1, "0.1.dev1+gabc1234", cpu=False)
