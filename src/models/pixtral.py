"""What a request costs, in tokens of the engine, counted without the engine.

The rule for images is Pixtral's, as `mistral_common.tokens.tokenizers.image` defines it; a property test holds it
against mistral-common's own full encoding. A request without a system prompt is
`<s>[INST] images text [/INST]`: three control tokens, the image tokens, the text tokens.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path

from ..errors import InputError
from ..files import write_atomic
from ..media.geometry import MAX_SIDE_PX, PATCH_PX

WRAPPER_TOKENS = 3  # <s>, [INST], [/INST]
LINEAR_FACTOR = 0.0173  # tokens per pixel of the old estimate (see linear_estimate)
LINEAR_SAFE_SHARE = 0.9  # the old estimate called a prompt safe below this share of max_model_len

CountText = Callable[[str], int]


def image_tokens(width_px: int, height_px: int) -> int:
    """Tokens of one image: its 16 px patches, plus one break token per row, after scaling to at most 1024 px."""
    ratio = max(width_px, height_px) / MAX_SIDE_PX
    if ratio > 1:
        width_px, height_px = max(1, round(width_px / ratio)), max(1, round(height_px / ratio))
    columns = (width_px - 1) // PATCH_PX + 1
    rows = (height_px - 1) // PATCH_PX + 1
    return columns * rows + rows


def prompt_tokens(width_px: int, height_px: int, frames: int, text_tokens: int) -> int:
    """Tokens of the whole request, as the engine counts them."""
    return image_tokens(width_px, height_px) * frames + WRAPPER_TOKENS + text_tokens


def message_tokens(count_text: CountText, system: str, text: str, *, with_images: bool) -> int:
    """Text tokens of a request. The tokenizer of Pixtral puts the system message and two newlines in front of the user
    message: as text of its own before images, joined to the text where there are none (mistral-common, `InstructTokenizerV3`).
    """
    if not system:
        return count_text(text)
    return count_text(f"{system}\n\n") + count_text(text) if with_images else count_text(f"{system}\n\n{text}")


def linear_estimate(width_px: int, height_px: int, frames: int) -> int:
    """The estimate of the original investigation, kept for comparison: w x h x frames x 0.0173. 4 to 15 times too high."""
    return int(width_px * height_px * frames * LINEAR_FACTOR)


def linear_says_safe(estimate: int, max_model_len: int) -> bool:
    """The verdict that the old estimate gave: safe below 90 % of the limit."""
    return estimate < LINEAR_SAFE_SHARE * max_model_len


_LONG_RUN = re.compile(r"\s{10000}")


def text_counter(tokenizer: str, cache_dir: Path) -> CountText:
    """A function that counts the tokens of a text, control tokens in it being plain text, as in a user message.

    Building the tokenizer from its JSON takes over half a second, so its byte ranks are kept in `cache_dir` in a form
    that loads in a fraction of that; the cache is keyed by the versions that made it and is rebuilt when unreadable.
    """
    import tiktoken

    pattern, pieces = _ranks(tokenizer, cache_dir)
    encoding = tiktoken.Encoding(
        tokenizer, pat_str=pattern, mergeable_ranks={p: i for i, p in enumerate(pieces)}, special_tokens={}
    )

    @lru_cache(maxsize=65_536)
    def count(text: str) -> int:
        try:
            return sum(len(encoding.encode_ordinary(piece)) for piece in _pieces(text))
        except BaseException as e:  # tiktoken panics on a million spaces in a row, with an exception of its own kind
            if type(e).__name__ != "PanicException":
                raise
            raise InputError(
                f"a prompt that starts {text[:40]!r} cannot be tokenized",
                hint="does it contain a very long run of spaces?",
            ) from None

    return count


def _pieces(text: str) -> Iterator[str]:
    """The text, cut within runs of blanks that are so long that tiktoken panics on them; a token or two more at each cut."""
    start = 0
    for run in _LONG_RUN.finditer(text):
        yield text[start : run.end()]
        start = run.end()
    yield text[start:]


def _ranks(tokenizer: str, cache_dir: Path) -> tuple[str, list[bytes]]:
    """Split pattern and byte pieces in rank order of a tekken file, from the cache or from the file itself."""
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
    pattern, pieces = _read_tekken(tokenizer)
    body = marshal.dumps((pattern, pieces))
    with suppress(OSError):  # a folder that cannot be written costs half a second the next time, and nothing else
        write_atomic(cached, hashlib.sha256(body).digest() + body)
    return pattern, pieces


def _read_tekken(tokenizer: str) -> tuple[str, list[bytes]]:
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    try:
        model = Tekkenizer.from_file(tokenizer_file(tokenizer))._model
    except Exception as e:  # whatever mistral-common raises for a file of another kind
        raise InputError(
            f"model.tokenizer={tokenizer}: not a valid tekken tokenizer ({type(e).__name__}: {e})",
            hint="name the tekken.json of the checkpoint, or leave the default",
        ) from e
    ranks: dict[bytes, int] = model._mergeable_ranks
    return model._pat_str, sorted(ranks, key=ranks.__getitem__)


def tokenizer_file(tokenizer: str) -> Path:
    """Path of a tokenizer file: the user's own, or one inside the mistral-common wheel."""
    if os.path.sep in tokenizer or Path(tokenizer).is_file():
        return Path(tokenizer)
    spec = util.find_spec("mistral_common")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "data" / tokenizer


def smallest_max_model_len(prompt_tokens: Sequence[int], reserve: int) -> int:
    """The smallest max_model_len that serves every one of these prompts, with `reserve` tokens kept for the answer."""
    return max(prompt_tokens, default=WRAPPER_TOKENS) + reserve
