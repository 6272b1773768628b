"""The page of two runs compared, in Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src.reports.report import write_comparison
from src.reports.reviews import read_verdicts
from src.reports.videos import Choice, check_choices, write_videos
from tests.harness.browser import Visit
from tests.harness.rows import HOSTILE, SIDES, compared_pairs, made_videos, two_runs

pytest_plugins = ("tests.harness.chromium",)
pytestmark = [pytest.mark.e2e, pytest.mark.browser]


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Visit]:
    write_comparison(SIDES, compared_pairs(), tmp_path / "compare.html")
    v = Visit(browser, tmp_path / "compare.html")
    yield v
    v.close()


def names(v: Visit) -> list[str]:
    """The items in the list, once all are drawn."""
    v.page.wait_for_function("() => ![...document.querySelectorAll('.item')].some((item) => !item.firstChild)")
    return list(v.page.locator(".item h3").all_text_contents())


def test_equal_frames_are_shown_once(browser: Any, tmp_path: Path) -> None:
    """Different ones are shown on both sides."""
    write_comparison(*two_runs(tmp_path), tmp_path / "compare.html")
    v = Visit(browser, tmp_path / "compare.html")
    assert names(v) == ["same", "own", "gone"]
    counts = [
        [v.page.locator(".item").nth(n).locator(where).count() for where in ("header img", ".side img", ".missing")]
        for n in range(3)
    ]
    assert counts == [[1, 0, 0], [0, 3, 0], [0, 0, 1]]
    loaded = (
        "() => [...document.querySelectorAll('.strip img')].every((image) => image.complete && image.naturalWidth > 0)"
    )
    v.page.wait_for_function(loaded)
    captions = v.page.locator(".item").nth(1).locator("figcaption").all_text_contents()
    assert captions == ["320×180 × 1", "910×512 × 2"]
    assert v.page.locator(".item").nth(1).locator("img").nth(2).get_attribute("alt") == "Frame 2 of 2, own, second run"
    v.close()


def test_filters_narrow_the_list(visit: Visit) -> None:
    v = visit
    assert names(v) == ["same", "other", "state", HOSTILE]
    assert v.page.text_content("h1") == "4 items, 3 differ"
    v.page.click("[data-kind=differ]")
    assert names(v) == ["other", "state", HOSTILE]
    assert v.page.inner_text("#matching") == "3 of 4 items"
    v.page.focus("[data-kind=states]")
    v.page.keyboard.press("Enter")
    assert names(v) == ["state"]
    v.page.keyboard.press("/")
    v.page.keyboard.type("nowhere")
    v.page.wait_for_selector("#none:not([hidden])")
    v.page.click("#clear")
    assert len(names(v)) == 4


def test_different_words_are_marked(visit: Visit) -> None:
    v = visit
    names(v)
    item = v.page.locator(".item").nth(1)
    assert [" ".join(t.split()) for t in item.locator("del").all_text_contents()] == ["boat."]
    assert [" ".join(t.split()) for t in item.locator("ins").all_text_contents()] == ["big", "ship."]
    assert item.locator(".words").text_content() == "2 words in both, 1 only in the first, 2 only in the second"
    assert v.page.locator(".item").nth(0).locator("ins, del").count() == 0
    assert "The original prompt was kept." in (v.page.locator(".item").nth(2).text_content() or "")
    assert v.page.evaluate("window.hacked") is None
    v.page.click("#differences")
    assert v.page.evaluate("getComputedStyle(document.querySelector('ins')).backgroundColor") == "rgba(0, 0, 0, 0)"


@pytest.mark.parametrize("width", [390, 1280])
def test_page_does_not_overflow_sideways(width: int, visit: Visit) -> None:
    visit.page.set_viewport_size({"width": width, "height": 900})
    names(visit)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width


def test_best_videos_are_saved_as_a_file(browser: Any, tmp_path: Path) -> None:
    runs = [made_videos(tmp_path / name, tmp_path / "clip.mp4", "a", "b") for name in ("one", "two")]
    write_videos(runs, tmp_path / "videos.html", {"b": 0})
    v = Visit(browser, tmp_path / "videos.html")
    words = [v.page.locator(".item").first.locator(f".prompt {mark}").all_text_contents() for mark in ("del", "ins")]
    assert words == [[", one"], [", two"]]
    v.page.locator(".item").first.get_by_role("button", name="Best video").nth(1).click()
    assert v.texts("[data-choice][aria-pressed=true]") == ["Best video"] * 2
    with v.page.expect_download() as download:
        v.page.get_by_role("button", name="Save 2 choices").click()
    download.value.save_as(tmp_path / "choices.json")
    assert check_choices(read_verdicts(tmp_path / "choices.json", Choice), runs) == {"a": 1, "b": 0}
    v.page.context.close()
