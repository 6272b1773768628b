"""What a review page shows of runs, and verdicts that are on disk at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.errors import InputError
from src.reports.review_queue import ReviewQueue
from src.reports.reviews import ACCEPTED, EDITED, OPEN, REJECTED, read_marks
from tests.conftest import Configure
from tests.harness.reviewed import TEXTS, reviewed_run


@pytest.fixture
def queue(configure: Configure, clips: Path, tmp_path: Path) -> ReviewQueue:
    return ReviewQueue([reviewed_run(configure, clips, tmp_path / name) for name in ("a", "b")])


def test_filters_search_and_order_combine(queue: ReviewQueue) -> None:
    queue.decide([{"n": 0, "verdict": ACCEPTED}, {"n": 4, "verdict": REJECTED}])
    found = {show: queue.select(show, {}, "", "") for show in ("all", "undecided", "flagged", "kept", ACCEPTED)}
    assert found == {"all": [*range(6)], "undecided": [1, 3], "flagged": [0, 3], "kept": [2, 5], ACCEPTED: [0]}
    assert queue.select("all", {"run": queue.runs[1].label}, "", "") == [3, 4, 5]
    assert queue.select("undecided", {}, "RAIN take", "") == [1]
    assert queue.select("all", {"run": queue.runs[0].label}, "", "longest") == [1, 0, 2]


def test_points_of_a_sweep_are_filters(configure: Configure, clips: Path, tmp_path: Path) -> None:
    points = {"0": "seed=1 target=wan hydra.run.dir=x", "1": "seed=2 target=wan", "2": "seed=2"}
    for name, overrides in points.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "command.txt").write_text(f"python -m src.run sampling.{overrides}\n")
    queue = ReviewQueue([reviewed_run(configure, clips, tmp_path / name) for name in points])
    assert {name: values for name, values in queue.facets.items() if name != "run"} == {
        "target": ["wan", "cosmos_transfer1"], "sampling.seed": ["1", "2"],
    }  # fmt: skip
    assert queue.select("all", {"sampling.seed": "2", "target": "wan"}, "", "") == [3, 4, 5]


def test_row_has_texts_media_and_verdict(queue: ReviewQueue) -> None:
    queue.decide([{"n": 1, "verdict": EDITED, "text": "Better.", "note": "mine"}])
    [row] = queue.rows([1])
    assert (row["before"], row["after"], row["clips"]) == ("A boat, take 1.", TEXTS[1], ["clip"])
    assert (row["mark"]["text"], row["mark"]["note"]) == ("Better.", "mine")
    clip = queue.media(1, "clip")
    assert clip and clip.name == "wide.mp4" and queue.media(1, "hint") is None


def test_verdict_is_on_disk_at_once(queue: ReviewQueue, tmp_path: Path) -> None:
    queue.decide([{"n": 0, "verdict": REJECTED, "reason": "style"}, {"n": 3, "verdict": ACCEPTED}])
    assert read_marks(tmp_path / "a" / "review.jsonl")["take 0"].reason == "style"
    assert read_marks(tmp_path / "b" / "review.jsonl")["take 0"].verdict == ACCEPTED
    queue.decide([{"n": 0, "verdict": OPEN}])
    assert read_marks(tmp_path / "a" / "review.jsonl") == {}


def test_other_pages_learn_what_changed(queue: ReviewQueue) -> None:
    queue.decide([{"n": 0, "verdict": ACCEPTED}])
    known = queue.since(0)
    assert (known["at"], known["decided"], known["total"], [*known["marks"]]) == (1, 1, 4, [0])
    queue.decide([{"n": 0, "verdict": OPEN}, {"n": 1, "verdict": REJECTED}])
    news = queue.since(known["at"])
    assert news["marks"][0] is None and news["marks"][1]["verdict"] == REJECTED


@pytest.mark.parametrize(
    "wrong", [{"n": 2, "verdict": ACCEPTED}, {"n": 0, "verdict": "maybe"}, {"n": 0, "verdict": EDITED, "text": " "}]
)
def test_one_wrong_verdict_saves_none(queue: ReviewQueue, tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        queue.decide([{"n": 1, "verdict": ACCEPTED}, wrong])
    assert read_marks(tmp_path / "a" / "review.jsonl") == {}
