"""The review page in Chromium: verdicts by keys, undo, edit, two pages at once, and a server that is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.program import Program, journal_lines, program, results_of, start, wait_for, write_prompts

pytest_plugins = ("tests.harness.chromium",)
pytestmark = [pytest.mark.e2e, pytest.mark.browser]
ITEMS = 12


@pytest.fixture
def run(tmp_path: Path, clips: Path, common: tuple[str, ...]) -> Path:
    prompts = write_prompts(tmp_path / "prompts.json", clips / "wide.mp4", ITEMS)
    end = program(f"prompts={prompts}", f"hydra.run.dir={tmp_path / 'run'}", *common)
    assert end.code == 0, end.err
    return tmp_path / "run"


class Served:
    """A review that is served, and pages of it in a browser."""

    def __init__(self, browser: Any, run: Path) -> None:
        self._browser, self.run = browser, run
        self.serve()

    def serve(self) -> None:
        self.program: Program = start("task=review", f"run={self.run}", "review.terminal=false", fresh=True)
        wait_for(lambda: "review page" in self.program.out)
        self.address = next(word for word in self.program.out.split() if word.startswith("http"))

    def page(self) -> Any:
        page = self._browser.new_context(reduced_motion="reduce").new_page()
        self.messages: list[str] = []
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.goto(self.address)
        page.wait_for_selector("#item:not([hidden])")
        return page

    def marks(self) -> list[tuple[str, str]]:
        return [(mark["name"], mark["verdict"]) for mark in journal_lines(self.run / "review.jsonl")]


@pytest.fixture
def served(browser: Any, run: Path) -> Iterator[Served]:
    served = Served(browser, run)
    yield served
    if served.program.poll() is None:
        served.program.interrupt()
        served.program.ended()


def press(page: Any, key: str) -> None:
    """A key that leads to another item."""
    name = page.inner_text("#name")
    page.keyboard.press(key)
    page.wait_for_function(
        "name => document.getElementById('name').textContent !== name || document.getElementById('item').hidden",
        arg=name,
    )


def test_items_are_reviewed_by_keys_alone(served: Served) -> None:
    page = served.page()
    for key in ("a", "r", "3", "j", "a"):
        press(page, key)
    given = [("take 0", "accepted"), ("take 1", "rejected"), ("take 2", "rejected"), ("take 4", "accepted")]
    wait_for(lambda: served.marks() == given)
    press(page, "u")
    assert page.inner_text("#name") == "take 4" and page.inner_text("#verdict") == "undecided"
    page.keyboard.press("e")
    page.keyboard.press("Control+End")
    page.keyboard.type(" At dusk.")
    assert "dusk" in page.inner_text("#new ins >> nth=-1")
    press(page, "Control+Enter")
    page.keyboard.press("Shift+A")
    page.wait_for_selector("#none:not([hidden])")
    wait_for(lambda: page.inner_text("#done") == f"{ITEMS} of {ITEMS} decided")
    page.click("[data-do=finish]")
    page.wait_for_selector(".ended")
    end = served.program.ended()
    assert end.code == 0 and "9 accepted, 2 rejected, 1 edited" in end.out
    rows = {row["name"]: row for row in results_of(served.run)}
    assert rows["take 4"]["upsampled_prompt"].endswith(" At dusk.")
    assert rows["take 2"]["reason"] == "rejected in review: invented"
    assert served.messages == []


def test_killed_server_loses_no_verdict(served: Served) -> None:
    page = served.page()
    for _ in range(3):
        press(page, "a")
    # The page goes on before a verdict is saved, and before it knows that it is.
    wait_for(lambda: len(served.marks()) == 3 and page.inner_text("#done") == f"3 of {ITEMS} decided")
    os.kill(served.program.pid, signal.SIGKILL)
    page.keyboard.press("a")
    page.wait_for_selector("#problem:not([hidden])")
    assert page.inner_text("#name") == "take 3"  # it was not saved, so the page does not go on
    served.program.ended()
    served.serve()
    page = served.page()
    assert page.inner_text("#name") == "take 3"
    wait_for(lambda: page.inner_text("#done") == f"3 of {ITEMS} decided")


def test_two_pages_see_each_other(served: Served) -> None:
    one, other = served.page(), served.page()
    press(one, "r")
    press(one, "a")
    wait_for(lambda: other.inner_text("#verdict") == "rejected")
    press(other, "a")  # the last verdict counts, and the page goes on to what nobody has decided
    assert other.inner_text("#name") == "take 2"
    assert served.marks()[-1] == ("take 0", "accepted")


def test_search_and_filters_lead_to_items(served: Served) -> None:
    page = served.page()
    page.keyboard.press("/")
    page.keyboard.type("take 11")
    wait_for(lambda: page.inner_text("#name") == "take 11")
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    page.wait_for_selector("#none:not([hidden])")
    page.fill("#search", "")
    page.select_option("#show", "accepted")
    wait_for(lambda: page.inner_text("#place") == "1 of 1 shown")
    wait_for(lambda: page.evaluate("() => document.getElementById('clip').readyState") >= 1)  # the clip itself plays
    assert served.messages == []
