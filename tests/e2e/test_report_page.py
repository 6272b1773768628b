"""The report page in Chromium: filters, keyboard, layout, and that it loads nothing and runs nothing of what it shows."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from src.reports.report import Report, page_item, write_report
from src.reports.reviews import Mark, read_verdicts
from src.timing.run_facts import Bar
from tests.harness.browser import Visit
from tests.harness.rows import HOSTILE, kept_row, picture, report_of, row

pytest_plugins = ("tests.harness.chromium",)
pytestmark = [pytest.mark.e2e, pytest.mark.browser]
Open = Callable[..., Visit]


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """A function that writes a report and opens it. The page must request only itself, and log nothing."""
    visits: list[Visit] = []

    def open_report(what: Report, *, width: int = 1280, dark: bool = False, fragment: str = "") -> Visit:
        write_report(what, tmp_path / "report.html")
        visits.append(Visit(browser, tmp_path / "report.html", width=width, dark=dark, fragment=fragment))
        return visits[-1]

    yield open_report
    for done in visits:
        done.close()


@pytest.fixture
def mixed(tmp_path: Path) -> Report:
    """Items of all states and shapes, with frames."""
    names = ("harbor", "lighthouse", "snowy_pass", "night_market", "old_mill")
    hues = dict(zip(names, (0.05, 0.93, 0.56, 0.7, 0.12), strict=True))
    tall = {"width_px": 180, "height_px": 320, "frames": 2, "times_s": [0.2, 0.7], "rule": "head", "fps": 2.0}
    rows = []
    for place, name in enumerate(names):
        size = (180, 320) if name == "snowy_pass" else (320, 180)
        files = [picture(tmp_path / name / f"{n}.png", hue=hues[name], sun=n / 4, size=size) for n in (1, 2)]
        changes: dict[str, Any] = {"hint": tall} if name == "snowy_pass" else {}
        prompt = f"{name.replace('_', ' ')} at dusk, {HOSTILE if name == 'night_market' else 'wide shot'}"
        rows.append(row(name, original_prompt=prompt, frame_files=files, seconds=float(place), **changes))
    far = "/a/folder/with/a/very/long/name/" + 9 * "that_has_no_break_" + ".mp4: there is no such file"
    plain = {"source": None, "hint": None, "seconds": None, "attempts": 0, "finish_reason": None}
    rows.append(kept_row("missing " + 6 * "clip_with_a_long_name_", reason=far, **plain))
    rows.append(kept_row("half_gone", frame_files=[str(tmp_path / "gone.png"), rows[0]["frame_files"][0]]))
    tokens = {**rows[0]["tokens"], "predicted": 4000, "image": 3980, "measured": None, "output": None}
    rows.append(
        kept_row("too_large", state="failed", reason="needs 4300 tokens", tokens=tokens, shrunk_from="1280x704")
    )
    return report_of(*rows)


def test_filter_search_and_order_work(visit: Open, mixed: Report) -> None:
    v = visit(mixed)
    assert v.count(".item") == 8 and v.page.inner_text("#matching") == "8 items"
    v.page.click("[data-state=kept]")
    assert v.count(".item") == 2 and v.page.inner_text("#matching") == "2 of 8 items"
    assert v.page.get_attribute("[data-state=kept]", "aria-pressed") == "true"
    assert v.page.get_attribute("[data-state=all]", "aria-pressed") == "false"
    v.page.focus("[data-state=all]")
    v.page.keyboard.press("Enter")
    v.page.keyboard.press("/")
    assert v.focused("id") == "search"
    v.page.keyboard.type("LIGHT dusk house")
    v.page.wait_for_function("() => document.querySelectorAll('.item').length === 1")
    assert v.page.text_content(".item h3") == "lighthouse"
    v.page.keyboard.type(" nowhere")
    v.page.wait_for_selector("#none:not([hidden])")
    v.page.click("#clear")
    assert v.count(".item") == 8
    v.page.select_option("#order", "seconds")
    assert v.page.text_content(".item:first-child h3") == "old_mill"
    assert "missing" in v.page.text_content(".item:last-child h3")  # its time is unknown
    v.page.select_option("#order", "tokens")
    assert v.page.text_content(".item h3") == "too_large"


def test_filters_are_combined(visit: Open) -> None:
    rows = [
        row("a", flags=["asked again", "cut off"]), row("b", flags=["asked again"]), row("c", flags=["text only"]),
        kept_row("d", flags=["asked again", "cut off"]), row("e"),
    ]  # fmt: skip
    v = visit(report_of(*rows))
    assert [v.page.locator(f"[data-flag='{flag}'] .count").text_content() for flag in ("asked again", "cut off")] == [
        "3", "2",
    ]  # fmt: skip
    assert v.count("[data-flag='smaller hint']") == 0  # no item has it
    v.page.click("[data-flag='asked again']")
    assert v.page.inner_text("#matching") == "3 of 5 items"
    v.page.click("[data-flag='cut off']")
    v.page.click("[data-state=upsampled]")
    assert v.page.locator(".item h3").all_text_contents() == ["a"]
    assert "asked again · cut off" in v.page.text_content(".item .badge")
    v.page.focus("[data-flag='cut off']")
    v.page.keyboard.press("Space")
    assert v.page.get_attribute("[data-flag='cut off']", "aria-pressed") == "false"
    assert v.page.inner_text("#matching") == "2 of 5 items"


def test_decisions_are_saved_as_a_file(visit: Open, tmp_path: Path) -> None:
    v = visit(report_of(row("a", id="1"), row("b", id="2"), row("c", id="1"), kept_row("d")))
    assert v.count(".judge") == 3 and not v.page.locator("#offer").is_visible()
    cards = v.page.locator(".item")
    cards.nth(0).get_by_role("button", name="Accept").click()
    cards.nth(1).get_by_role("button", name="Reject").click()
    cards.nth(1).get_by_role("button", name="Reject").click()  # taken back
    cards.nth(2).get_by_role("button", name="Edit").click()
    cards.nth(2).get_by_role("textbox").fill("Better, 雨.")
    with v.page.expect_download() as download:
        v.page.get_by_role("button", name="Save 2 verdicts").click()
    assert download.value.suggested_filename == "verdicts.json"
    download.value.save_as(tmp_path / "verdicts.json")
    found = [(mark.name, mark.id, mark.verdict, mark.text) for mark in read_verdicts(tmp_path / "verdicts.json", Mark)]
    assert found == [("a", "1", "accepted", None), ("c", "1", "edited", "Better, 雨.")]  # of twins each


def test_review_verdicts_are_filters(visit: Open) -> None:
    said = {"verdict": "rejected", "at": "2026-01-01", "answer": "A ship that is not there."}
    v = visit(
        report_of(
            row("a", review={**said, "verdict": "accepted", "answer": None}), kept_row("b", review=said), row("c")
        )
    )
    v.page.click("[data-flag=rejected]")
    v.page.wait_for_function("() => document.querySelectorAll('.item').length === 1")
    item = v.page.locator(".item").first
    item.locator(".texts").wait_for()
    assert item.locator("h3").text_content() == "b"
    assert "A ship that is not there." in (item.locator(".texts").text_content() or "")
    assert v.page.locator("[data-flag]").all_text_contents() == ["Accepted 1", "Rejected 1"]


def test_changed_words_are_marked(visit: Open) -> None:
    before, after = "A red car drives fast, at night.", "At dusk a dark red car drives slowly, at night. It rains."
    v = visit(report_of(row("x", original_prompt=before, upsampled_prompt=after)))
    assert v.page.text_content(".before") == before
    assert v.page.text_content(".after") == after
    assert v.texts(".after ins") == ["At dusk", "dark", "slowly,", ". It rains."]
    assert v.texts(".before del") == ["fast,"]
    assert v.page.text_content(".words") == "6 words kept, 1 dropped, 6 new"


def test_marks_can_be_toggled_by_keyboard(visit: Open, mixed: Report) -> None:
    v = visit(mixed)
    ground = "getComputedStyle(document.querySelector('#item-harbor ins')).backgroundColor"
    marked = v.page.evaluate(ground)
    v.page.focus("#differences")
    v.page.keyboard.press("Enter")
    assert v.page.get_attribute("#differences", "aria-pressed") == "false"
    assert v.page.evaluate(ground) == "rgba(0, 0, 0, 0)" != marked
    v.page.keyboard.press("Enter")
    assert v.page.evaluate(ground) == marked


def test_long_and_unspaced_texts_are_compared(visit: Open) -> None:
    long = " ".join(f"word{n}" for n in range(4000))
    v = visit(
        report_of(
            row("x", original_prompt="夜の港", upsampled_prompt="静かな夜の港と船"),
            row("y", original_prompt=f"start {long} end", upsampled_prompt=f"start {long[::-1]} end"),
        )
    )
    assert v.texts("#item-x ins") == ["静かな", "と船"]
    assert v.page.text_content("#item-y .words").startswith("2 words kept")


def test_timeline_is_drawn_to_scale(visit: Open) -> None:
    bars = (Bar("loading", "30 s · estimated 28 s", 0.0, 75.0), Bar("answers", "10 s", 75.0, 25.0))
    v = visit(report_of(row(), timelines=(("Time by phase", bars),)))
    assert v.page.locator(".timeline li").all_text_contents() == ["loading30 s · estimated 28 s", "answers10 s"]
    track, second = (
        v.page.evaluate(f"document.querySelector('{at}').getBoundingClientRect().toJSON()")
        for at in (".timeline .track", ".timeline li:nth-child(2) .track span")
    )
    assert second["left"] - track["left"] == pytest.approx(0.75 * track["width"], abs=1)
    assert second["width"] == pytest.approx(0.25 * track["width"], abs=1)


def test_frame_viewer_works_by_keyboard(visit: Open, mixed: Report) -> None:
    v = visit(mixed)
    v.page.focus("#item-harbor .frame")
    v.page.keyboard.press("Enter")
    assert v.page.evaluate("viewer.open") is True
    assert "frame 1 of 2 · 0.21 s" in v.page.inner_text("#caption")
    v.page.keyboard.press("ArrowRight")
    assert "frame 2 of 2 · 0.71 s" in v.page.inner_text("#caption")
    assert v.page.evaluate("large.decode().then(() => large.naturalWidth)") == 320
    v.page.keyboard.press("Escape")
    assert v.page.evaluate("viewer.open") is False
    assert v.focused("className") == "frame"


def test_command_is_copied_completely(visit: Open, mixed: Report) -> None:
    v = visit(mixed)
    v.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    v.page.click("text=Copy")
    v.page.wait_for_selector("text=Copied")
    assert v.page.evaluate("navigator.clipboard.readText()") == "python -m src.run upsample=safe_320"


def test_hostile_text_is_shown_and_does_nothing(visit: Open, mixed: Report) -> None:
    v = visit(mixed, fragment="#item-night_market")
    wanted = next(item for item in mixed.rows if item["name"] == "night_market")
    assert v.page.text_content("#item-night_market .after") == wanted["upsampled_prompt"]
    assert v.page.text_content("#item-night_market .quoted") == wanted["original_prompt"]
    assert v.page.evaluate("window.hacked") is None


def test_missing_picture_has_a_placeholder(visit: Open, mixed: Report) -> None:
    v = visit(mixed, fragment="#item-half_gone")
    assert v.count("#item-half_gone .missing") == 1 and v.count("#item-half_gone img") == 1


def test_token_bar_is_drawn_to_scale(visit: Open, mixed: Report) -> None:
    v = visit(mixed)
    assert "509 of 4,096 tokens · 300 reserved · measured 509 ✓" in v.page.inner_text("#item-harbor .account")
    widths = v.page.evaluate(
        "[...document.querySelectorAll('#item-harbor .bar > span')].map(s => parseFloat(s.style.width))"
    )
    assert widths == pytest.approx([100 * n / 4096 for n in (494, 15, 300)], abs=0.01)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1280, 1920])
def test_page_does_not_overflow_sideways(width: int, dark: bool, visit: Open, mixed: Report, tmp_path: Path) -> None:
    v = visit(mixed, width=width, dark=dark)
    v.page.evaluate("dispatchEvent(new Event('beforeprint'))")  # draws every card
    assert v.page.evaluate("document.documentElement.scrollWidth") <= width
    outside = "[...document.body.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    assert v.page.evaluate(f"{outside}.map(e => e.outerHTML.slice(0, 80))") == []
    folder = Path(os.environ.get("ARTIFACTS_DIR") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    v.page.screenshot(path=folder / f"report-{width}-{'dark' if dark else 'light'}.png", full_page=width < 500)


@pytest.mark.parametrize("count", [1000, 1200], ids=["alone", "with files beside it"])
def test_many_items_can_be_filtered(visit: Open, count: int) -> None:
    rows = [(kept_row if n % 10 == 0 else row)(f"item {n}") for n in range(count)]
    v = visit(report_of(*rows))
    v.page.wait_for_selector(".item h3")
    assert 0 < v.count(".item") < 50
    v.page.click("[data-state=kept]")
    assert v.page.inner_text("#matching") == f"{count // 10} of {count:,} items"
    v.page.fill("#search", "990")
    v.page.wait_for_function("() => document.querySelectorAll('.item').length === 1")
    v.page.wait_for_selector(".item h3")
    assert v.page.text_content(".item h3") == "item 990"
    v = visit(report_of(*rows), fragment=f"#item-{page_item(rows[801], [])['slug']}")
    v.page.wait_for_selector(".item.here")
    assert v.page.locator(".item.here h3").inner_text() == "item 801"
    assert 0 <= v.page.evaluate("document.querySelector('.item.here').getBoundingClientRect().top") < 200


def test_items_out_of_sight_leave_the_page(visit: Open) -> None:
    v = visit(report_of(*(row(f"item {n}") for n in range(900))))
    for part in (1, 2, 3):
        v.page.evaluate(f"scrollTo(0, document.body.scrollHeight * {part} / 3)")
        v.page.wait_for_timeout(300)
    assert v.count(".item") < 100 and v.count("#item-item_0") == 0


@pytest.mark.parametrize("view", ["grid", "table"])
def test_density_is_part_of_the_address(visit: Open, mixed: Report, view: str) -> None:
    v = visit(mixed)
    v.page.click(f"[data-view={view}]")
    v.page.fill("#search", '"dusk, wide"')
    v.page.wait_for_function("() => document.querySelectorAll('.item').length === 4")
    assert v.page.evaluate("CSS.highlights.get('found').size") >= 4
    v = visit(mixed, fragment=v.page.evaluate("location.hash"))
    assert v.count(f"#list.{view}") == 1 and v.count(".item") == 4
    v.page.click(".item h3 a")
    v.page.wait_for_selector("#list.list .item.here")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_what_is_shown_can_be_saved(visit: Open, tmp_path: Path, kind: str) -> None:
    v = visit(report_of(row("=1+1", original_prompt='a "boat"', upsampled_prompt="A boat,\nat dusk."), kept_row("b")))
    v.page.click("[data-state=upsampled]")
    with v.page.expect_download() as download:
        v.page.click(f"[data-save={kind}]")
    download.value.save_as(tmp_path / "items")
    with open(tmp_path / "items", encoding="utf-8-sig", newline="") as f:
        [line] = csv.DictReader(f) if kind == "csv" else map(json.loads, f)
    assert (line["name"], line["upsampled_prompt"]) == ("'=1+1" if kind == "csv" else "=1+1", "A boat,\nat dusk.")
    assert line["original_prompt"] == 'a "boat"'


@pytest.mark.parametrize("embed_mb", [0.0, 10.0], ids=["linked", "in the page"])
def test_clip_is_played_on_request(visit: Open, clips: Path, tmp_path: Path, embed_mb: float) -> None:
    clip = shutil.copy(clips / "wide.mp4", tmp_path / "a clip.mp4")
    source = {**(row()["source"] or {}), "path": str(clip)}
    linked = row("a", source=source, preprocessed_video="a clip.mp4", frame_files=[picture(tmp_path / "1.png")])
    v = visit(report_of(linked, embed_mb=embed_mb))
    v.page.click(".play")
    v.page.wait_for_function("() => document.querySelector('video').readyState >= 1")
    assert any(url.endswith("a%20clip.mp4") for url in v.requests) == (not embed_mb)
    v.requests = [url for url in v.requests if not url.endswith(".mp4")]


def test_reason_of_failures_is_a_filter(visit: Open) -> None:
    rows = [
        kept_row("a", reason='no "such" file'),
        kept_row("b", reason="too dark"),
        kept_row("c", reason="too dark"),
        row(),
    ]
    v = visit(report_of(*rows, failures=(("kept", "too dark", 2), ("kept", 'no "such" file', 1)), retry="again"))
    v.page.click("text=too dark")
    v.page.wait_for_function("() => document.querySelectorAll('.item').length === 2")
    v.page.click(".reasons >> text=such")
    v.page.wait_for_function("() => document.querySelectorAll('.item').length === 1")
    assert v.page.text_content(".item h3") == "a" and v.page.text_content(".reasons .command code") == "again"
