"""Limits: points, verdicts, agreement, the fine search, and what is believed of an engine."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import InputError
from src.limits import matrix
from src.limits.calibration_clip import test_card as make
from src.limits.points import (
    _SHAPES,
    Agreement,
    Measured,
    Point,
    agreement,
    edge,
    marked,
    measured_of,
    memory_lines,
    patch_grid,
    prompt_of,
    size_of,
)
from src.media import geometry
from src.media.geometry import Size
from src.media.hint import Hint
from src.media.render import render
from src.media.video import VideoLimits, probe
from src.models import pixtral
from src.planning import observed_limits
from src.planning.observed_limits import Envelope
from src.planning.resolve import resolve
from src.worker.protocol import Outcome
from tests.conftest import Configure

FACTS = {
    "4096-x": {"engine": "vllm", "model": "m", "host": "local", "image": "", "max_model_len": "4096", "memory": ""}
}


def point(size: str = "640x480", max_model_len: int = 4096, measured: Measured | None = None) -> Point:
    wide = size_of(size)
    image = 2 * pixtral.image_tokens(wide.width_px, wide.height_px)
    return Point(
        id=f"{size}-{max_model_len}", engine_key="4096-x", size=size, aspect="", category="", frames=2,
        max_model_len=max_model_len, reserve=300, text_tokens=2, image_tokens=image, prompt_tokens=image + 5,
        linear_estimate=pixtral.linear_estimate(wide.width_px, wide.height_px, 2), measured=measured,
    )  # fmt: skip


def seen(accepted: bool, tokens: int | None = None, refusal: str = "too_long") -> Measured:
    return Measured(
        accepted, "" if accepted else refusal, "" if accepted else "said so", tokens, None, 0.1, 0.2, "vllm 0.32"
    )


@given(width=st.integers(2, 3000), height=st.integers(2, 3000))
def test_the_patch_grid_is_all_that_the_tokens_depend_on(width: int, height: int) -> None:
    columns, rows = patch_grid(Size(width, height))
    assert columns * rows + rows == pixtral.image_tokens(width, height)
    assert max(columns, rows) <= geometry.MAX_SIDE_PX // geometry.PATCH_PX


def test_sizes_that_the_encoder_sees_alike_are_marked() -> None:
    twins = {p.size: p.same_as for p in marked([point("1920x1056"), point("1280x704"), point("640x480")])}
    assert twins == {"640x480": "", "1280x704": "", "1920x1056": "1280x704"}


def test_points_of_different_budgets_are_never_marked_as_the_same() -> None:
    assert [p.same_as for p in marked([point(max_model_len=4096), point(max_model_len=8192)])] == ["", ""]


@pytest.mark.parametrize(
    ("measured", "agrees"),
    [
        (seen(True, 2465), True),
        (seen(True), True),  # an engine that counts no tokens
        (seen(True, 2464), False),
        (seen(False, 2465), False),
        (seen(False, None, "failed"), None),
        (seen(False, 2464, "failed"), False),  # it counted otherwise than planned
        (None, None),
    ],
)
def test_agreement_is_of_verdict_and_count(measured: Measured | None, agrees: bool | None) -> None:
    assert point("640x480", measured=measured).agrees is agrees


def test_the_old_estimate_is_scored_by_its_verdict_alone() -> None:
    points = [point("320x180", measured=seen(True, 509)), point("640x480", measured=seen(True, 2465)), point("480x480")]
    assert agreement(points) == Agreement(measured=2, exact=2, linear=1)
    assert "2 of 2 points" in str(agreement(points))
    assert "not measured" in str(agreement(points[2:]))


@pytest.mark.parametrize("aspect", geometry.ASPECTS)
@given(room=st.integers(30, 6000))
def test_the_search_finds_the_largest_size_that_fits_and_the_next_one_up(aspect: str, room: int) -> None:
    def fits(size: Size) -> bool:
        return prompt_of(size, 2, 2) <= room

    found = edge(aspect, fits)
    sizes = geometry.aligned_sizes(_SHAPES[aspect])
    if not any(map(fits, sizes)):
        assert found == (sizes[-1],)
    elif fits(sizes[0]):
        assert found == (sizes[0],)
    else:
        best, above = found
        assert fits(best) and not fits(above)
        area = best.width_px * best.height_px
        larger = [s for s in sizes if s.width_px * s.height_px > area]
        assert above in larger and not any(map(fits, larger))
        assert above == min(larger, key=lambda s: s.width_px * s.height_px)


def test_an_outcome_says_whether_the_engine_took_it() -> None:
    answered = Outcome(
        "i", "upsampled", attempts=[{}], tokens={"measured": 509}, engine={"name": "vllm", "version": "1"}
    )
    flagged = replace(answered, state="kept", reason="echo of the prompt, 1 time")
    refused = Outcome("i", "kept", "the engine refused it", refusal="no_room", tokens={"measured": 4000})
    lost = Outcome("i", "failed", "frame damaged")
    verdicts = [
        (m.accepted, m.refusal, m.room) for m in (measured_of(o, 4096) for o in (answered, flagged, refused, lost))
    ]
    assert verdicts == [(True, "", 3587), (True, "", 3587), (False, "no_room", 96), (False, "failed", None)]


@pytest.mark.parametrize("text", ["640", "640x", "x480", "640x480x2", "1x480", "-2x480", "wide"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        size_of(text)


def test_memory_is_read_from_what_vllm_writes() -> None:
    log = """INFO Model loading took 23.6552 GiB and 13.1 seconds
(Worker pid=1) INFO 11-24 04:13:52 [cpu_worker.py:260] Explicitly set (2.0/8.59) GiB for KV cache on node 0.
INFO [kv_cache_utils.py:2327] GPU KV cache size: 8,388 tokens, Maximum concurrency for 4,096 tokens per request: 2.04x"""
    assert memory_lines(log) == [
        "Model loading took 23.6552 GiB", "(2.0/8.59) GiB for KV cache", "GPU KV cache size: 8,388 tokens",
    ]  # fmt: skip


# --------------------------------------------------------------------------------------------------------- test cards


@pytest.mark.parametrize("size", [Size(320, 180), Size(360, 203), Size(2, 2)])
def test_a_test_card_has_its_size_and_enough_different_frames(size: Size, tmp_path: Path) -> None:
    path = make(size, 2.0, tmp_path)
    video = probe(path, VideoLimits(10**9, 10**9, 1e9))
    assert (video.size, video.frames, video.fps) == (size, 8, 2.0)
    if size.width_px > 100:
        hint = Hint(size.width_px, size.height_px, 8, (0.0,) * 8, "head", 2.0)
        rendered = render(video, hint, tmp_path / "hints", with_video=False)
        assert len({frame.sha256 for frame in rendered.frames}) == 8
    before = path.stat().st_mtime_ns
    assert make(size, 2.0, tmp_path) == path and path.stat().st_mtime_ns == before
    assert not list(tmp_path.glob(".*"))


# ---------------------------------------------------------------------------------------------------------- the matrix


def test_the_matrix_files_hold_every_point_and_no_word_of_the_page_is_code(tmp_path: Path) -> None:
    wrong = seen(False, 2465)
    wrong = replace(wrong, reason="</script><b>refused</b>")
    points = marked([point("320x180", measured=seen(True, 509)), point("640x480", measured=wrong), point("480x480")])
    matrix.write(points, FACTS, tmp_path)
    rows = list(csv.DictReader((tmp_path / "matrix.csv").open()))
    data = json.loads((tmp_path / "matrix.json").read_text())
    assert [row["size"] for row in rows] == [row["size"] for row in data["points"]] == ["320x180", "480x480", "640x480"]
    assert data["agreement"] == {"measured": 2, "exact": 1, "linear": 2, "points": 3}
    assert (tmp_path / "matrix.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "matrix.html").read_text()
    assert "<b>refused</b>" not in page and "&lt;b&gt;refused" in page
    assert 'id="wrong"' in page and page.count('<td class="wrong') == 1
    assert "src=" not in page and "http" not in page.split("</style>")[1].split("<svg")[0]


# -------------------------------------------------------------------------------------------------- what is believed


def entry(accepted: int | None, refused: int | None, version: str = "1") -> Envelope:
    return Envelope("local", "", "endpoint", "m", version, 4096, accepted, refused, "2026-01-01")


def test_a_refusal_inside_the_limit_is_believed_and_one_beyond_it_changes_nothing() -> None:
    assert entry(3000, 3500).believed_len == 3499
    assert entry(4096, 4097).believed_len is None
    assert entry(4000, None).believed_len is None


def test_what_the_same_version_did_is_added_up_and_a_contradiction_replaces_it(tmp_path: Path) -> None:
    file = tmp_path / "limits.json"
    observed_limits.remember(file, "k", entry(1000, 4000))
    assert observed_limits.remember(file, "k", entry(2000, 5000)) == entry(2000, 4000)
    assert observed_limits.remember(file, "k", entry(4050, None)) == entry(4050, None)
    assert observed_limits.remember(file, "k", entry(10, 20, version="2")) == entry(10, 20, version="2")
    assert observed_limits.read(file) == {"k": entry(10, 20, version="2")}


@pytest.mark.parametrize("text", ["{", "[1]", '{"k": {"host": 1}}', '{"k": 3}'])
def test_a_damaged_file_of_limits_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "limits.json").write_text(text)
    with pytest.raises(InputError, match=r"limits\.json"):
        observed_limits.read(tmp_path / "limits.json")


def test_best_fit_and_plan_keep_to_what_the_engine_was_seen_to_take(
    configure: Configure, clips: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.json").write_text(
        json.dumps([{"name": "a", "prompt": "a boat", "video_path": str(clips / "hd.mp4")}])
    )
    config = configure("upsample=best_fit", "engine=endpoint", "engine.base_url=http://127.0.0.1:9/v1")
    config.prompts, config.cache_dir = str(tmp_path / "p.json"), str(tmp_path / "cache")
    before = resolve(config)
    key = observed_limits.key_of(before.settings)
    seen_here = Envelope("local", "", "endpoint", before.settings.model.name, "1", 4096, 2500, 3001, "2026-01-01")
    observed_limits.remember(observed_limits.limits_file(tmp_path / "cache"), key, seen_here)
    after = resolve(config)
    assert before.items[0].tokens.prompt + 300 > 3000 >= after.items[0].tokens.prompt + 300
    assert after.settings.believed_len == 3000
    config.engine.base_url = "http://127.0.0.1:10/v1"  # another engine, of which nothing is known
    assert resolve(config).settings.believed_len == 0
