"""The entry of the worker: which job it runs, and what it refuses."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from src.worker.__main__ import main, prepare
from src.worker.engines import make_engine
from src.worker.infer import Runner
from src.worker.journal import write_json
from src.worker.lifecycle import Control, LoadFailed
from src.worker.protocol import InferJob
from src.worker.upsample import Worker
from tests.harness.fake_engine import exit_record, write_job
from tests.harness.records import ENGINE, JOB


def test_job_record_decides_the_kind(folder: Path) -> None:
    assert isinstance(prepare(folder, Control()), Worker)
    write_json(folder / "job.json", InferJob(1, ("torchrun",), "", {}, ({},), 2, 3, 5.0, 0.0))
    assert isinstance(prepare(folder, Control()), Runner)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"protocol": 2}', "protocol 2, this worker has 1"),
        ('{"protocol": "x"}', 'job.json: protocol: "x" is not a valid int'),
        ('{"protocol": 1, "kind": "upsample"}', "job.json: engine: missing"),
        ("{", "job.json: not JSON"),
    ],
)
def test_unusable_job_is_a_load_failure(folder: Path, text: str, reason: str) -> None:
    (folder / "job.json").write_text(text)
    assert main(["worker.pyz", str(folder)]) == 7
    assert reason in exit_record(folder)["reason"]


def test_missing_interpreter_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("src.worker.engines.offline", "src.worker.facts"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(LoadFailed, match="has no numpy, which engine=offline needs"):
        make_engine(JOB, folder)


def test_job_runs_to_its_end(folder: Path) -> None:
    write_job(folder, replace(JOB, engine=replace(ENGINE, name="offline"), linger_s=0.0))
    assert main(["worker.pyz", str(folder)]) == 0
    assert exit_record(folder)["state"] == "done"


@pytest.mark.parametrize("argv", [["worker.pyz"], ["worker.pyz", "a", "b"]])
def test_wrong_arguments_print_the_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert "JOB_FOLDER" in capsys.readouterr().err
