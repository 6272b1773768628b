"""The command line of the program: help, printed configs, and what is rejected before anything is written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from src import __version__
from src.config import Config
from tests.harness.program import ROOT, Ended, plan_of, program

pytestmark = pytest.mark.e2e
OPTIONS = sorted(
    (path.parent.name, path.stem)
    for path in (ROOT / "conf").glob("*/*.yaml")
    if path.parent.name not in ("hydra", "local")
)


def called(*arguments: str, cwd: Path) -> Ended:
    return program(*arguments, cwd=cwd, env={**os.environ, "COLUMNS": "80", "PYTHONWARNINGS": "error"})


@pytest.fixture(scope="module")
def help_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("help")
    end = called("--help", cwd=folder)
    assert (end.code, end.err) == (0, "")
    assert list(folder.iterdir()) == []
    return end.out.rstrip()


def test_help_names_every_option(help_text: str) -> None:
    for group, option in OPTIONS:
        assert re.search(rf"^{group}=.*?^  {re.escape(option)} ", help_text, re.MULTILINE | re.DOTALL), (group, option)
    assert "schema" not in help_text


def test_help_fits_80_columns(help_text: str) -> None:
    assert [line for line in help_text.splitlines() if len(line) > 80] == []


def test_version_is_printed(tmp_path: Path) -> None:
    assert called("--version", cwd=tmp_path).out == f"prompt upsampler {__version__}\n"


def test_cfg_job_prints_the_whole_config(tmp_path: Path) -> None:
    end = called("--cfg", "job", "upsample=best_fit", "budget=8k", cwd=tmp_path)
    assert (end.code, end.err) == (0, "")
    printed = OmegaConf.create(end.out)
    assert (printed.upsample.rule, printed.budget.max_model_len) == ("best_fit", 8192)
    assert set(Config.__dataclass_fields__) == set(printed)
    assert list(tmp_path.iterdir()) == []


def test_help_and_cfg_import_nothing_heavy() -> None:
    heavy = ["av", "mistral_common", "tiktoken", "numpy", "PIL", "rich", "jinja2", "structlog", "sqlite3", "asyncio"]
    code = f"import sys, src.run; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "override",
    [
        "task=nosuch",
        "frames.count=two",
        "nosuch=1",
        "prompts=a,b",
        "resolution=720",
        "engine=null",
        "resume=outputs/typo",
        "hydra.run.dir=/dev/null/x",
    ],
)
def test_rejected_config_is_2_and_leaves_nothing(tmp_path: Path, override: str) -> None:
    end = called(override, cwd=tmp_path)
    assert end.code == 2
    assert end.err.startswith("error: ") and "Traceback" not in end.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("override", ["+engine.nosuch=1", "+upsample.nosuch=1", "name=${nosuch.x}"])
def test_added_field_is_rejected_by_name(tmp_path: Path, override: str) -> None:
    (tmp_path / "prompts.json").write_text('[{"prompt": "x"}]')
    end = called("task=plan", "prompts=prompts.json", override, cwd=tmp_path)
    assert end.code == 2
    assert "nosuch" in end.err


@pytest.mark.parametrize("override", ["prompts=nowhere.json", "frames.count=9"])
def test_unusable_input_is_2_with_advice(tmp_path: Path, override: str) -> None:
    end = called("task=plan", override, cwd=tmp_path)
    assert end.code == 2
    assert end.err.startswith("error: ") and "Traceback" not in end.err
    assert override.split("=")[1] in end.err


def test_resuming_does_not_overwrite_the_plan(tmp_path: Path, small: str) -> None:
    (tmp_path / "prompts.json").write_text('[{"prompt": "x"}]')
    plan = [f"model.tokenizer={small}", "task=plan", "prompts=prompts.json"]
    assert called(*plan, "hydra.run.dir=first", cwd=tmp_path).code == 0
    before = plan_of(tmp_path / "first")
    called(*plan, "sampling.seed=5", "resume=first", cwd=tmp_path)
    assert plan_of(tmp_path / "first") == before
