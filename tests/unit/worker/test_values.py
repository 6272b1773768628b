"""Values from outside: names stay in their folder, addresses hold no command, secrets do not show themselves."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import InputError
from src.planning.configure import host_settings, image_settings, plan_settings
from src.worker.protocol import InferItem, Item, Outcome, VideoOutcome
from src.worker.records import InvalidRecord, from_json
from src.worker.values import Secret, inside, secret_in, secret_named, secret_of
from tests.conftest import Configure

LEAVING = ("é" * 200, "/etc/passwd", "..", "a/../../b", "frames/", "a//b", "./a", "a\0b", "a\nb", "x" * 2000)
ITEM = {"id": "a", "step": 0, "prompt": "", "text": "", "system": "", "frames": [], "predicted": 1, "max_tokens": 1}
VIDEO = {"id": "a", "state": "done", "reason": "", "seconds": None, "attempts": 1}


@pytest.mark.parametrize("name", LEAVING)
def test_record_with_a_leaving_name_is_refused(name: str) -> None:
    for kind, data in (
        (VideoOutcome, VIDEO | {"file": name}),
        (Item, ITEM | {"seed": 1, "note": "", "frames": [name]}),
        (InferItem, {"id": name, "group": 0, "prompt": "", "video": "v.mp4", "controls": {}}),
        (Outcome, {"id": name, "state": "kept"}),
    ):
        with pytest.raises(InvalidRecord, match="file"):
            from_json(kind, data)


@given(st.text(max_size=30))
def test_joined_name_stays_in_its_folder(name: str) -> None:
    try:
        path = inside(Path("/data/jobs"), name)
    except ValueError:
        return
    assert Path("/data/jobs") in path.resolve().parents


@pytest.mark.parametrize("name", ["link", "sub/file"])
def test_link_does_not_lead_out(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "sub").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="through a link"):
        inside(folder, name)


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ('host.address="x;echo"', "host.address"), ("host.address=-oProxyCommand=x", "host.address"),
        ('host.address="a b"', "host.address"), ("host.address=gpu..box", "host.address"),
        ('host.address="box:"', "host.address"), ('host.user="$(id)"', "host.user"), ("host.docker=[-v]", "host.docker"),
        ("image.reference=--volume=/:/host", "image.reference"), ("image.user=--privileged", "image.user"),
        ("image.env=[HF_TOKEN=abc]", "image.env"), ("worker.python=-c", "python"),
        ("engine.base_url=http://u:p@h/v1", "engine.base_url"), ("engine.base_url=http://h/v1?api_key=x", "engine.base_url"),
        ("engine.base_url=http://h:port/v1", "engine.base_url"), ("engine.api_key_env=sk-planted", "engine.api_key_env"),
    ],
)  # fmt: skip
def test_config_value_that_is_a_command_is_refused(configure: Configure, override: str, field: str) -> None:
    config = configure(override)
    with pytest.raises(InputError, match=rf"- {field}") as error:
        host_settings(config.host), image_settings(config), plan_settings(config)
    assert not any(secret in str(error.value) for secret in ("u:p", "sk-planted", "abc"))


@pytest.mark.parametrize(
    "address", ["gpu-box", "10.0.0.7", "me@box", "box.example.org:2222", "fe80::1%eth0", "[::1]", "läufer"]
)
def test_address_of_a_machine_is_accepted(configure: Configure, address: str) -> None:
    assert host_settings(configure("host=ssh", f'host.address="{address}"').host).address == address


def test_secret_shows_itself_nowhere() -> None:
    secret = secret_of("sk-planted\n", "the key")
    assert secret.reveal() == "sk-planted"
    assert "sk-planted" not in f"{secret} {secret!r} {[secret]}"
    assert secret.masked("bad key sk-planted") == "bad key ***"
    assert Secret("").masked("as it is") == "as it is"
    with pytest.raises(TypeError):
        pickle.dumps(secret)


@pytest.mark.parametrize("text", ["", "  \n", "two\nlines", "a b", "schlüssel"])
def test_unusable_key_is_not_repeated(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", text)
    with pytest.raises(ValueError, match="MY_KEY") as error:
        secret_named("MY_KEY", "")
    assert not text.strip() or text not in str(error.value)


def test_key_file_is_read_only_when_private(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-planted\n")
    file.chmod(0o644)
    with pytest.raises(ValueError, match="read by others"):
        secret_in(file, "engine.api_key_file")
    file.chmod(0o600)
    assert secret_in(file, "engine.api_key_file").reveal() == "sk-planted"
    with pytest.raises(ValueError, match=r"nosuch.*No such file"):
        secret_named("", f"~nosuch/{tmp_path.name}")
