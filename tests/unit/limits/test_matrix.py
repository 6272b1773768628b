"""The matrix of a limits sweep: as CSV, JSON, picture and page."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from src.limits import matrix
from src.limits.points import marked
from tests.harness.pixtral import PIXTRAL
from tests.unit.limits.conftest import measured, point

FACTS = {
    "4096-x": {"engine": "vllm", "model": "m", "host": "local", "image": "", "max_model_len": "4096", "memory": ""}
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A matrix of one point that was predicted right, one that was predicted wrong, and one that was not measured."""
    wrong = replace(measured(False, 2465), reason="</script><b>refused</b>")
    right = point("320x180", measured=measured(True, 509))
    points = marked([right, point("640x480", measured=wrong), point("480x480")])
    folder = tmp_path_factory.mktemp("matrix")
    matrix.write(points, FACTS, folder, PIXTRAL)
    return folder


def test_tables_have_every_point(folder: Path) -> None:
    rows = list(csv.DictReader((folder / "matrix.csv").open()))
    data = json.loads((folder / "matrix.json").read_text())
    assert [row["size"] for row in rows] == [row["size"] for row in data["points"]] == ["320x180", "480x480", "640x480"]
    assert data["agreement"] == {"measured": 2, "exact": 1, "linear": 2, "points": 3}
    assert (folder / "matrix.png").read_bytes().startswith(b"\x89PNG")


def test_page_marks_wrong_predictions(folder: Path) -> None:
    page = (folder / "matrix.html").read_text()
    assert 'id="wrong"' in page and page.count('<td class="wrong') == 1


def test_page_stands_alone_and_escapes_text(folder: Path) -> None:
    page = (folder / "matrix.html").read_text()
    assert "<b>refused</b>" not in page and "&lt;b&gt;refused" in page
    assert "src=" not in page and "http" not in page.split("</style>")[1].split("<svg")[0]
