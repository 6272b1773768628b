"""Verdicts about texts: what they make of a row, and which ones a command line may give."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.errors import InputError
from src.overrides import with_inherited
from src.reports.reviews import ACCEPTED, EDITED, REJECTED, Mark, add_marks, marks_from, open_rows, read_marks, reviewed
from src.run_folder import RunPaths
from src.tasks.review import _answers, _reason_of_unfinished, edited
from tests.unit.reports.test_report import kept, row

ROWS = [row("a"), row("b"), kept("c"), row("d")]


def test_the_last_verdict_counts_and_a_torn_line_does_not(tmp_path: Path) -> None:
    file = tmp_path / "review.jsonl"
    add_marks(file, [Mark("a", ACCEPTED), Mark("b", REJECTED)])
    with open(file, "ab") as f:
        f.write(b'{"name": "b", "verd')
    add_marks(file, [Mark("a", EDITED, "läuft \u2028 雨")])
    assert read_marks(file) == {"a": Mark("a", EDITED, "läuft \u2028 雨"), "b": Mark("b", REJECTED)}
    assert read_marks(tmp_path / "nowhere") == {}


@pytest.mark.parametrize("line", ["nonsense", '{"name": "a"}', "[]"])
def test_a_line_that_is_no_verdict_is_an_error_that_names_the_file(tmp_path: Path, line: str) -> None:
    add_marks(tmp_path / "review.jsonl", [Mark("a", ACCEPTED)])
    with open(tmp_path / "review.jsonl", "a") as f:
        f.write(f"{line}\n")
    with pytest.raises(InputError, match=r"review\.jsonl: a line of it is no verdict"):
        read_marks(tmp_path / "review.jsonl")


def test_damaged_results_are_an_error_that_says_how_they_are_written_anew(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[{")
    with pytest.raises(InputError, match="cannot be read") as caught:
        _reason_of_unfinished(RunPaths(tmp_path), {})
    assert f"resume={tmp_path}" in caught.value.hint


def test_an_edited_text_stands_in_place_of_the_engines_which_is_kept_beside_it() -> None:
    found = reviewed(row("a"), Mark("a", EDITED, "Better.", "now"))
    assert (found["state"], found["upsampled_prompt"]) == ("upsampled", "Better.")
    assert found["review"] == {"verdict": "edited", "at": "now", "answer": row("a")["upsampled_prompt"]}


def test_a_rejected_item_falls_back_to_its_prompt_and_says_why() -> None:
    found = reviewed(row("a"), Mark("a", REJECTED))
    assert (found["state"], found["reason"], found["upsampled_prompt"]) == ("kept", "rejected in review", None)
    assert found["review"]["answer"] == row("a")["upsampled_prompt"]
    assert reviewed(row("a", original_prompt=" "), Mark("a", REJECTED))["state"] == "failed"


def test_an_accepted_text_and_one_without_a_verdict_stay_as_they_are() -> None:
    assert reviewed(row("a"), Mark("a", ACCEPTED, at="now")) == row("a") | {
        "review": {"verdict": "accepted", "at": "now"}
    }
    assert reviewed(row("a"), None) == row("a") | {"review": None}
    assert reviewed(kept("a"), Mark("a", EDITED, "x"))["upsampled_prompt"] is None


def given(**changes: object) -> list[Mark]:
    asked = {"accept": [], "reject": [], "edit": {}, "rest": None, "at": "now"} | changes
    return marks_from(ROWS, {"d": Mark("d", REJECTED)}, **asked)  # type: ignore[arg-type]


def test_the_rest_is_what_has_a_text_and_no_verdict() -> None:
    assert given(edit={"a": "Better."}, rest=ACCEPTED) == [
        Mark("a", EDITED, "Better.", "now"),
        Mark("b", ACCEPTED, at="now"),
    ]
    assert [r["name"] for r in open_rows(ROWS, {"b"})] == ["a", "d"]


def test_all_wrong_names_are_said_at_once() -> None:
    with pytest.raises(InputError) as e:
        given(accept=["a", "x"], reject=["c", "a"], edit={"b": " "})
    for words in ("x: there is no such item", "c: was kept", "a: has two verdicts", "b: the edited text is empty"):
        assert words in e.value.message


class Talk:
    """A console that nobody looks at, and a person who says these words one after another."""

    def __init__(self, *words: str) -> None:
        self.words = list(words)
        self.out = self

    def rule(self, *_: object, **__: object) -> None: ...
    def print(self, *_: object, **__: object) -> None: ...

    def __call__(self, _question: str) -> str:
        if not self.words:
            raise EOFError
        return self.words.pop(0)


def test_a_person_is_asked_about_each_until_they_have_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDITOR", raising=False)
    monkeypatch.delenv("VISUAL", raising=False)
    rows = [row(name) for name in "abcdef"]
    talk = Talk("yes", "n", "what?", "e", "Better.", "s", "e", "", "y", "q", "y")
    marks = [(m.name, m.verdict, m.text) for m in _answers(rows, RunPaths(Path("run")), talk, talk)]  # type: ignore[arg-type]
    assert marks == [("a", ACCEPTED, None), ("b", REJECTED, None), ("c", EDITED, "Better."), ("e", ACCEPTED, None)]


def test_the_end_of_input_ends_the_review() -> None:
    talk = Talk("y")
    assert len(list(_answers([row("a"), row("b")], RunPaths(Path("run")), talk, talk))) == 1  # type: ignore[arg-type]


def test_a_text_is_edited_in_the_persons_own_editor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUAL", "sed -i s/boat/ship/")
    assert edited("a boat\n\nat dusk, ünï", Talk()) == "a ship\n\nat dusk, ünï"
    monkeypatch.setenv("VISUAL", "/nowhere/editor")
    assert edited("a boat", Talk()) == "a boat"


def test_a_rerun_inherits_how_the_run_was_made_and_not_what_it_was_about(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text(
        "- prompts=mine.json\n- engine=vllm\n- sampling.seed=1\n- +task=upsample\n- 'template.user=\"{{ prompt }}, please\"'\n"
    )
    asked = ["task=review", f"run='{tmp_path}'", "review.rerun=true", "sampling.seed=7"]
    assert with_inherited(asked) == [*asked, "engine=vllm", 'template.user="{{ prompt }}, please"']
    assert with_inherited(asked[:2]) == asked[:2]
    assert with_inherited(["task=review", "run=nowhere", "review.rerun=true"])[-1] == "review.rerun=true"
