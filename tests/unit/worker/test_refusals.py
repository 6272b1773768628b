"""Error texts of engines, by class."""

from __future__ import annotations

import json

import pytest

from src.worker.refusals import classify, counted_tokens, message_of, named_limit

TOO_LONG = (
    "The decoder prompt (length 4685) plus the number of requested output tokens (300) is longer than the maximum model "
    "length of 4096"
)


INPUT_LENGTH = "Input length (9307) exceeds model's maximum context length (4096)."  # vLLM 0.32, of Qwen's models
LLAMACPP = "request (5031 tokens) exceeds the available context size (4096 tokens), try increasing it"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("... your prompt contains 4687 input tokens ...", "too_long"),
        (TOO_LONG, "too_long"),
        (INPUT_LENGTH, "too_long"),
        ("Prompt length of 4687 is longer than the maximum model length of 4096.", "too_long"),
        ("the model's context length is only 4096 tokens", "too_long"),
        ("ValueError: Token id 131073: vocab out of range", "too_long"),
        ("Token id 131073 is out of vocabulary", "tokenizer"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "out_of_memory"),
        ("ValueError: Free memory on device (10.1/22.3 GiB) on startup is less than desired", "out_of_memory"),
        ("ValueError: No available memory for the cache blocks.", "out_of_memory"),
        ("vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.", "engine_dead"),
        (LLAMACPP, "too_long"),
        ("image input is not supported - hint: you may need to provide the mmproj", "no_pictures"),
        ("everything is fine", None),
    ],
)
def test_error_text_is_classified(text: str, kind: str | None) -> None:
    assert classify(text) == kind
    assert classify(json.dumps({"error": {"message": text}})) == kind


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("your prompt contains 4687 input tokens", 4687),
        (TOO_LONG, 4685),
        (INPUT_LENGTH, 9307),
        ("Prompt length of 4687 is longer than the maximum", 4687),
        ("you requested 4700 tokens (4400 in the messages, 300 in the completion)", 4400),
        ("too long", None),
    ],
)
def test_counted_tokens_are_found(text: str, count: int | None) -> None:
    assert counted_tokens(text) == count


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        (TOO_LONG, 4096),
        (INPUT_LENGTH, 4096),
        ("This model's maximum context length is 4096 tokens", 4096),
        ("the context length is only 2048", 2048),
        ("maximum is 4096, you sent 5000", 4096),
        ("your prompt contains 4687 input tokens", None),
    ],
)
def test_named_limit_is_found(text: str, limit: int | None) -> None:
    assert named_limit(text) == limit


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"error": {"message": "too\\n long", "param": "x"}}', "too long"),
        ('{"error": "too long"}', "too long"),
        ('["too long"]', '["too long"]'),
        ("<html>bad gateway</html>", "<html>bad gateway</html>"),
        ("x" * 1000, "x" * 400),
    ],
)
def test_message_is_extracted_from_the_body(body: str, message: str) -> None:
    assert message_of(body) == message
