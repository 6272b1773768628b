"""What engines write when they refuse or die, by class. Sources: vLLM 0.8.1 to 0.32, llama.cpp of October 2026."""

from __future__ import annotations

import json
import re

_SIGNS = {
    "too_long": (
        r"prompt contains \d+ input tokens",
        r"longer than the maximum model length",
        r"maximum context length is \d+",
        r"exceeds model's maximum context length",
        r"context length is only \d+",
        r"vocab(ulary)? out of range",  # what NVIDIA's upsampler says of image tokens beyond its context; docs/limits.md
        r"exceeds the available context size",
        r'"param":\s*"input_tokens"',
    ),
    "tokenizer": (r"[Tt]oken id -?\d+ is out of vocabulary",),
    "no_pictures": (r"image input is not supported",),
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
    """The class of an error text: too_long, tokenizer, no_pictures, out_of_memory or engine_dead; None for any other."""
    return next((kind for kind, signs in _SIGNS.items() if any(re.search(sign, text) for sign in signs)), None)


def counted_tokens(text: str) -> int | None:
    """The length of the prompt in tokens, where a refusal names it."""
    signs = (
        r"prompt contains (\d+) input tokens",
        r"Input length \((\d+)\) exceeds",
        r"\(length (\d+)\)",
        r"Prompt length of (\d+)",
        r"(\d+) in the messages",
        r"request \((\d+) tokens\) exceeds",
    )
    return _number(text, signs)


def named_limit(text: str) -> int | None:
    """The longest request in tokens that the engine accepts, where a refusal names it."""
    signs = (
        r"maximum context length is (\d+)",
        r"maximum context length \((\d+)\)",
        r"context length is only (\d+)",
        r"maximum model length of (\d+)",
        r"available context size \((\d+) tokens\)",
        r"maximum (?:length )?(?:is )?(\d{3,}), you sent",
    )
    return _number(text, signs)


def _number(text: str, signs: tuple[str, ...]) -> int | None:
    """The number that the first of these patterns finds."""
    found = (re.search(sign, text) for sign in signs)
    return next((int(match[1][:18]) for match in found if match), None)


# What messages mean that do not say it themselves.
_MEANINGS = {
    r"vocab(ulary)? out of range": "the prompt with its frames is longer than the context; docs/limits.md has the cost of each size"
}


def message_of(body: str) -> str:
    """The sentence inside an error body, at most 400 characters of it, and what it means where it does not say so."""
    try:
        found = json.loads(body)
        found = found.get("error", found)
        found = found.get("message", found) if isinstance(found, dict) else found
    except (ValueError, AttributeError, RecursionError):
        found = body
    said = " ".join(str(found).split())[:400]
    meaning = next((meaning for sign, meaning in _MEANINGS.items() if re.search(sign, said)), "")
    return f"{said} ({meaning})" if meaning else said
