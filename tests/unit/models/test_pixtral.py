"""Token counts, compared with mistral-common's own full encoding of a chat request."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mistral_common.protocol.instruct.chunk import ImageChunk, TextChunk
from mistral_common.protocol.instruct.messages import SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.image import ImageEncoder
from mistral_common.tokens.tokenizers.instruct import InstructTokenizerV3
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from PIL import Image

from src.media.geometry import COSMOS_SIZES, Size
from src.models import tokenizer
from src.models.family import CountText, Media
from src.models.linear import linear_estimate, linear_says_safe
from src.models.tokenizer import text_counter, tokenizer_file
from src.planning.plan import smallest_max_model_len
from tests.conftest import TOKENIZER, small_tokenizer
from tests.harness import pixtral
from tests.harness.pixtral import image_tokens, prompt_tokens

TEXTS = {
    "empty": "",
    "blank": " ",
    "newlines": "\n\n\n",
    "words": "A red car drives through the rain.",
    "control tokens": "[INST] </s> [IMG] <s> [/INST] [IMG_BREAK][IMG_END] <pad> <unk>",
    "chinese": "一辆红色的汽车在雨中行驶，镜头缓慢推进。" * 4,
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 🚗💨 ☔️",
    "arabic": "سيارة حمراء تسير تحت المطر",
    "combining": "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!͖̬̰̙̗̿̋ͥͥ̂ͣ̐́́͜͞",
    "control characters": "a\x00b\x07c\x1b[31m\x7f\ufeff\u2028\u202e",
    "code": 'def f(x):\n\treturn {"a": [1, 2.50, 1e-9]}  # 12345678901234567890\r\n',
    "2,000 words": " ".join(f"word{n} slowly" for n in range(1000)),
    "one long word": "a" * 5000,
}


@dataclass(frozen=True)
class Reference:
    """Counts by mistral-common itself."""

    tokenizer: MistralTokenizer[Any, Any, Any, Any, Any]

    def prompt(self, sizes: list[tuple[int, int]], text: str, system: str = "") -> int:
        images = [ImageChunk(image=Image.new("RGB", size)) for size in sizes]
        user = UserMessage(content=[*images, TextChunk(text=text)] if images else text)
        messages = [SystemMessage(content=system), user] if system else [user]
        return len(self.tokenizer.encode_chat_completion(ChatCompletionRequest(messages=messages)).tokens)

    def image(self, width: int, height: int) -> int:
        """Tokens by the encoder, without an image of that size in memory."""
        instruct = cast("InstructTokenizerV3[Any, Any, Any]", self.tokenizer.instruct_tokenizer)
        assert isinstance(instruct.mm_encoder, ImageEncoder)
        columns, rows = instruct.mm_encoder._image_to_num_tokens(cast(Image.Image, _Sized((width, height))))
        return columns * rows + rows


@dataclass(frozen=True)
class _Sized:
    """All that the encoder reads of an image when it counts."""

    size: tuple[int, int]


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(MistralTokenizer.from_file(str(tokenizer_file(TOKENIZER))))


@pytest.fixture(scope="module")
def count(cache_dir: Path) -> CountText:
    return text_counter(TOKENIZER, cache_dir)


def random_sizes(seed: int, number: int, longest: int) -> list[tuple[int, int]]:
    """Sizes of all shapes, many of them at the edge of a patch."""
    rnd = random.Random(seed)

    def side() -> int:
        edge = 16 * rnd.randint(1, max(1, longest // 16))
        return max(1, min(longest, rnd.choice((rnd.randint(1, longest), edge, edge - 1, edge + 1, rnd.randint(1, 20)))))

    return [(side(), side()) for _ in range(number)]


def test_prompt_tokens_equal_full_encoding(reference: Reference, count: CountText) -> None:
    texts = [text for text in TEXTS.values() if len(text) < 200]
    for n, (width, height) in enumerate(random_sizes(1, 150, 200)):
        text, frames = texts[n % len(texts)], 1 + n % 3
        predicted = prompt_tokens(width, height, frames, count(text))
        assert predicted == reference.prompt([(width, height)] * frames, text), (width, height, frames, text)


@pytest.mark.parametrize(
    "size",
    [
        *[(1023, 577), (1024, 1024), (1025, 577), (577, 1025), (1920, 1080)],
        *[(64, 2048), (2048, 64), (1, 1), (1, 1024), (17, 1)],
    ],
    ids=lambda size: f"{size[0]}x{size[1]}",
)
def test_prompt_tokens_of_extreme_sizes_equal_encoding(
    reference: Reference, count: CountText, size: tuple[int, int]
) -> None:
    assert prompt_tokens(*size, 2, count("Test prompt")) == reference.prompt([size] * 2, "Test prompt")


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (2, 4096)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_side_scaled_to_nothing_counts_one_patch(reference: Reference, count: CountText, size: tuple[int, int]) -> None:
    assert prompt_tokens(*size, 1, count("a")) == reference.prompt([size], "a")


@given(width=st.integers(1, 3000), height=st.integers(1, 3000))
def test_tokens_depend_on_the_patch_grid(width: int, height: int) -> None:
    seen = pixtral.PIXTRAL.seen(Size(width, height), Media(1))
    columns, rows = seen.width_px // pixtral.PATCH_PX, seen.height_px // pixtral.PATCH_PX
    assert columns * rows + rows == image_tokens(width, height)
    assert max(columns, rows) <= pixtral.MAX_SIDE_PX // pixtral.PATCH_PX


def test_image_tokens_equal_those_of_the_encoder(reference: Reference) -> None:
    # Sizes whose short side would be scaled to less than a pixel have their own test.
    sizes = [s for s in random_sizes(2, 10_000, 9000) if min(s) / max(s) * 1024 > 0.5 or max(s) <= 1024]
    assert len(sizes) > 9_500
    wrong = [s for s in sizes if image_tokens(*s) != reference.image(*s)]
    assert not wrong


def test_image_tokens_round_half_pixels_like_python(reference: Reference) -> None:
    # 2048 m x k m is scaled to 1024 x k/2; Python rounds 16.5 px to 16 px, which is one patch, other rules to two.
    for width, height in ((2048 * m, k * m) for m in (1, 2, 3, 4) for k in range(33, 2048, 32)):
        assert image_tokens(width, height) == reference.image(width, height), (width, height)
        assert image_tokens(height, width) == reference.image(height, width), (height, width)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_text_tokens_equal_full_encoding(reference: Reference, count: CountText, text: str) -> None:
    assert prompt_tokens(16, 16, 1, count(text)) == reference.prompt([(16, 16)], text)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_any_text_has_the_tokens_of_mistral(reference: Reference, count: CountText, text: str) -> None:
    encoded = reference.tokenizer.instruct_tokenizer.tokenizer.encode(text, bos=False, eos=False)
    assert count(text) == len(encoded)


@pytest.mark.parametrize("images", [0, 1, 2])
@pytest.mark.parametrize(
    ("system", "text"),
    [
        ("You write prompts.", "A car."),
        ("Ends with a newline.\n", "\nstarts with one"),
        ("系统消息", "红色"),
        ("ends with a space ", " starts with one"),
        ("", "no system message"),
        ("join", "ed"),
    ],
)
def test_system_message_tokens_equal_full_encoding(
    reference: Reference, count: CountText, system: str, text: str, images: int
) -> None:
    counted = pixtral.message_tokens(count, system, text, with_images=images > 0)
    assert prompt_tokens(32, 32, images, counted) == reference.prompt([(32, 32)] * images, text, system)


@pytest.mark.parametrize(
    ("size", "reported"),
    [((320, 180), 509), ((480, 270), 1059), ((640, 480), 2465), ((896, 504), 3653), ((1280, 720), 4685)],
    ids=lambda value: str(value),
)
def test_prompt_tokens_are_what_vllm_reported(count: CountText, size: tuple[int, int], reported: int) -> None:
    assert prompt_tokens(*size, 2, count("Test prompt")) == reported


@pytest.mark.parametrize("size", [(1280, 704), (1280, 720), (1920, 1080), (4096, 2304)])
def test_large_widescreen_frames_cost_the_same(count: CountText, size: tuple[int, int]) -> None:
    assert prompt_tokens(*size, 2, count("Test prompt")) == 4685


def test_cached_tokenizer_counts_the_same(small: str, tmp_path: Path) -> None:
    from_file, from_cache = text_counter(small, tmp_path), text_counter(small, tmp_path)
    assert [from_cache(text) for text in TEXTS.values()] == [from_file(text) for text in TEXTS.values()]


def flip_last_byte(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])


@pytest.mark.parametrize(
    "damage",
    [lambda raw: b"", lambda raw: raw[:20], lambda raw: raw[:-1], flip_last_byte, lambda raw: b"\0" * len(raw)],
    ids=["empty", "only a head", "one byte short", "one bit wrong", "zeros"],
)
def test_damaged_cache_is_rebuilt(small: str, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    before = text_counter(small, tmp_path)(TEXTS["chinese"])
    (cached,) = (tmp_path / "tokenizer").iterdir()
    whole = cached.read_bytes()
    cached.write_bytes(damage(whole))
    assert text_counter(small, tmp_path)(TEXTS["chinese"]) == before
    assert cached.read_bytes() == whole
    assert list(cached.parent.iterdir()) == [cached]


def test_tokenizers_have_separate_caches(small: str, count: CountText, cache_dir: Path) -> None:
    text = TEXTS["2,000 words"]
    assert text_counter(small, cache_dir)(text) > text_counter(TOKENIZER, cache_dir)(text) == count(text)


def test_cache_replaces_reading_the_tokenizer_file(
    cache_dir: Path, count: CountText, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(tokenizer: str) -> None:
        raise AssertionError("the tokenizer file was read")

    monkeypatch.setattr(tokenizer, "_read_file", refuse)
    assert text_counter(TOKENIZER, cache_dir)("Test prompt") == count("Test prompt")


def test_changed_tokenizer_file_is_read_again(tmp_path: Path) -> None:
    own = small_tokenizer(tmp_path / "own.json", words=1000)
    before = text_counter(own, tmp_path / "cache")(TEXTS["words"])
    small_tokenizer(tmp_path / "own.json", words=260)
    assert text_counter(own, tmp_path / "cache")(TEXTS["words"]) > before


def test_counting_works_without_a_cache(small: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert text_counter(small, tmp_path / "file")("a") == 1


def test_linear_estimate_is_1992_at_320x180() -> None:
    estimate = linear_estimate(320, 180, 2)
    assert estimate == 1992
    assert f"{estimate / 4096:.1%}" == "48.6%"


@pytest.mark.parametrize(("estimate", "safe"), [(1992, True), (3686, True), (3687, False), (4096, False)])
def test_linear_estimate_is_safe_below_90_percent(estimate: int, safe: bool) -> None:
    assert linear_says_safe(estimate, 4096) is safe


def test_linear_estimate_is_far_too_high() -> None:
    sizes = [size for category in COSMOS_SIZES.values() for size in category.values()]
    factors = [linear_estimate(*size, 2) / (2 * image_tokens(*size)) for size in sizes]
    assert 4 < min(factors) < 4.5
    assert 14.5 < max(factors) < 15.5


def test_linear_estimate_is_wrong_half_the_time() -> None:
    sizes = [size for category in COSMOS_SIZES.values() for size in category.values()]
    cells = [(size, limit) for size in sizes for limit in (4096, 8192, 16384, 32768)]
    right = sum(
        linear_says_safe(linear_estimate(*size, 2), limit) == (prompt_tokens(*size, 2, 2) + 300 <= limit)
        for size, limit in cells
    )
    assert (right, len(cells)) == (53, 100)


@pytest.mark.parametrize("prompts", [[509], [509, 3653, 12]])
def test_smallest_max_model_len_is_tight(prompts: list[int]) -> None:
    smallest = smallest_max_model_len(prompts, 300)
    assert all(p + 300 <= smallest for p in prompts)
    assert not all(p + 300 <= smallest - 1 for p in prompts)


def test_known_budgets_serve_every_shape() -> None:
    assert smallest_max_model_len([prompt_tokens(1024, 576, 2, 125)], 300) <= 8192
    worst = max(image_tokens(w, 1024) for w in range(1, 1025))
    assert smallest_max_model_len([2 * worst + pixtral.WRAPPER_TOKENS + 120], 300) <= 9216


def test_tokenizer_with_separator_is_a_path(tmp_path: Path) -> None:
    assert tokenizer_file(str(tmp_path / "x.json")) == tmp_path / "x.json"
    assert tokenizer_file(TOKENIZER).is_file()


def test_a_million_blanks_are_counted(cache_dir: Path) -> None:
    assert text_counter(TOKENIZER, cache_dir)(f"a{' ' * 1_000_000}b") > 2
