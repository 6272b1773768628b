"""Recipes: the size of a hint, what happens when it does not fit, and the message that goes with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from src.errors import InputError
from src.models.family import CountText
from src.models.tokenizer import text_counter
from src.planning.plan import PlanItem
from src.planning.recipe import EMPTY_PROMPT_TEXT, message_writer
from src.planning.resolve import resolve
from src.prompts.specs import PromptSpec, read_specs
from src.targets.target import Messages
from tests.conftest import TOKENIZER
from tests.harness.pixtral import message_tokens
from tests.unit.planning.conftest import ConfigFor, only_item, over


@pytest.fixture(scope="module")
def count(cache_dir: Path) -> CountText:
    return text_counter(TOKENIZER, cache_dir)


def hint_size(item: PlanItem) -> str:
    assert item.hint
    return f"{item.hint.width_px}x{item.hint.height_px}"


# Sizes


CATEGORY = "upsample.rule=category"
BEST_FIT = "upsample.rule=best_fit"
NATIVE = "upsample.rule=native"
WIDER = "budget.max_model_len=8192"


@pytest.mark.parametrize(
    ("clip", "overrides", "size"),
    [
        ("hd", ["upsample=safe_320"], "320x180"),
        ("portrait", [], "180x320"),  # never scaled up
        ("square", [], "96x96"),
        ("hd", ["upsample.width_px=640"], "640x360"),
        ("hd", ["upsample=native", WIDER], "1280x720"),
        ("hd", ["upsample=best_fit", WIDER], "1024x576"),
        ("wide", [BEST_FIT], "320x180"),
        ("hd", ["upsample=category", "resolution=720p", WIDER], "1280x704"),
        ("hd", [CATEGORY, "resolution.name=256"], "320x192"),
        ("portrait", [CATEGORY, "resolution.name=480"], "180x320"),
        ("portrait", [CATEGORY, "resolution.name=480", "upsample.enlarge=true"], "432x768"),
        ("portrait", [CATEGORY, "resolution.name=1080", "upsample.enlarge=true", WIDER], "1056x1920"),
        ("square", [CATEGORY, "resolution.name=512", "upsample.enlarge=true"], "512x512"),
        ("hd", [CATEGORY, "resolution.name=480", "aspect=1:1"], "480x480"),
        ("hd", [CATEGORY, "resolution.name=480", "aspect=9:16", "upsample.enlarge=true"], "432x768"),
        ("hd", ["aspect=9:16"], "320x180"),  # aspect is for rule=category
        ("hd", ["upsample=max_320"], "320x180"),
        ("portrait", [NATIVE, "upsample.max_side_px=160"], "90x160"),
        ("hd", [NATIVE, "upsample.max_box=400x200"], "356x200"),
        ("hd", [NATIVE, "upsample.max_box=400x200", "upsample.max_side_px=100"], "100x56"),
        ("hd", [BEST_FIT, "upsample.max_side_px=480"], "480x270"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_hint_has_the_size_of_its_recipe(
    config_for: ConfigFor, clips: Path, clip: str, overrides: list[str], size: str
) -> None:
    config = config_for(over(clips / f"{clip}.mp4"), *(o for o in overrides if not o.startswith("aspect")))
    config.aspect = next((o.split("=")[1] for o in overrides if o.startswith("aspect")), None)
    item = only_item(resolve(config))
    assert hint_size(item) == size
    assert (item.fits, item.shrunk_from, item.problem) == (True, None, "")


def test_best_fit_uses_what_text_leaves(config_for: ConfigFor, clips: Path, count: CountText) -> None:
    prompt = " ".join(["car"] * 120)
    assert count(prompt) == 120
    item = only_item(resolve(config_for(over(clips / "hd.mp4", prompt), BEST_FIT, exact=True)))
    assert hint_size(item) == "896x504"
    assert item.tokens.image == 3648
    assert (item.fits, item.shrunk_from) == (True, None)


def test_hint_that_does_not_fit_is_shrunk(config_for: ConfigFor, clips: Path) -> None:
    item = only_item(resolve(config_for(over(clips / "hd.mp4"), NATIVE)))
    assert item.shrunk_from == "1280x720"
    assert item.fits
    assert item.tokens.prompt + 300 <= 4096
    best = only_item(resolve(config_for(over(clips / "hd.mp4"), BEST_FIT)))
    assert hint_size(item) == hint_size(best)


def test_hint_at_its_smallest_size_loses_frames(config_for: ConfigFor, clips: Path) -> None:
    overrides = ["frames.rule=uniform", "frames.count=4", "upsample.min_side_px=90", "budget.max_model_len=500"]
    item = only_item(resolve(config_for(over(clips / "wide.mp4"), *overrides)))
    assert item.fits and item.hint
    assert (item.hint.frames, len(item.hint.times_s)) == (2, 2)
    assert min(item.hint.width_px, item.hint.height_px) >= 90
    assert item.shrunk_from == "4 frames of 320x180"


def test_without_shrinking_hint_is_rejected(config_for: ConfigFor, clips: Path) -> None:
    item = only_item(resolve(config_for(over(clips / "hd.mp4"), NATIVE, "upsample.shrink=false")))
    assert hint_size(item) == "1280x720"
    assert (item.fits, item.batch) == (False, None)
    assert f"needs {item.tokens.prompt} prompt + 300 reserved tokens" in item.problem
    assert "max_model_len=4096" in item.problem


def test_without_shrinking_best_fit_is_found(config_for: ConfigFor, clips: Path) -> None:
    assert only_item(resolve(config_for(over(clips / "hd.mp4"), BEST_FIT, "upsample.shrink=false"))).fits


@pytest.mark.parametrize("on_bad_video", ["keep", "text_only"])
def test_text_that_is_too_long_is_rejected(config_for: ConfigFor, clips: Path, on_bad_video: str) -> None:
    long = "word " * 5000
    items = [*over(clips / "hd.mp4", long), {"prompt": long}]
    for item in resolve(config_for(items, f"video.on_bad_video={on_bad_video}")).items:
        assert not item.fits
        assert "reserved tokens, more than max_model_len=4096" in item.problem


@pytest.mark.parametrize("margin", [0, 77])
def test_item_fits_up_to_the_last_token(config_for: ConfigFor, clips: Path, margin: int) -> None:
    def at(max_model_len: int) -> PlanItem:
        limits = [f"budget.max_model_len={max_model_len}", f"budget.text_margin={margin}", "upsample.shrink=false"]
        return only_item(resolve(config_for(over(clips / "wide.mp4"), *limits)))

    needed = at(4096).tokens.prompt + 300 + margin
    assert at(needed).fits
    assert not at(needed - 1).fits


def test_tokens_add_up_to_the_prompt(config_for: ConfigFor, clips: Path) -> None:
    items = [*over(clips / "wide.mp4", "Test prompt"), {"prompt": "Test prompt"}]
    with_clip, without = resolve(config_for(items, exact=True)).items
    assert (with_clip.tokens.prompt, with_clip.tokens.image, with_clip.tokens.text) == (509, 504, 2)
    assert (with_clip.tokens.output_reserved, with_clip.linear_estimate) == (300, 1992)
    assert (without.tokens.prompt, without.tokens.image, without.linear_estimate) == (5, 0, 0)


# Messages


@pytest.fixture
def spec(tmp_path: Path) -> Iterator[PromptSpec]:
    (tmp_path / "spec.json").write_text('{"prompt": "A {{ name }} <b>&amp;</b> {% raw %}", "name": "robot"}')
    return read_specs([tmp_path / "spec.json"])


@pytest.mark.parametrize("prompt", ["", "   ", None])
def test_empty_prompt_becomes_the_question_of_nvidia(config_for: ConfigFor, clips: Path, prompt: str | None) -> None:
    item = only_item(resolve(config_for([{"prompt": prompt, "video_path": str(clips / "wide.mp4")}])))
    assert item.text == EMPTY_PROMPT_TEXT == "describe the following images"
    assert item.prompt == (prompt or "")
    assert item.fits


def test_bare_template_sends_the_prompt_verbatim(spec: Iterator[PromptSpec]) -> None:
    assert message_writer(Messages())(next(spec), {}) == ("", "A {{ name }} <b>&amp;</b> {% raw %}")


def test_template_inserts_the_prompt_verbatim(spec: Iterator[PromptSpec]) -> None:
    system, user = message_writer(Messages("For {{ name }}.\n", "Rewrite: {{ prompt }}\n"))(next(spec), {})
    assert system == "For robot.\n"
    assert user == "Rewrite: A {{ name }} <b>&amp;</b> {% raw %}\n"


@pytest.mark.parametrize(
    "template", ["{{ prompt", "{{ propmt }}", "{% for %}", "{{ prompt | nope }}", "{{ prompt.x.y }}"]
)
def test_invalid_template_is_an_input_error(template: str) -> None:
    for system, user in ((template, "{{ prompt }}"), ("", template)):
        with pytest.raises(InputError, match="template"):
            message_writer(Messages(system, user))


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{{ prompt + 1 }}", "{{ 'x' * prompt }}"])
def test_template_that_fails_is_an_input_error(template: str) -> None:
    with pytest.raises(InputError, match="template"):
        message_writer(Messages("", template))


def test_system_message_counts_against_the_budget(config_for: ConfigFor, clips: Path, count: CountText) -> None:
    prompt = "\nA red car"  # its newline may join the newlines after a system message, depending on images
    config = config_for([*over(clips / "wide.mp4", prompt), {"prompt": prompt}], "template=describe", exact=True)
    with_clip, without = resolve(config).items
    assert with_clip.system == config.template.system
    for item, images in ((with_clip, True), (without, False)):
        assert item.tokens.text == message_tokens(count, item.system, prompt, with_images=images)
        assert item.tokens.prompt == item.tokens.image + 3 + item.tokens.text
    assert with_clip.tokens.text > without.tokens.text > count(prompt) + 30
