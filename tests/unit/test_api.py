"""The Python API beside the command line: the same runs, exceptions in place of messages, and silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import structlog

from src import api
from src.errors import InputError, SpecError, UpsamplerError
from src.run_folder import RunPaths
from tests.conftest import ROOT


@pytest.fixture
def here(tmp_path: Path, clips: Path, small: str, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder whose conf/ has an option of its own, and whose prompts are two."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "local").mkdir(parents=True)
    own = f"# @package _global_\ncache_dir: {cache_dir}\nmodel:\n  tokenizer: {small}\n"
    (tmp_path / "conf" / "local" / "mine.yaml").write_text(own)
    items = [{"name": name, "prompt": f"A boat, {name}.", "video_path": str(clips / "wide.mp4")} for name in "ab"]
    (tmp_path / "prompts.json").write_text(json.dumps(items))
    return tmp_path


MINE = ("local=mine", "prompts=prompts.json")


def test_plan_is_resumed_and_read(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    planned = api.plan(*MINE)
    assert (planned["items"], planned["fit"]) == (2, 2)
    folder = api.resume(planned["run"])
    assert folder == here / planned["run"]
    assert [(row["name"], row["state"]) for row in api.results(folder)] == [("a", "upsampled"), ("b", "upsampled")]
    assert list(api.results("latest")) == json.loads(RunPaths(folder).results.read_text())
    assert capfd.readouterr() == ("", "")
    assert structlog.get_config() == before


def test_run_is_shown_on_request(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = api.run(*MINE, "name=first", show=True)
    assert "2 upsampled" in capfd.readouterr().out
    assert api.resume("first") == folder


def test_several_hosts_are_planned(here: Path) -> None:
    planned = api.plan(*MINE, "host=[user@a,user@b]")
    members = json.loads(RunPaths(here / planned["run"]).plan.read_text())["settings"]["members"]
    assert [member["address"] for member in members] == ["user@a", "user@b"]


@pytest.mark.parametrize(
    ("override", "kind", "text"),
    [
        ("budgt=4k", InputError, "did you mean budget?"),
        ("engine=null", InputError, "must be a string or a list"),
        ("prompts=broken.json", SpecError, "broken.json"),
        ("image.env=[TOKEN=1]", InputError, "holds a secret"),
        ("notify.url=http://a:b@c", InputError, "holds a secret"),
        ("resume=nosuch", InputError, "there is no such folder"),
        ("--multirun", InputError, "only overrides are taken"),
    ],
)
def test_error_is_raised_and_leaves_nothing(
    override: str, kind: type[UpsamplerError], text: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "broken.json").write_text('[{"prompt": 3}]')
    with pytest.raises(kind, match=text.replace("?", r"\?")):
        api.run(*MINE, override)
    assert capfd.readouterr() == ("", "")
    assert not list(here.glob("outputs/2*/*"))


def test_secret_in_own_conf_is_refused(here: Path) -> None:
    (here / "conf" / "local" / "key.yaml").write_text("# @package _global_\nengine:\n  base_url: http://a:secret@b\n")
    with pytest.raises(InputError, match=r"engine\.base_url: holds a secret") as caught:
        api.run("prompts=prompts.json", "local=key")
    assert ":secret@" not in str(caught.value)
    assert not list(here.glob("outputs/2*/*"))


def test_results_of_no_run_are_refused(here: Path) -> None:
    with pytest.raises(InputError, match=r"has no results\.json"):
        api.results(ROOT / "src")
