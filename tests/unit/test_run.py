"""Configs that Hydra rejects: what the program prints about them. As a program: tests/e2e/test_command_line."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from src import run
from src.errors import ExitCode
from tests.conftest import composed


def rejected(override: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The message about an override that Hydra rejects."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of Hydra or OmegaConf
        OmegaConf.to_object(composed(override))
    assert run._refused(caught.value) is ExitCode.INPUT
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("budgt=4k", "did you mean budget?"),
        ("engine.item_delay=3", "did you mean engine.item_delay_s?"),
        ("frames.count=abc", "could not be converted to Integer"),
        ("review.all=maybe", "expected one of [accepted, rejected]"),
        ("output.exports=[csv]", "expected one of [parquet, dataset, openai, cosmos3, transfer2_5, txt, "),
        ("upsample=safe", "safe_320"),
        ("resolution=720", "must be a string or a list"),
        ("engine=null", "must be a string or a list"),
        ("gpu..box", "error: 'gpu..box' is neither FIELD=VALUE nor a flag\n"),
        ("prompts=${nosuch}", "error: prompts: Interpolation key 'nosuch' not found\n"),
    ],
)
def test_rejected_override_has_advice(override: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = rejected(override, capsys)
    assert message.startswith("error: ") and "\n  → " in message
    assert text in message


@pytest.mark.parametrize("override", ["nosuch=1", "frames.count=two", "task=nosuch"])
def test_advice_is_not_about_hydra(override: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = rejected(override, capsys)
    assert override.split("=")[0].split(".")[-1] in message
    assert "hydra.cc" not in message and "use +" not in message and "Traceback" not in message


def test_secret_of_a_short_command_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    run._written_out(["plan", "s3://me:swordfish@host/prompts.json"])
    run._written_out(["plan", "s3://host/prompts.json"])
    shown = capsys.readouterr().err
    assert "swordfish" not in shown and "s3://host/prompts.json" in shown
