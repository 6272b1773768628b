"""Two runs side by side: what is paired, what the table and the page say, and how the page behaves in Chromium."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src.errors import InputError
from src.planning.plan import Plan
from src.planning.plan_file import write_plan
from src.planning.resolve import resolve
from src.reports.compare import Finished, Pair, as_csv, facts, pairs_of, read_run
from src.reports.report import write_comparison
from src.run_folder import RunPaths
from tests.conftest import Configure
from tests.unit.reports.test_report import HOSTILE, Page, Visit, kept, picture, row


@pytest.fixture
def plan(tmp_path: Path, configure: Configure) -> Plan:
    (tmp_path / "prompts.json").write_text('[{"name": "a", "prompt": "A boat."}]')
    config = configure()
    config.prompts = str(tmp_path / "prompts.json")
    return resolve(config)


def run_of(plan: Plan, *rows: dict[str, Any], folder: str = "outputs/a") -> Finished:
    return Finished(folder, plan.settings, rows)


def test_items_are_paired_by_name_prompt_and_video(plan: Plan) -> None:
    first = run_of(plan, row("a"), row("b"), row("c"), row("d"))
    second = run_of(
        plan, row("d"), row("a"), row("b", original_prompt="another"), row("c", video_path="other.mp4"), folder="b"
    )
    assert [pair.first["name"] for pair in pairs_of(first, second)] == ["a", "d"]


def test_runs_that_share_no_item_are_refused(plan: Plan) -> None:
    with pytest.raises(InputError, match="share no item"):
        pairs_of(run_of(plan, row("a")), run_of(plan, row("b")))


def test_a_pair_differs_by_text_or_state_and_by_nothing_else() -> None:
    assert not Pair(row(), row(seconds=9.0, engine="other")).differs
    assert Pair(row(), row(upsampled_prompt="another")).differs
    assert Pair(row(), kept("harbour")).differs


def test_a_run_that_has_not_finished_is_refused_with_what_to_do(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no plan\.json"):
        read_run(str(tmp_path / "nowhere"))
    with open(tmp_path / "plan.json", "w") as f:
        write_plan(plan, f)
    with pytest.raises(InputError, match="has not finished") as e:
        read_run(str(tmp_path))
    assert f"resume={tmp_path}" in e.value.hint
    RunPaths(tmp_path).results.write_text("[{")
    with pytest.raises(InputError, match="cannot be read"):
        read_run(str(tmp_path))
    RunPaths(tmp_path).results.write_text(json.dumps([row()]))
    assert read_run(str(tmp_path)).rows == (row(),)


def test_facts_say_only_what_was_measured(plan: Plan) -> None:
    tokens = {**row()["tokens"], "measured": None, "output": None}
    said = facts(run_of(plan), [row(tokens=tokens, seconds=None), kept("b", tokens=tokens, seconds=None)])
    assert (said["upsampled"], said["kept"], said["failed"]) == ("1", "1", "0")
    assert said["prompt tokens, measured"] == said["answer tokens"] == said["seconds an answer"] == "–"
    assert said["prompt tokens, planned"] == "509 on average"


def test_the_table_has_a_line_a_pair() -> None:
    text = as_csv([Pair(row("a"), kept("a", seconds=None)), Pair(row("b, c"), row("b, c"))])
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [(line["name"], line["differs"]) for line in lines] == [("a", "yes"), ("b, c", "no")]
    assert (lines[0]["state_1"], lines[0]["state_2"], lines[0]["seconds_2"]) == ("upsampled", "kept", "")
    assert lines[0]["words_2"] == "0"


SIDES = ({"run": "outputs/a", "recipe": "safe_320"}, {"run": "outputs/b", "recipe": "best_fit"})


def pairs() -> list[Pair]:
    return [
        Pair(row("same"), row("same")),
        Pair(row("other", upsampled_prompt="A grey boat."), row("other", upsampled_prompt="A big grey ship.")),
        Pair(row("state"), kept("state")),
        Pair(row(HOSTILE, original_prompt=HOSTILE), row(HOSTILE, upsampled_prompt=HOSTILE)),
    ]


def test_hostile_text_ends_as_data_only(tmp_path: Path) -> None:
    write_comparison(({"run": HOSTILE, "recipe": HOSTILE},) * 2, pairs(), tmp_path / "compare.html")
    page = Page(tmp_path / "compare.html")
    assert [tag for tag, _ in page.tags if tag in ("script", "img")] == ["script"] * 4  # runs, items, frames, the code
    assert page.json("items")[3]["name"] == HOSTILE


def shown(size: str, *names: str) -> dict[str, Any]:
    """What a row says of the frames that the model saw."""
    return {"frames": [{"sha256": "ab", "bytes": 5, "size": size, "file": f"hints/{name}.png"} for name in names]}


@pytest.fixture
def two_runs(tmp_path: Path) -> tuple[tuple[dict[str, str], dict[str, str]], list[Pair]]:
    """Two folders with frames; an item that both saw alike, one that they did not, and one whose frame is gone."""
    for run, name, sun in (("a", "same", 0.5), ("b", "same", 0.5), ("a", "own", 0.2), ("b", "own", 0.8)):
        picture(tmp_path / run / "hints" / f"{name}.png", sun=sun)
    found = [
        Pair(row("same", **shown("320x180", "same")), row("same", **shown("320x180", "same"))),
        Pair(row("own", **shown("320x180", "own")), row("own", **shown("910x512", "own", "same"))),
        Pair(row("gone", **shown("320x180", "gone")), kept("gone")),
    ]
    return ({"run": str(tmp_path / "a"), "recipe": "x"}, {"run": str(tmp_path / "b"), "recipe": "y"}), found


def test_pictures_that_both_runs_have_are_embedded_once(
    two_runs: tuple[tuple[dict[str, str], dict[str, str]], list[Pair]], tmp_path: Path
) -> None:
    write_comparison(*two_runs, tmp_path / "compare.html")
    page = Page(tmp_path / "compare.html")
    sides = [[side["frames"] for side in item["sides"]] for item in page.json("items")]
    assert sides == [[[0], [0]], [[1], [2, 0]], [[None], []]]
    assert len(page.json("frames")) == 3
    assert str(tmp_path) not in json.dumps(page.json("items"))


@pytest.mark.browser
def test_frames_stand_once_where_both_runs_saw_the_same_and_else_on_their_sides(
    browser: Any,
    two_runs: tuple[tuple[dict[str, str], dict[str, str]], list[Pair]],
    tmp_path: Path,
) -> None:
    write_comparison(*two_runs, tmp_path / "compare.html")
    v = Visit(browser, tmp_path / "compare.html", 1280, False, "")
    assert names(v) == ["same", "own", "gone"]
    counts = [
        [v.page.locator(".item").nth(n).locator(where).count() for where in ("header img", ".side img", ".missing")]
        for n in range(3)
    ]
    assert counts == [[1, 0, 0], [0, 3, 0], [0, 0, 1]]
    loaded = "[...document.querySelectorAll('.strip img')].every((image) => image.complete && image.naturalWidth > 0)"
    v.page.wait_for_function(loaded)
    captions = v.page.locator(".item").nth(1).locator("figcaption").all_text_contents()
    assert captions == ["320×180 × 1", "910×512 × 2"]
    assert v.page.locator(".item").nth(1).locator("img").nth(2).get_attribute("alt") == "Frame 2 of 2, own, second run"
    assert len(v.requests) == 1 and v.messages == []
    v.page.context.close()


@pytest.fixture
def visited(browser: Any, tmp_path: Path) -> Iterator[Visit]:
    write_comparison(SIDES, pairs(), tmp_path / "compare.html")
    v = Visit(browser, tmp_path / "compare.html", 1280, False, "")
    yield v
    assert len(v.requests) == 1 and v.messages == []
    v.page.context.close()


def names(v: Visit) -> list[str]:
    v.page.wait_for_function("![...document.querySelectorAll('.item')].some((item) => !item.firstChild)")
    return list(v.page.locator(".item h3").all_text_contents())


@pytest.mark.browser
def test_only_those_that_differ_are_shown_on_a_click(visited: Visit) -> None:
    v = visited
    assert names(v) == ["same", "other", "state", HOSTILE]
    assert v.page.text_content("h1") == "4 items, 3 differ"
    v.page.click("[data-kind=differ]")
    assert names(v) == ["other", "state", HOSTILE]
    assert v.page.inner_text("#shown") == "3 of 4 items"
    v.page.focus("[data-kind=states]")
    v.page.keyboard.press("Enter")
    assert names(v) == ["state"]
    v.page.keyboard.press("/")
    v.page.keyboard.type("nowhere")
    v.page.wait_for_selector("#none:not([hidden])")
    v.page.click("#clear")
    assert len(names(v)) == 4


@pytest.mark.browser
def test_the_words_of_each_run_are_marked_against_the_other(visited: Visit) -> None:
    v = visited
    names(v)
    item = v.page.locator(".item").nth(1)
    assert [" ".join(t.split()) for t in item.locator("del").all_text_contents()] == ["boat."]
    assert [" ".join(t.split()) for t in item.locator("ins").all_text_contents()] == ["big", "ship."]
    assert item.locator(".words").text_content() == "2 words in both, 1 only in the first, 2 only in the second"
    assert v.page.locator(".item").nth(0).locator("ins, del").count() == 0
    assert "stands" in (v.page.locator(".item").nth(2).text_content() or "")
    assert v.page.evaluate("window.hacked") is None
    v.page.click("#differences")
    assert v.page.evaluate("getComputedStyle(document.querySelector('ins')).backgroundColor") == "rgba(0, 0, 0, 0)"


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out_sideways(width: int, visited: Visit) -> None:
    visited.page.set_viewport_size({"width": width, "height": 900})
    names(visited)
    assert visited.page.evaluate("document.documentElement.scrollWidth") <= width
