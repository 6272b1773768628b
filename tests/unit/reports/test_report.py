"""The report page: what it holds, that nobody's text can act in it, and (marked browser) how it behaves in Chromium."""

from __future__ import annotations

import base64
import colorsys
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from src.reports.pages import script_hash
from src.reports.report import Report, distinct_frames, page_item, thumbnail_width, thumbnails, write_report
from src.timing.summary import Bar

HOSTILE = '</script><img src=x onerror="window.hacked=1"><!--<script>window.hacked=2</script> {{ 7*7 }} \u2028 \'"&amp;'
TEMPLATES = Path(__file__).parents[3] / "src" / "reports" / "templates"


def picture(path: Path, *, hue: float = 0.08, size: tuple[int, int] = (320, 180), sun: float = 0.5) -> str:
    """A drawn sunset as PNG; hue and sun (0 to 1, left to right) tell pictures apart."""
    width, height = size
    band = Image.new("RGB", (1, height))
    for line in range(height):
        share = line / height
        colour = colorsys.hsv_to_rgb((hue - 0.12 * (1 - share)) % 1, 0.35 + 0.4 * share, 0.95 - 0.55 * share)
        band.putpixel((0, line), tuple(round(255 * part) for part in colour))
    image = band.resize(size)
    x, y, r = sun * width, 0.55 * height, 0.14 * min(size)
    ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), fill="#fff3d6")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return str(path)


def row(name: str = "harbour", **changes: Any) -> dict[str, Any]:
    """A row of results.json as an upsampled item has it, with `changes`."""
    prompt = changes.get("original_prompt", "boats in a harbour at sunset")
    tokens = {"predicted": 509, "measured": 509, "output": 120, "image": 494, "text": 12}
    return {
        "id": "458e66b2d1bd9206",
        "name": name,
        "original_prompt": prompt,
        "upsampled_prompt": f"{prompt}. A slow tide lifts the hulls.\n\nThe last light lies low and golden on the water.",
        "video_path": "clips/harbour.mp4",
        "preprocessed_video": None,
        "state": "upsampled",
        "reason": "",
        "note": "",
        "attempts": 1,
        "engine": "vllm",
        "tokens": {**tokens, "output_reserved": 300, "linear_estimate": 1992},
        "finish_reason": "stop",
        "seconds": 3.25,
        "source": {"width_px": 3840, "height_px": 2160, "fps": 24, "frames": 72, "duration_s": 3.0, "codec": "h264"},
        "hint": {"width_px": 320, "height_px": 180, "frames": 2, "times_s": [0.208, 0.708], "rule": "head", "fps": 2.0},
        "shrunk_from": None,
        "flags": [],
        "frame_files": [],
        **changes,
    }


def kept(name: str, **changes: Any) -> dict[str, Any]:
    return row(name, **{"upsampled_prompt": None, "state": "kept", "reason": "there is no such file", **changes})


def report(*rows: dict[str, Any], **changes: Any) -> Report:
    facts = (("Recipe", "safe_320"), ("Engine", "vllm"), ("Command", "python -m src.run upsample=safe_320"))
    return replace(Report("safe_320 · vllm", facts, 4096, 300, rows), **changes)


class Page(HTMLParser):
    """The tags of a written page and the text inside its scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str | None, str] = {}
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":  # inside of one
            name = self.tags[-1][1].get("id")
            self.scripts[name] = self.scripts.get(name, "") + data

    def json(self, part: str) -> Any:
        return json.loads(self.scripts[part])


def written(what: Report, folder: Path) -> Page:
    write_report(what, folder / "report.html")
    return Page(folder / "report.html")


def test_hostile_text_ends_as_data_only(tmp_path: Path) -> None:
    harmless = written(report(row()), tmp_path / "a")
    hostile = row(HOSTILE, original_prompt=HOSTILE, reason=HOSTILE, note=HOSTILE, engine=HOSTILE)
    facts = ((HOSTILE, HOSTILE), ("Command", HOSTILE))
    page = written(report(hostile, title=HOSTILE, facts=facts), tmp_path / "b")
    assert [tag for tag, _ in page.tags if tag in ("script", "img")] == ["img", "script", "script", "script", "script"]
    assert len(page.tags) == len(harmless.tags) - 3  # one fact fewer: a div, a dt and a dd
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert page.json("items")[0]["name"] == HOSTILE
    assert page.json("items")[0]["before"] == HOSTILE


def test_the_script_never_makes_html_of_text() -> None:
    for template in TEMPLATES.glob("*.j2"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", template.read_text())


def test_the_policy_allows_the_one_script_and_no_loading(tmp_path: Path) -> None:
    page = written(report(row()), tmp_path)
    policies = [a["content"] or "" for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    assert "default-src 'none'; img-src data:;" in policies[0]
    assert f"script-src '{script_hash(page.scripts[None])}';" in policies[0]


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    page = written(report(row(frame_files=[str(tmp_path / "1.png")])), tmp_path)
    for tag, attributes in page.tags:
        for name in ("src", "srcset", "href", "data", "poster", "action"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    assert not re.search(r"https?://|@import|url\(", page.text)


def test_a_picture_in_many_files_and_items_is_embedded_once(tmp_path: Path) -> None:
    first, second = picture(tmp_path / "a/1.png"), picture(tmp_path / "a/2.png", sun=0.7)
    again = shutil.copy(first, tmp_path / "again.png")
    page = written(report(row("a", frame_files=[first, second]), row("b", frame_files=[second, str(again)])), tmp_path)
    assert [item["frames"] for item in page.json("items")] == [[0, 1], [1, 0]]
    assert len(page.json("frames")) == 2


def test_a_missing_or_damaged_frame_leaves_the_others(tmp_path: Path) -> None:
    good, damaged = picture(tmp_path / "1.png"), tmp_path / "2.png"
    damaged.write_bytes(Path(good).read_bytes()[:300])
    page = written(report(row(frame_files=[str(tmp_path / "gone.png"), str(damaged), good, str(tmp_path)])), tmp_path)
    assert page.json("items")[0]["frames"] == [None, 0, 1, None]
    assert [frame is None for frame in page.json("frames")] == [True, False]


@pytest.mark.parametrize(
    ("size", "expected"), [((1280, 640), (360, 180)), ((640, 1280), (180, 360)), ((90, 60), (90, 60))]
)
def test_thumbnails_are_webp_within_the_width_and_never_enlarged(
    size: tuple[int, int], expected: tuple[int, int], tmp_path: Path
) -> None:
    (thumbnail,) = thumbnails([picture(tmp_path / "1.png", size=size)], 360)
    assert thumbnail
    with Image.open(io.BytesIO(base64.b64decode(thumbnail))) as image:
        assert (image.format, image.size) == ("WEBP", expected)


def test_thumbnails_shrink_as_frames_become_many() -> None:
    widths = [thumbnail_width(n) for n in (0, 1, 1000, 2000, 5000, 10_000, 1_000_000)]
    assert widths == [360, 360, 360, 214, 107, 64, 64]


def test_the_same_report_is_the_same_bytes(tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{n}.png", sun=n / 9) for n in range(8)]
    what = report(row("a", frame_files=files), kept("b"))
    assert written(what, tmp_path / "x").text == written(what, tmp_path / "y").text


def test_only_what_was_added_is_kept_behind_a_quoted_prompt() -> None:
    quoted = page_item(row(original_prompt="a cat", upsampled_prompt="a cat, asleep"), [])
    assert (quoted["quoted"], quoted["after"]) == (True, ", asleep")
    rewritten = page_item(row(original_prompt="a cat", upsampled_prompt="A cat, asleep"), [])
    assert (rewritten["quoted"], rewritten["after"]) == (False, "A cat, asleep")
    assert page_item(row(original_prompt="", upsampled_prompt="A cat"), [])["quoted"] is False
    assert page_item(kept("b"), [])["after"] is None


def test_paths_of_the_machine_do_not_reach_the_page(tmp_path: Path) -> None:
    page = written(
        report(row(video_path="/home/someone/secret.mp4", frame_files=[picture(tmp_path / "1.png")])), tmp_path
    )
    assert "/home/someone" not in page.text
    assert str(tmp_path) not in page.text


def test_all_states_are_counted_also_those_with_no_item(tmp_path: Path) -> None:
    text = re.sub(r"<[^>]+>", "", written(report(row("a"), row("b"), kept("c")), tmp_path).text)
    assert "2upsampled" in text and "1kept" in text and "0failed" in text
    assert "All 3" in text


def test_the_command_stands_in_its_own_box(tmp_path: Path) -> None:
    page = written(report(row()), tmp_path)
    assert page.text.count("python -m src.run upsample=safe_320") == 1
    assert re.search(r"<code[^>]*>python -m src\.run upsample=safe_320</code>", page.text)


def test_only_an_offline_run_says_that_no_language_model_spoke(tmp_path: Path) -> None:
    line = "not the words of a language model"
    assert line in written(report(row(engine="offline")), tmp_path).text
    assert line not in written(report(row(engine="vllm")), tmp_path).text


def test_a_run_without_items_has_a_page(tmp_path: Path) -> None:
    page = written(report(), tmp_path)
    assert page.json("items") == [] and page.json("frames") == []


def test_a_lone_surrogate_does_not_stop_the_page(tmp_path: Path) -> None:
    page = written(report(row("a\ud800", original_prompt="b\udc00")), tmp_path)
    assert page.json("items")[0]["name"] == "a?"


def test_a_page_that_cannot_be_finished_leaves_the_one_before(tmp_path: Path) -> None:
    before = written(report(row()), tmp_path).text
    with pytest.raises(ValueError, match="JSON compliant"):
        write_report(report(row("a"), row("b", seconds=float("nan"))), tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before


def test_a_file_is_read_once_however_often_it_is_named(tmp_path: Path) -> None:
    file = picture(tmp_path / "1.png")
    assert distinct_frames([file, "gone", file, "gone"]) == ({file: 0, "gone": None}, [file])


def _luminance(colour: str) -> float:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_contrast_of_level_aa(scheme: int) -> None:
    blocks = re.findall(r":root \{(.*?)\}", (TEMPLATES / "page.css.j2").read_text(), re.DOTALL)
    colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", blocks[scheme]))

    def contrast(one: str, other: str) -> float:
        high, low = sorted((_luminance(colours[one]), _luminance(colours[other])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for name in ("ink", "soft", "quiet", "accent", "upsampled", "kept", "failed"):
        assert contrast(name, "paper") >= 4.5, name
    for ground in ("wash", "new", "gone"):
        assert contrast("ink", ground) >= 4.5, ground
    assert contrast("soft", "wash") >= 4.5


# ---- in Chromium -------------------------------------------------------------------------------------------------


class Visit:
    """A page opened in Chromium, and what it did that it should not: requests, and messages on the console."""

    def __init__(self, browser: Any, path: Path, width: int, dark: bool, fragment: str) -> None:
        view = {"width": width, "height": 844 if width < 500 else 900}
        scheme = "dark" if dark else "light"
        self.page = browser.new_context(viewport=view, color_scheme=scheme, reduced_motion="reduce").new_page()
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url[:80]))
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.goto(path.as_uri() + fragment)

    def count(self, selector: str) -> int:
        return int(self.page.locator(selector).count())

    def focused(self, what: str) -> Any:
        return self.page.evaluate(f"document.activeElement.{what}")


Open = Callable[..., Visit]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("there is no Chromium on this machine: apt-get install chromium")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        args = ["--no-sandbox", "--disable-gpu", *quiet]
        browser = playwright.chromium.launch(executable_path=chromium, args=args)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Write a report and open it; at the end nothing may have been requested but the page, or said on the console."""
    visits: list[Visit] = []

    def open_report(what: Report, *, width: int = 1280, dark: bool = False, fragment: str = "") -> Visit:
        write_report(what, tmp_path / "report.html")
        visits.append(Visit(browser, tmp_path / "report.html", width, dark, fragment))
        return visits[-1]

    yield open_report
    for done in visits:
        assert [url for url in done.requests if not url.startswith(("data:", "file:///"))] == []
        assert len([url for url in done.requests if url.startswith("file:")]) == 1
        assert done.messages == []
        done.page.context.close()


@pytest.fixture
def mixed(tmp_path: Path) -> Report:
    """Items of all states and shapes, with frames."""
    names = ("harbour", "lighthouse", "snowy_pass", "night_market", "old_mill")
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
    rows.append(kept("missing " + 6 * "clip_with_a_long_name_", reason=far, **plain))
    rows.append(kept("half_gone", frame_files=[str(tmp_path / "gone.png"), rows[0]["frame_files"][0]]))
    tokens = {**rows[0]["tokens"], "predicted": 4000, "image": 3980, "measured": None, "output": None}
    rows.append(kept("too_large", state="failed", reason="needs 4300 tokens", tokens=tokens, shrunk_from="1280x704"))
    return report(*rows)


@pytest.mark.browser
def test_filter_search_and_order_narrow_what_is_shown(visit: Open, mixed: Report) -> None:
    v = visit(mixed)
    assert v.count(".item") == 8 and v.page.inner_text("#shown") == "8 items"
    v.page.click("[data-state=kept]")
    assert v.count(".item") == 2 and v.page.inner_text("#shown") == "2 of 8 items"
    assert v.page.get_attribute("[data-state=kept]", "aria-pressed") == "true"
    assert v.page.get_attribute("[data-state=all]", "aria-pressed") == "false"
    v.page.focus("[data-state=all]")
    v.page.keyboard.press("Enter")
    v.page.keyboard.press("/")
    assert v.focused("id") == "search"
    v.page.keyboard.type("LIGHT dusk house")
    v.page.wait_for_function("document.querySelectorAll('.item').length === 1")
    assert v.page.text_content(".item h3") == "lighthouse"
    v.page.keyboard.type(" nowhere")
    v.page.wait_for_selector("#none:not([hidden])")
    v.page.click("#clear")
    assert v.count(".item") == 8
    v.page.select_option("#order", "seconds")
    assert v.page.text_content(".item:first-child h3") == "old_mill"
    assert "missing" in v.page.text_content(".item:last-child h3")  # took no time that is known
    v.page.select_option("#order", "tokens")
    assert v.page.text_content(".item h3") == "too_large"


@pytest.mark.browser
def test_filters_by_state_and_by_flags_hold_together(visit: Open) -> None:
    rows = [
        row("a", flags=["asked again", "cut off"]), row("b", flags=["asked again"]), row("c", flags=["text only"]),
        kept("d", flags=["asked again", "cut off"]), row("e"),
    ]  # fmt: skip
    v = visit(report(*rows))
    assert [v.page.locator(f"[data-flag='{flag}'] .count").text_content() for flag in ("asked again", "cut off")] == [
        "3", "2",
    ]  # fmt: skip
    assert v.count("[data-flag='smaller hint']") == 0  # there is none to show
    v.page.click("[data-flag='asked again']")
    assert v.page.inner_text("#shown") == "3 of 5 items"
    v.page.click("[data-flag='cut off']")
    v.page.click("[data-state=upsampled]")
    assert v.page.locator(".item h3").all_text_contents() == ["a"]
    assert "asked again · cut off" in v.page.text_content(".item .badge")
    v.page.focus("[data-flag='cut off']")
    v.page.keyboard.press("Space")
    assert v.page.get_attribute("[data-flag='cut off']", "aria-pressed") == "false"
    assert v.page.inner_text("#shown") == "2 of 5 items"


def _words(v: Visit, selector: str) -> list[str]:
    return [" ".join(text.split()) for text in v.page.locator(selector).all_text_contents()]


@pytest.mark.browser
def test_verdicts_of_a_person_are_filters_and_what_was_rejected_can_be_read(visit: Open) -> None:
    said = {"verdict": "rejected", "at": "2026-01-01", "answer": "A ship that is not there."}
    v = visit(
        report(row("a", review={**said, "verdict": "accepted", "answer": None}), kept("b", review=said), row("c"))
    )
    v.page.click("[data-flag=rejected]")
    v.page.wait_for_function("document.querySelectorAll('.item').length === 1")
    item = v.page.locator(".item").first
    item.locator(".texts").wait_for()
    assert item.locator("h3").text_content() == "b"
    assert "A ship that is not there." in (item.locator(".texts").text_content() or "")
    assert v.page.locator("[data-flag]").all_text_contents() == ["Accepted 1", "Rejected 1"]


@pytest.mark.browser
def test_words_that_are_new_or_gone_are_marked_and_the_texts_stay_whole(visit: Open) -> None:
    before, after = "A red car drives fast, at night.", "At dusk a dark red car drives slowly, at night. It rains."
    v = visit(report(row("x", original_prompt=before, upsampled_prompt=after)))
    assert v.page.text_content(".before") == before
    assert v.page.text_content(".after") == after
    assert _words(v, ".after ins") == ["At dusk", "dark", "slowly,", ". It rains."]
    assert _words(v, ".before del") == ["fast,"]
    assert v.page.text_content(".words") == "6 words kept, 1 dropped, 6 new"


@pytest.mark.browser
def test_marks_of_new_words_are_switched_off_and_on_again_by_keyboard(visit: Open, mixed: Report) -> None:
    v = visit(mixed)
    ground = "getComputedStyle(document.querySelector('#item-harbour ins')).backgroundColor"
    marked = v.page.evaluate(ground)
    v.page.focus("#differences")
    v.page.keyboard.press("Enter")
    assert v.page.get_attribute("#differences", "aria-pressed") == "false"
    assert v.page.evaluate(ground) == "rgba(0, 0, 0, 0)" != marked
    v.page.keyboard.press("Enter")
    assert v.page.evaluate(ground) == marked


@pytest.mark.browser
def test_words_of_scripts_without_spaces_and_very_long_texts_are_compared(visit: Open) -> None:
    long = " ".join(f"word{n}" for n in range(4000))
    v = visit(
        report(
            row("x", original_prompt="夜の港", upsampled_prompt="静かな夜の港と船"),
            row("y", original_prompt=f"start {long} end", upsampled_prompt=f"start {long[::-1]} end"),
        )
    )
    assert _words(v, "#item-x ins") == ["静かな", "と船"]
    assert v.page.text_content("#item-y .words").startswith("2 words kept")


@pytest.mark.browser
def test_the_line_of_time_is_drawn_to_scale(visit: Open) -> None:
    bars = (Bar("loading", "30 s · estimated 28 s", 0.0, 75.0), Bar("answers", "10 s", 75.0, 25.0))
    v = visit(report(row(), timelines=(bars,)))
    assert v.page.locator(".timeline li").all_text_contents() == ["loading30 s · estimated 28 s", "answers10 s"]
    track, second = (
        v.page.evaluate(f"document.querySelector('{at}').getBoundingClientRect().toJSON()")
        for at in (".timeline .track", ".timeline li:nth-child(2) .track span")
    )
    assert second["left"] - track["left"] == pytest.approx(0.75 * track["width"], abs=1)
    assert second["width"] == pytest.approx(0.25 * track["width"], abs=1)


@pytest.mark.browser
def test_a_frame_opens_large_and_closes_by_keyboard(visit: Open, mixed: Report) -> None:
    v = visit(mixed)
    v.page.focus("#item-harbour .frame")
    v.page.keyboard.press("Enter")
    assert v.page.evaluate("viewer.open") is True
    assert "frame 1 of 2 · 0.21 s" in v.page.inner_text("#caption")
    v.page.keyboard.press("ArrowRight")
    assert "frame 2 of 2 · 0.71 s" in v.page.inner_text("#caption")
    assert v.page.evaluate("large.decode().then(() => large.naturalWidth)") == 320
    v.page.keyboard.press("Escape")
    assert v.page.evaluate("viewer.open") is False
    assert v.focused("className") == "frame"


@pytest.mark.browser
def test_the_command_is_copied_whole(visit: Open, mixed: Report) -> None:
    v = visit(mixed)
    v.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    v.page.click("text=Copy")
    v.page.wait_for_selector("text=Copied")
    assert v.page.evaluate("navigator.clipboard.readText()") == "python -m src.run upsample=safe_320"


@pytest.mark.browser
def test_text_of_others_is_shown_as_it_is_and_does_nothing(visit: Open, mixed: Report) -> None:
    v = visit(mixed, fragment="#item-night_market")
    wanted = next(item for item in mixed.rows if item["name"] == "night_market")
    assert v.page.text_content("#item-night_market .after") == wanted["upsampled_prompt"]
    assert v.page.text_content("#item-night_market .quoted") == wanted["original_prompt"]
    assert v.page.evaluate("window.hacked") is None


@pytest.mark.browser
def test_a_frame_without_a_picture_has_a_placeholder(visit: Open, mixed: Report) -> None:
    v = visit(mixed, fragment="#item-half_gone")
    assert v.count("#item-half_gone .missing") == 1 and v.count("#item-half_gone img") == 1


@pytest.mark.browser
def test_the_account_is_drawn_to_scale(visit: Open, mixed: Report) -> None:
    v = visit(mixed)
    assert "509 of 4096 tokens · 300 reserved · measured 509 ✓" in v.page.inner_text("#item-harbour .account")
    widths = v.page.evaluate(
        "[...document.querySelectorAll('#item-harbour .bar > span')].map(s => parseFloat(s.style.width))"
    )
    assert widths == pytest.approx([100 * n / 4096 for n in (494, 15, 300)], abs=0.01)


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1280, 1920])
def test_nothing_sticks_out_sideways(width: int, dark: bool, visit: Open, mixed: Report, tmp_path: Path) -> None:
    v = visit(mixed, width=width, dark=dark)
    v.page.evaluate("dispatchEvent(new Event('beforeprint'))")  # draws every card
    v.page.add_style_tag(content=".item { content-visibility: visible !important }")
    assert v.page.evaluate("document.documentElement.scrollWidth") <= width
    outside = "[...document.body.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    assert v.page.evaluate(f"{outside}.map(e => e.outerHTML.slice(0, 80))") == []
    folder = Path(os.environ.get("ARTIFACTS_DIR") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    v.page.screenshot(path=folder / f"report-{width}-{'dark' if dark else 'light'}.png", full_page=width < 500)


@pytest.mark.browser
def test_five_thousand_items_can_be_filtered_and_linked_to(visit: Open, tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{n}.png", sun=n / 50) for n in range(50)]
    rows = [(kept if n % 10 == 0 else row)(f"item {n}", frame_files=[files[n % 50]]) for n in range(5000)]
    v = visit(report(*rows))
    assert v.count(".item") == 5000
    assert v.count(".item:not(:empty)") < 50
    v.page.click("[data-state=kept]")
    assert v.page.inner_text("#shown") == "500 of 5000 items"
    v.page.fill("#search", "4990")
    v.page.wait_for_function("document.querySelectorAll('.item').length === 1")
    v.page.wait_for_selector(".item h3")
    assert v.page.text_content(".item h3") == "item 4990"
    v = visit(report(*rows), fragment=f"#item-{page_item(rows[4001], [])['slug']}")
    assert v.page.locator(".item:target h3").inner_text() == "item 4001"
    assert 0 <= v.page.evaluate("document.querySelector('.item:target').getBoundingClientRect().top") < 200
