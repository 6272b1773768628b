"""Config and prompt files become a plan: every clip and every prompt that a user might bring."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from src.config import Config
from src.errors import InputError, SpecError
from src.models.pixtral import CountText, message_tokens, prompt_tokens, text_counter
from src.planning.plan import Plan, PlanItem
from src.planning.recipe import EMPTY_PROMPT_TEXT, message_writer
from src.planning.resolve import resolve
from src.prompts.specs import PromptSpec, read_specs
from tests.conftest import TOKENIZER, Configure
from tests.harness.clips import make_clip

Item = dict[str, Any]
Setup = Callable[..., Config]


@pytest.fixture
def setup(configure: Configure, tmp_path: Path) -> Setup:
    """A function from items and overrides to a config whose prompt file holds these items."""

    def made(items: list[Item], *overrides: str, exact: bool = False) -> Config:
        file = tmp_path / "prompts.json"
        file.write_text(json.dumps(items))
        config = configure(*overrides, exact=exact)
        config.prompts = str(file)
        return config

    return made


def item_of(plan: Plan) -> PlanItem:
    (item,) = plan.items
    return item


def over(clip: Path, prompt: str = "A red car") -> list[Item]:
    return [{"prompt": prompt, "video_path": str(clip)}]


def hint_size(item: PlanItem) -> str:
    assert item.hint
    return f"{item.hint.width_px}x{item.hint.height_px}"


@pytest.fixture(scope="module")
def count(cache_dir: Path) -> CountText:
    return text_counter(TOKENIZER, cache_dir)


# Clips that cannot be used


def truncated(folder: Path, clips: Path) -> Path:
    whole = (clips / "wide.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    return folder / "cut.mp4"


def zero_bytes(folder: Path, clips: Path) -> Path:
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def random_bytes(folder: Path, clips: Path) -> Path:
    (folder / "noise.mp4").write_bytes(bytes(n * 7919 % 251 for n in range(5000)))
    return folder / "noise.mp4"


def playlist(folder: Path, clips: Path) -> Path:
    (folder / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1\n{clips / 'wide.mp4'}\n#EXT-X-ENDLIST\n")
    return folder / "list.mp4"


def fifo(folder: Path, clips: Path) -> Path:
    os.mkfifo(folder / "pipe.mp4")
    return folder / "pipe.mp4"


def loop(folder: Path, clips: Path) -> Path:
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    return folder / "loop.mp4"


def picture(folder: Path, clips: Path) -> Path:
    from PIL import Image

    Image.new("RGB", (64, 64)).save(folder / "picture.mp4", "PNG")
    return folder / "picture.mp4"


BAD_CLIPS: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "missing": (lambda folder, clips: folder / "nowhere.mp4", "there is no such file"),
    "below a file": (lambda folder, clips: clips / "wide.mp4" / "x.mp4", "cannot be read"),
    "name too long": (lambda folder, clips: folder / ("x" * 300), "cannot be read"),
    "folder": (lambda folder, clips: clips, "is not a regular file"),
    "device": (lambda folder, clips: Path("/dev/zero"), "is not a regular file"),
    "fifo": (fifo, "is not a regular file"),
    "link to itself": (loop, "cannot be read"),
    "zero bytes": (zero_bytes, "is empty"),
    "cut short": (truncated, "is no video that can be opened"),
    "noise": (random_bytes, "is no video that can be opened"),
    "text that names other files": (lambda folder, clips: clips / "text.mp4", "is no video that can be opened"),
    "playlist": (playlist, "is no video that can be opened"),
    "still picture": (picture, "is no video that can be opened"),
    "sound only": (lambda folder, clips: clips / "sound.m4a", "has no video stream, only audio"),
}


@pytest.fixture(params=BAD_CLIPS.values(), ids=list(BAD_CLIPS))
def bad_clip(request: pytest.FixtureRequest, tmp_path: Path, clips: Path) -> tuple[Path, str]:
    """A clip that cannot be used, and what is said about it."""
    make, says = request.param
    return make(tmp_path, clips), says


def test_bad_clip_is_named_and_its_prompt_kept(setup: Setup, bad_clip: tuple[Path, str]) -> None:
    clip, says = bad_clip
    item = item_of(resolve(setup(over(clip))))
    assert item.problem.startswith(f"{clip}: {says}")
    assert (item.fits, item.batch, item.video, item.hint) == (False, None, None, None)
    assert item.prompt == "A red car"


def test_bad_clip_is_left_out_and_its_text_served_when_asked(setup: Setup, bad_clip: tuple[Path, str]) -> None:
    clip, says = bad_clip
    item = item_of(resolve(setup(over(clip), "video.on_bad_video=text_only")))
    assert says in item.problem
    assert (item.fits, item.batch, item.hint, item.tokens.image) == (True, 0, None, 0)


def test_bad_clip_without_a_prompt_is_never_served_from_its_text(setup: Setup, bad_clip: tuple[Path, str]) -> None:
    clip, says = bad_clip
    item = item_of(resolve(setup(over(clip, ""), "video.on_bad_video=text_only")))
    assert says in item.problem
    assert not item.fits


def test_bad_clips_do_not_touch_the_other_items(setup: Setup, clips: Path, tmp_path: Path) -> None:
    bad = [make(tmp_path, clips) for make, _ in BAD_CLIPS.values()]
    items = [{"prompt": "x", "video_path": str(clip)} for clip in (clips / "wide.mp4", *bad, clips / "hd.mp4")]
    plan = resolve(setup(items))
    assert [item.fits for item in plan.items] == [True, *[False] * len(bad), True]


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ("video.max_bytes=1000", "is larger than video.max_bytes=1000"),
        ("video.max_pixels=57599", "320x180 is larger than video.max_pixels=57599"),
        ("video.max_duration_s=0.9", "is longer than video.max_duration_s"),
    ],
)
def test_clip_beyond_a_limit_is_refused_with_the_name_of_the_limit(
    setup: Setup, clips: Path, limit: str, says: str
) -> None:
    item = item_of(resolve(setup(over(clips / "wide.mp4"), limit)))
    assert says in item.problem
    assert not item.fits


@pytest.mark.parametrize("limit", ["video.max_pixels=57600", "video.max_duration_s=1", "video.max_duration_s=inf"])
def test_clip_at_a_limit_is_served(setup: Setup, clips: Path, limit: str) -> None:
    assert item_of(resolve(setup(over(clips / "wide.mp4"), limit))).fits


def patched(clip: Path, old: bytes, new: bytes) -> Path:
    data = clip.read_bytes()
    assert old in data
    assert len(old) == len(new)
    clip.write_bytes(data.replace(old, new))
    return clip


@pytest.fixture
def ten_fps(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "a.mp4", size=(64, 48), fps=10, seconds=1)


def test_clip_with_a_tag_that_is_not_utf_8_is_used(setup: Setup, ten_fps: Path) -> None:
    assert item_of(resolve(setup(over(patched(ten_fps, b"VideoHandler", b"Vid\xe9oHandler"[:12]))))).fits


def test_clip_of_an_unknown_codec_is_a_bad_clip(setup: Setup, ten_fps: Path) -> None:
    item = item_of(resolve(setup(over(patched(ten_fps, b"avc1", b"zzzz")))))
    assert item.problem.startswith(str(ten_fps))


def test_clip_whose_header_gives_an_absurd_frame_rate_is_a_bad_clip(setup: Setup, ten_fps: Path) -> None:
    data = bytearray(ten_fps.read_bytes())
    at = data.index(b"stts") + 16  # ISO 14496-12: type, version and flags, entries, count, then the duration of a frame
    data[at : at + 4] = struct.pack(">I", 2**31 - 1)
    ten_fps.write_bytes(data)
    item = item_of(resolve(setup(over(ten_fps))))
    assert item.problem.startswith(str(ten_fps))


# Probing


def test_each_clip_is_probed_once_and_progress_counts_them(setup: Setup, clips: Path) -> None:
    seen: list[tuple[int, int]] = []
    paths = [clips / "wide.mp4", clips / "hd.mp4", clips / "wide.mp4", clips / "." / "wide.mp4"]
    items = [{"name": str(n), "prompt": "x", "video_path": str(path)} for n, path in enumerate(paths)]
    resolve(setup([*items, {"prompt": "no clip"}]), on_probe=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_video_in_the_plan_is_what_the_clip_is(setup: Setup, clips: Path) -> None:
    video = item_of(resolve(setup(over(clips / "portrait.mp4")))).video
    assert video
    assert (video.width_px, video.height_px, video.fps, video.frames, video.duration_s) == (180, 320, 12.0, 12, 1.0)
    assert video.path == str(clips / "portrait.mp4")


def test_clip_with_fewer_frames_than_asked_gives_what_it_has(setup: Setup, clips: Path) -> None:
    for frames in ("head_4", "ends_4", "uniform_4"):
        item = item_of(resolve(setup(over(clips / "short.mp4"), f"frames={frames}")))
        assert item.hint
        assert item.hint.frames == len(item.hint.times_s) == 1
        assert item.tokens.prompt == prompt_tokens(160, 90, 1, item.tokens.text)


# Sizes and budgets


@pytest.mark.parametrize(
    ("clip", "overrides", "size"),
    [
        ("hd", ["upsample=safe_320"], "320x180"),
        ("portrait", ["upsample=safe_320"], "180x320"),  # never scaled up
        ("square", ["upsample=safe_320"], "96x96"),
        ("hd", ["upsample=safe_320", "upsample.width_px=640"], "640x360"),
        ("hd", ["upsample=native", "budget=8k"], "1280x720"),
        ("hd", ["upsample=best_fit", "budget=8k"], "1024x576"),
        ("wide", ["upsample=best_fit"], "320x180"),
        ("hd", ["upsample=category", "resolution=720p", "budget=8k"], "1280x704"),
        ("hd", ["upsample=category", "resolution=256p"], "320x192"),
        ("portrait", ["upsample=category", "resolution=480p"], "432x768"),
        ("portrait", ["upsample=category", "resolution=1080p", "budget=8k"], "1056x1920"),
        ("square", ["upsample=category", "resolution=512p"], "512x512"),
        ("hd", ["upsample=category", "resolution=480p", "aspect=1:1"], "480x480"),
        ("hd", ["upsample=category", "resolution=480p", "aspect=9:16"], "432x768"),
        ("hd", ["upsample=safe_320", "aspect=9:16"], "320x180"),  # aspect is for upsample=category
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_hint_has_the_size_of_its_recipe(setup: Setup, clips: Path, clip: str, overrides: list[str], size: str) -> None:
    item = item_of(resolve(setup(over(clips / f"{clip}.mp4"), *overrides)))
    assert hint_size(item) == size
    assert (item.fits, item.shrunk_from, item.problem) == (True, None, "")


def test_best_fit_of_16_9_at_4096_with_120_text_tokens_is_896x504(setup: Setup, clips: Path, count: CountText) -> None:
    prompt = " ".join(["car"] * 120)
    assert count(prompt) == 120
    item = item_of(resolve(setup(over(clips / "hd.mp4", prompt), "upsample=best_fit", exact=True)))
    assert hint_size(item) == "896x504"
    assert item.tokens.image == 3648
    assert (item.fits, item.shrunk_from) == (True, None)


def test_hint_that_does_not_fit_is_shrunk_and_says_from_what(setup: Setup, clips: Path) -> None:
    item = item_of(resolve(setup(over(clips / "hd.mp4"), "upsample=native")))
    assert item.shrunk_from == "1280x720"
    assert item.fits
    assert item.tokens.prompt + 300 <= 4096
    best = item_of(resolve(setup(over(clips / "hd.mp4"), "upsample=best_fit")))
    assert hint_size(item) == hint_size(best)


def test_hint_that_does_not_fit_is_refused_when_shrinking_is_off(setup: Setup, clips: Path) -> None:
    item = item_of(resolve(setup(over(clips / "hd.mp4"), "upsample=native", "upsample.shrink=false")))
    assert hint_size(item) == "1280x720"
    assert (item.fits, item.batch) == (False, None)
    assert f"needs {item.tokens.prompt} prompt + 300 reserved tokens" in item.problem
    assert "max_model_len=4096" in item.problem


def test_best_fit_is_found_when_shrinking_is_off(setup: Setup, clips: Path) -> None:
    item = item_of(resolve(setup(over(clips / "hd.mp4"), "upsample=best_fit", "upsample.shrink=false")))
    assert item.fits


@pytest.mark.parametrize("on_bad_video", ["keep", "text_only"])
def test_text_that_is_too_long_alone_is_refused_with_and_without_a_clip(
    setup: Setup, clips: Path, on_bad_video: str
) -> None:
    long = "word " * 5000
    items = [*over(clips / "hd.mp4", long), {"prompt": long}]
    for item in resolve(setup(items, f"video.on_bad_video={on_bad_video}")).items:
        assert not item.fits
        assert "reserved tokens, more than max_model_len=4096" in item.problem


@pytest.mark.parametrize("margin", [0, 77])
def test_item_fits_exactly_up_to_the_last_token(setup: Setup, clips: Path, margin: int) -> None:
    def at(max_model_len: int) -> PlanItem:
        limits = [f"budget.max_model_len={max_model_len}", f"budget.text_margin={margin}", "upsample.shrink=false"]
        return item_of(resolve(setup(over(clips / "wide.mp4"), *limits)))

    need = at(4096).tokens.prompt + 300 + margin
    assert at(need).fits
    assert not at(need - 1).fits


def test_token_account_adds_up_to_the_engines_count(setup: Setup, clips: Path, count: CountText) -> None:
    items = [*over(clips / "wide.mp4", "Test prompt"), {"prompt": "Test prompt"}]
    with_clip, without = resolve(setup(items, exact=True)).items
    assert (with_clip.tokens.prompt, with_clip.tokens.image, with_clip.tokens.text) == (509, 504, 2)
    assert (with_clip.tokens.output_reserved, with_clip.tokens.linear_estimate) == (300, 1992)
    assert (without.tokens.prompt, without.tokens.image, without.tokens.linear_estimate) == (5, 0, 0)


# Prompts, identities


@pytest.mark.parametrize("prompt", ["", "   ", None])
def test_clip_without_a_prompt_asks_nvidias_question(setup: Setup, clips: Path, prompt: str | None) -> None:
    item = item_of(resolve(setup([{"prompt": prompt, "video_path": str(clips / "wide.mp4")}])))
    assert item.text == EMPTY_PROMPT_TEXT == "describe the following images"
    assert item.prompt == (prompt or "")
    assert item.fits


def test_items_that_are_the_same_share_their_identity(setup: Setup, clips: Path, tmp_path: Path) -> None:
    copy = shutil.copy(clips / "wide.mp4", tmp_path / "copy.mp4")
    items = [
        {"name": "a", "prompt": "x", "video_path": str(clips / "wide.mp4")},
        {"name": "b", "prompt": "x", "video_path": str(copy)},
        {"name": "c", "prompt": "y", "video_path": str(copy)},
        {"name": "d", "prompt": "x"},
        {"name": "e", "prompt": "x"},
    ]
    plan = resolve(setup(items))
    a, b, c, d, e = (item.id for item in plan.items)
    assert a == b
    assert d == e
    assert len({a, c, d}) == 3
    assert sorted(i for batch in plan.batches for i in batch) == sorted({a, c, d})


def test_item_without_a_clip_is_not_the_same_as_one_whose_clip_is_bad(setup: Setup, tmp_path: Path) -> None:
    items = [{"name": "plain", "prompt": "x"}, {"name": "bad", "prompt": "x", "video_path": "nowhere.mp4"}]
    plain, bad = resolve(setup(items, "video.on_bad_video=text_only")).items
    assert plain.id != bad.id


def test_order_of_the_input_is_kept_over_files(configure: Configure, tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"name": "{name}{n}", "prompt": "x"}}\n' for n in range(3)))
    config = configure()
    config.prompts = str(tmp_path)
    assert [item.name for item in resolve(config).items] == [f"{f}{n}" for f in "abc" for n in range(3)]


def test_nothing_is_written_but_the_tokenizers_cache(
    setup: Setup, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = setup([*over(clips / "wide.mp4"), *over(clips / "text.mp4")], "upsample=best_fit")
    config.cache_dir = "cache"
    before = {path.relative_to(clips) for path in clips.rglob("*")}
    resolve(config)
    assert {path.relative_to(clips) for path in clips.rglob("*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "prompts.json"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["tokenizer"]


def test_problems_of_the_prompts_come_before_any_clip_is_opened(setup: Setup, clips: Path) -> None:
    seen: list[int] = []
    with pytest.raises(SpecError):
        resolve(setup([*over(clips / "wide.mp4"), {"prompt": 5}]), on_probe=lambda done, total: seen.append(done))
    assert seen == []


# Templates


@pytest.fixture
def spec(tmp_path: Path) -> Iterator[PromptSpec]:
    (tmp_path / "spec.json").write_text('{"prompt": "A {{ name }} <b>&amp;</b> {% raw %}", "name": "robot"}')
    return read_specs([tmp_path / "spec.json"])


def test_bare_template_sends_the_prompt_word_for_word(spec: Iterator[PromptSpec]) -> None:
    assert message_writer("", "{{ prompt }}")(next(spec)) == ("", "A {{ name }} <b>&amp;</b> {% raw %}")


def test_template_puts_the_prompt_in_word_for_word(spec: Iterator[PromptSpec]) -> None:
    system, user = message_writer("For {{ name }}.\n", "Rewrite: {{ prompt }}\n")(next(spec))
    assert system == "For robot.\n"
    assert user == "Rewrite: A {{ name }} <b>&amp;</b> {% raw %}\n"


@pytest.mark.parametrize(
    "template", ["{{ prompt", "{{ propmt }}", "{% for %}", "{{ prompt | nope }}", "{{ prompt.x.y }}"]
)
def test_template_that_is_no_jinja_is_an_input_error(template: str) -> None:
    for system, user in ((template, "{{ prompt }}"), ("", template)):
        with pytest.raises(InputError, match="template"):
            message_writer(system, user)


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{{ prompt + 1 }}", "{{ 'x' * prompt }}"])
def test_template_that_fails_when_rendered_is_an_input_error(template: str) -> None:
    with pytest.raises(InputError, match="template"):
        message_writer("", template)


def test_system_message_counts_against_the_budget(setup: Setup, clips: Path, count: CountText) -> None:
    prompt = "\nA red car"  # after a system message its newline is a token of its own, or not, with and without images
    config = setup([*over(clips / "wide.mp4", prompt), {"prompt": prompt}], "template=describe", exact=True)
    with_clip, without = resolve(config).items
    assert with_clip.system == config.template.system
    for item, images in ((with_clip, True), (without, False)):
        assert item.tokens.text == message_tokens(count, item.system, prompt, with_images=images)
        assert item.tokens.prompt == item.tokens.image + 3 + item.tokens.text
    assert with_clip.tokens.text > without.tokens.text > count(prompt) + 30


# Config


WRONG: list[tuple[str, str]] = [
    ("frames.count=0", "frames.count=0: must be 1 to 8"),
    ("frames.count=9", "frames.count=9: must be 1 to 8"),
    ("model.max_images=1", "frames.count=2: model.max_images allows 1"),
    ("frames.fps=0", "frames.fps=0.0: must be 0.01 to 240"),
    ("frames.fps=-2", "frames.fps=-2.0: must be 0.01 to 240"),
    ("frames.fps=nan", "frames.fps=nan: must be 0.01 to 240"),
    ("frames.fps=241", "frames.fps=241.0: must be 0.01 to 240"),
    ("upsample.width_px=15", "upsample.width_px=15: must be at least 16"),
    ("aspect=2:1", "aspect=2:1: must be one of 16:9, 4:3, 1:1, 3:4, 9:16"),
    ("resolution.name=719", "resolution.name=719: must be one of 1080, 720, 512, 480, 256"),
    ("budget.max_output_tokens=0", "max_output_tokens must be at least 1"),
    ("budget.text_margin=-1", "text_margin at least 0"),
    ("budget.max_model_len=303", "budget.max_model_len=303: leaves no room"),
    ("budget.max_batch_size=0", "max_batch_size and max_batch_tokens must be at least 1"),
    ("budget.max_batch_tokens=0", "max_batch_size and max_batch_tokens must be at least 1"),
    ("engine.max_attempts=0", "engine.max_attempts=0: must be 1 to 100"),
    ("engine=endpoint", "engine.base_url: engine=endpoint needs the address of a server"),
    ("engine=vllm", "model.checkpoint: engine=vllm needs the folder of a checkpoint"),
    ("engine=cosmos", "model.checkpoint: engine=cosmos needs the folder above"),
    ("checks.script=greek", "checks.script=greek: must be latin or empty"),
    ("model.tokenizer=none.json", "model.tokenizer=none.json: no such file"),
]


@pytest.mark.parametrize(("override", "says"), WRONG, ids=[override for override, _ in WRONG])
def test_value_that_cannot_be_used_is_refused_by_name(configure: Configure, override: str, says: str) -> None:
    config = configure(override, exact="tokenizer" in override)
    with pytest.raises(InputError) as caught:
        resolve(config)
    assert says in str(caught.value)


def test_values_that_cannot_be_used_are_listed_all_at_once(configure: Configure) -> None:
    config = configure(
        *["frames.count=9", "frames.fps=0", "upsample.width_px=1", "aspect=2:1", "resolution.name=1", "engine=vllm"],
        *["budget.max_output_tokens=0", "budget.max_batch_size=0", "engine.max_attempts=0", "checks.script=x"],
    )
    config.prompts = "nowhere"  # the config comes first
    with pytest.raises(InputError) as caught:
        resolve(config)
    assert str(caught.value).count("\n  - ") == 11


@pytest.mark.parametrize(
    "value", ["frames.count=8", "frames.fps=240", "upsample.width_px=16", "budget.max_model_len=400"]
)
def test_value_at_the_edge_is_taken(setup: Setup, clips: Path, value: str) -> None:
    assert item_of(resolve(setup(over(clips / "wide.mp4"), value))).hint


@pytest.mark.parametrize(
    "override",
    [
        *["sampling.temperature=nan", "sampling.temperature=inf", "sampling.temperature=-1", "frames.fps=0.0004"],
        *["engine.item_delay_s=nan", "engine.item_delay_s=-1", "engine.in_flight=-1", "hints.workers=-1"],
        *["engine.start_timeout_s=0", "engine.request_timeout_s=-1", "model.gpu_memory_utilization=1.5"],
        *["model.max_num_seqs=0", "model.tensor_parallel_size=0", "video.max_duration_s=nan"],
    ],
)
def test_value_that_no_part_can_work_with_is_refused(setup: Setup, clips: Path, override: str) -> None:
    with pytest.raises(InputError):
        resolve(setup(over(clips / "wide.mp4"), override))


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe\x00", b'{"config": {}, "vocab": []}'], ids=len)
def test_tokenizer_that_is_no_tekken_file_is_an_input_error(setup: Setup, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.json").write_bytes(content)
    config = setup([{"prompt": "x"}])
    config.model.tokenizer = str(tmp_path / "own.json")
    with pytest.raises(InputError, match=r"own\.json"):
        resolve(config)


def test_tokenizer_in_the_working_directory_is_found(
    setup: Setup, tmp_path: Path, small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = setup([{"prompt": "x"}])
    shutil.copy(small, tmp_path / "own.json")
    monkeypatch.chdir(tmp_path)
    config.model.tokenizer = "own.json"
    assert resolve(config).items


def test_everything_in_a_plan_is_finite(setup: Setup, clips: Path) -> None:
    for name in ("wide", "hd", "portrait", "square", "short", "other"):
        item = item_of(resolve(setup(over(clips / f"{name}.mp4"))))
        assert item.video
        assert item.hint
        assert all(math.isfinite(x) for x in (*item.hint.times_s, item.video.fps, item.video.duration_s))
