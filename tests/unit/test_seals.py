"""Seals: a file is trusted as it was written by this user, and no longer once a byte of it is another."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from src import seals
from src.choices import HostKind
from src.config import Config, HostConf
from src.errors import InputError
from src.planning.configure import plan_settings
from src.planning.trust import OF_A_PLAN, refuse_foreign
from tests.conftest import Configure


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "plan.json"
    made.write_text("{}")
    seals.seal(made)
    return made


def test_seal_holds_until_a_byte_changes(file: Path) -> None:
    assert seals.holds(file)
    file.write_text("[]")
    assert not seals.holds(file)


def test_file_is_never_without_its_seal(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the program is killed while it writes the file again."""
    steps = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: steps.append(seals.holds(file)) or replace(a, b))
    with seals.open_sealed(file) as f:
        f.write("[1]")
    assert steps == [True, True] and seals.holds(file) and file.read_text() == "[1]"


def test_seal_of_another_user_does_not_hold(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "another"))
    assert not seals.holds(file)


def test_key_that_others_may_read_is_no_key(file: Path, home: Path) -> None:
    key = home / ".config" / "prompt-upsampler" / "seal.key"
    assert key.stat().st_mode & 0o777 == 0o600
    key.chmod(0o644)
    assert not seals.holds(file)


def test_unsealable_file_stays_without_one(tmp_path: Path, home: Path) -> None:
    home.write_text("no folder")
    (tmp_path / "other.json").write_text("{}")
    seals.seal(tmp_path / "other.json")
    assert not seals.holds(tmp_path / "other.json")


def test_without_a_home_nothing_is_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.json").write_text("{}")

    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    seals.seal(tmp_path / "other.json")
    assert not seals.holds(tmp_path / "other.json")


def test_home_without_hard_links_keeps_one_key(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    made = tmp_path / "plan.json"
    made.write_text("{}")
    for _ in range(2):
        seals.seal(made)
        assert seals.holds(made)
    assert [path.name for path in (home / ".config" / "prompt-upsampler").iterdir()] == ["seal.key"]


@pytest.mark.parametrize(
    "named",
    [
        "worker.python=/tmp/x",
        "host.docker=[/tmp/x]",
        "engine.base_url=http://x/v1",
        "model.checkpoint=/tmp/x",
        "output.specs=in_place",
    ],
)
def test_foreign_plan_names_only_what_the_command_does(configure: Configure, file: Path, named: str) -> None:
    saved, same, other = plan_settings(configure(named)), configure(named), configure()
    refuse_foreign(file, saved, same, OF_A_PLAN)
    with pytest.raises(InputError, match=named.split("=")[0]):
        refuse_foreign(file, saved, other, OF_A_PLAN)


def test_foreign_fleet_must_be_the_command_lines(configure: Configure, file: Path) -> None:
    config = configure("host=fleet")
    config.fleet = [HostConf("gpu_a", HostKind.ssh, address="10.0.0.7"), HostConf("gpu_b", HostKind.ssh, address="b")]
    saved = plan_settings(config)
    refuse_foreign(file, saved, config, OF_A_PLAN)
    config.fleet[0].address = "10.0.0.8"
    with pytest.raises(InputError, match=r"host\.members=gpu_a,gpu_b"):
        refuse_foreign(file, saved, config, OF_A_PLAN)


def test_foreign_plan_of_defaults_is_accepted(configure: Configure, file: Path) -> None:
    config: Config = configure()
    refuse_foreign(file, plan_settings(config), config, OF_A_PLAN)
