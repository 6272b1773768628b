"""The report page: its data, its pictures, and that text of others is only data in it. How it behaves: tests/e2e."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from src.files import safe_name
from src.reports.pages import script_hash
from src.reports.report import (
    Report,
    distinct_frames,
    page_item,
    thumbnail_width,
    thumbnails,
    write_report,
)
from src.reports.rows import STANDALONE_ITEMS
from src.timing.run_facts import WindowLine
from tests.harness.pages import Page
from tests.harness.rows import HOSTILE, kept_row, picture, report_of, row

TEMPLATES = Path(__file__).parents[3] / "src" / "reports" / "templates"


def written(what: Report, folder: Path) -> Page:
    write_report(what, folder / "report.html")
    return Page(folder / "report.html")


def test_hostile_text_is_only_data(tmp_path: Path) -> None:
    harmless = written(report_of(row()), tmp_path / "a")
    hostile = row(HOSTILE, original_prompt=HOSTILE, reason=HOSTILE, note=HOSTILE, engine=HOSTILE)
    facts = ((HOSTILE, HOSTILE), ("Command", HOSTILE))
    page = written(report_of(hostile, title=HOSTILE, facts=facts), tmp_path / "b")
    assert [tag for tag, _ in page.tags if tag in ("script", "img")] == ["img", *5 * ["script"]]
    assert len(page.tags) == len(harmless.tags) - 3  # a fact less: a div, a dt and a dd
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert page.json("items")[0]["name"] == HOSTILE
    assert page.json("items")[0]["before"] == HOSTILE


def test_scripts_never_create_html_from_text() -> None:
    for template in TEMPLATES.glob("*.j2"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", template.read_text())


def test_policy_allows_one_script_and_no_loading(tmp_path: Path) -> None:
    page = written(report_of(row()), tmp_path)
    policies = [a["content"] or "" for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    assert "default-src 'none'; img-src data:;" in policies[0]
    assert f"script-src '{script_hash(page.scripts[None])}';" in policies[0]


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    page = written(report_of(row(frame_files=[str(tmp_path / "1.png")])), tmp_path)
    for tag, attributes in page.tags:
        for name in ("src", "srcset", "href", "data", "poster", "action"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    assert not re.search(r"https?://|@import|url\(", page.text)


def test_equal_pictures_are_embedded_once(tmp_path: Path) -> None:
    first, second = picture(tmp_path / "a/1.png"), picture(tmp_path / "a/2.png", sun=0.7)
    again = shutil.copy(first, tmp_path / "again.png")
    page = written(
        report_of(row("a", frame_files=[first, second]), row("b", frame_files=[second, str(again)])), tmp_path
    )
    assert [item["frames"] for item in page.json("items")] == [[0, 1], [1, 0]]
    assert len(page.json("frames")) == 2


def test_damaged_frames_do_not_affect_others(tmp_path: Path) -> None:
    good, damaged = picture(tmp_path / "1.png"), tmp_path / "2.png"
    damaged.write_bytes(Path(good).read_bytes()[:300])
    page = written(
        report_of(row(frame_files=[str(tmp_path / "gone.png"), str(damaged), good, str(tmp_path)])), tmp_path
    )
    assert page.json("items")[0]["frames"] == [None, 0, 1, None]
    assert [frame is None for frame in page.json("frames")] == [True, False]


@pytest.mark.parametrize(
    ("size", "expected"), [((1280, 640), (360, 180)), ((640, 1280), (180, 360)), ((90, 60), (90, 60))]
)
def test_thumbnails_fit_the_width(size: tuple[int, int], expected: tuple[int, int], tmp_path: Path) -> None:
    (thumbnail,) = thumbnails([picture(tmp_path / "1.png", size=size)], 360)
    assert thumbnail
    with Image.open(io.BytesIO(base64.b64decode(thumbnail))) as image:
        assert (image.format, image.size) == ("WEBP", expected)


def test_thumbnails_shrink_with_their_number() -> None:
    widths = [thumbnail_width(n) for n in (0, 1, 1000, 2000, 5000, 10_000, 1_000_000)]
    assert widths == [1024, 1024, 360, 214, 107, 64, 64]


def test_same_report_has_the_same_bytes(tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{n}.png", sun=n / 9) for n in range(8)]
    what = report_of(row("a", frame_files=files), kept_row("b"))
    assert written(what, tmp_path / "x").text == written(what, tmp_path / "y").text


def test_quoted_prompt_is_not_repeated() -> None:
    quoted = page_item(row(original_prompt="a cat", upsampled_prompt="a cat, asleep"), [])
    assert (quoted["quoted"], quoted["after"]) == (True, ", asleep")
    rewritten = page_item(row(original_prompt="a cat", upsampled_prompt="A cat, asleep"), [])
    assert (rewritten["quoted"], rewritten["after"]) == (False, "A cat, asleep")
    assert page_item(row(original_prompt="", upsampled_prompt="A cat"), [])["quoted"] is False
    assert page_item(kept_row("b"), [])["after"] is None


def test_page_has_no_local_paths(tmp_path: Path) -> None:
    page = written(
        report_of(row(video_path="/home/someone/secret.mp4", frame_files=[picture(tmp_path / "1.png")])), tmp_path
    )
    assert "/home/someone" not in page.text
    assert str(tmp_path) not in page.text


def test_all_states_are_counted(tmp_path: Path) -> None:
    text = re.sub(r"<[^>]+>", "", written(report_of(row("a"), row("b"), kept_row("c")), tmp_path).text)
    assert "2upsampled" in text and "1kept" in text and "0failed" in text
    assert "All 3" in text


def test_command_has_its_own_box(tmp_path: Path) -> None:
    page = written(report_of(row()), tmp_path)
    assert page.text.count("python -m src.run upsample=safe_320") == 1
    assert re.search(r"<code[^>]*>python -m src\.run upsample=safe_320</code>", page.text)


def test_window_stands_with_its_reasons(tmp_path: Path) -> None:
    line = WindowLine("3.8 s", 68, "64 slots are full", "80 in flight")
    page = written(replace(report_of(row()), windows=((line,),)), tmp_path)
    assert "68: 64 slots are full" in page.text
    assert "Requests in flight" not in written(report_of(row()), tmp_path).text


def test_offline_run_is_labeled(tmp_path: Path) -> None:
    line = "not of the words of a language model"
    assert line in written(report_of(row(engine="offline")), tmp_path).text
    assert line not in written(report_of(row(engine="vllm")), tmp_path).text


def test_run_without_items_has_a_page(tmp_path: Path) -> None:
    page = written(report_of(), tmp_path)
    assert page.json("items") == [] and page.json("frames") == []


def test_half_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    page = written(report_of(row("a\ud800", original_prompt="b\udc00")), tmp_path)
    assert page.json("items")[0]["name"] == "a?"


def test_failed_page_leaves_the_previous_one(tmp_path: Path) -> None:
    before = written(report_of(row()), tmp_path).text
    with pytest.raises(ValueError, match="JSON compliant"):
        write_report(report_of(row("a"), row("b", seconds=float("nan"))), tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before


def test_missing_frames_have_no_number(tmp_path: Path) -> None:
    file = picture(tmp_path / "1.png")
    assert distinct_frames([file, "gone", file, "gone"]) == ({file: 0, "gone": None}, [file])


def luminance(color: str) -> float:
    parts = [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_contrast_reaches_level_aa(scheme: int) -> None:
    blocks = re.findall(r":root \{(.*?)\}", (TEMPLATES / "page.css.j2").read_text(), re.DOTALL)
    colors = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", blocks[scheme]))

    def contrast(one: str, other: str) -> float:
        high, low = sorted((luminance(colors[one]), luminance(colors[other])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for name in ("ink", "soft", "quiet", "accent", "upsampled", "kept", "failed"):
        assert contrast(name, "paper") >= 4.5, name
    for ground in ("wash", "new", "gone"):
        assert contrast("ink", ground) >= 4.5, ground
    assert contrast("soft", "wash") >= 4.5


def test_long_report_has_items_beside_it(tmp_path: Path) -> None:
    frame = picture(tmp_path / "hints" / "a b" / "1.png")
    rows = [row(f"n {n}", frame_files=[frame], flags=["cut off"] if n % 2 else []) for n in range(STANDALONE_ITEMS + 1)]
    page = written(report_of(*rows), tmp_path)
    assert len(page.json("items")) == STANDALONE_ITEMS + 1
    assert page.json("items")[3] == ["n 3", 0, [1], 509, 3.25, 22, safe_name("n 3")]
    assert page.scripts["frames"].split() == ["[", "]"] and len(page.text) < 200_000
    chunks = sorted((tmp_path / "report_data").iterdir())
    assert [file.name for file in chunks] == ["00000.js", "00001.js", "00002.js", "00003.js", "00004.js"]
    call, _, data = chunks[4].read_text().partition(",")
    assert call == "reportChunk(4" and json.loads(data.rstrip(");\n"))[0]["frames"] == ["hints/a%20b/1.png"]


def test_reasons_stand_above_the_items(tmp_path: Path) -> None:
    page = written(report_of(row(), failures=(("failed", HOSTILE, 1234),)), tmp_path)
    assert "1,234 failed" in page.text and "<img src=x" not in page.text


def test_clips_are_embedded_up_to_a_limit(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"x" * 1000)
    source = {**(row()["source"] or {}), "path": str(tmp_path / "clip.mp4")}
    rows = [row("a", source=source), row("b", source=source)]
    inside, outside = (written(report_of(*rows, embed_mb=mb), tmp_path / str(mb)) for mb in (0.001, 0.0009))
    assert [item["clip"] for item in inside.json("items")] == [0, 0]
    assert [base64.b64decode(content) for _, content in inside.json("clips")] == [b"x" * 1000]
    assert outside.json("clips") == [] and "output.embed_mb=1" in outside.text and "contains the clips" in inside.text
    assert str(tmp_path) not in inside.text  # where the clip is on this machine
