"""What task=doctor says of an endpoint: its address, its key, its models."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.errors import AuthError, HostError, InputError, UpsamplerError
from src.hosts.host import LocalHost
from src.tasks.endpoint_checks import endpoint_checks
from tests.conftest import Configure
from tests.harness.scripted_server import Response, ScriptedServer


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.close()


def checked(configure: Configure, *overrides: str) -> dict[str, str | UpsamplerError]:
    """What each check says, up to the first that fails."""
    config = configure("engine=endpoint", f"worker.python={sys.executable}", *overrides)
    found: dict[str, str | UpsamplerError] = {}
    for name, check in endpoint_checks(LocalHost(), config):
        try:
            found[name] = check()
        except UpsamplerError as e:
            found[name] = e
            break
    return found


def test_served_model_is_found(configure: Configure, server: ScriptedServer) -> None:
    found = checked(configure, f"engine.base_url={server.url}/", "model.name=pixtral")
    assert list(found.values()) == [f"{server.url}/ answers", "none is set, and none is needed", "pixtral is served"]


@pytest.mark.parametrize(
    ("models", "model", "expected"),
    [
        ((200, {}, b'{"data": [{"id": "other"}]}'), "pixtral", "the server serves other, not pixtral"),
        ((200, {}, b'{"data": []}'), "pixtral", "is not known"),
        ((404, {}, b""), "pixtral", "is not known"),
        ((401, {}, b""), "pixtral", "the server refuses requests without a key"),
        ((200, {}, b"<html>"), "pixtral", "cannot be reached from local: Expecting value"),
        ((200, {}, b'["odd"]'), "pixtral", "cannot be reached from local: "),
    ],
)
def test_other_answers_are_explained(
    configure: Configure, server: ScriptedServer, models: Response, model: str, expected: str
) -> None:
    server.models = models
    found = checked(configure, f"engine.base_url={server.url}", f"model.name={model}")
    assert expected in str(list(found.values())[-1])
    assert "Traceback" not in str(found)


def test_key_comes_from_its_file(configure: Configure, server: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    (tmp_path / "key").chmod(0o600)
    server.models = (200, {}, json.dumps({"data": [{"id": "pixtral"}]}).encode())
    given = (f"engine.base_url={server.url}", "model.name=pixtral")
    assert checked(configure, *given, f"engine.api_key_file={tmp_path}/key")["key"] == "is accepted"
    missing = checked(configure, *given, f"engine.api_key_file={tmp_path}/nowhere")["key"]
    assert isinstance(missing, AuthError) and "cannot be read: No such file" in missing.message
    (tmp_path / "key").chmod(0o644)
    loose = checked(configure, *given, f"engine.api_key_file={tmp_path}/key")["key"]
    assert isinstance(loose, AuthError) and "chmod 600" in loose.message


def test_missing_variable_is_named(configure: Configure, server: ScriptedServer) -> None:
    found = checked(configure, f"engine.base_url={server.url}", "engine.api_key_env=NOT_SET_HERE")
    assert isinstance(found["key"], AuthError) and "NOT_SET_HERE" in found["key"].message and "model" not in found


@pytest.mark.parametrize(
    ("overrides", "kind", "words"),
    [
        ((), InputError, "engine.base_url is not set"),
        (("engine.base_url=http://127.0.0.1:9/v1",), HostError, "http://127.0.0.1:9/v1 cannot be reached from local: "),
        (("engine.base_url=nonsense",), HostError, "unknown url type"),
        (("engine.base_url=http://x/v1", "worker.python=/nowhere"), HostError, "/nowhere cannot be run: "),
    ],
)
def test_wrong_address_is_a_sentence(
    configure: Configure, overrides: tuple[str, ...], kind: type[UpsamplerError], words: str
) -> None:
    found = checked(configure, *overrides)
    assert list(found) == ["address"] and isinstance(found["address"], kind)
    assert words in found["address"].message


def test_key_that_is_none_is_not_shown(configure: Configure, server: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-FIRST\nsk-SECOND\n")
    (tmp_path / "key").chmod(0o600)
    found = checked(configure, f"engine.base_url={server.url}", f"engine.api_key_file={tmp_path}/key")
    assert "holds no key" in str(found["key"]) and "sk-" not in str(found) and not server.keys


def test_key_goes_to_no_other_address(
    configure: Configure, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-abc")
    other = ScriptedServer()
    other.models, asked = (200, {}, b'{"data": [{"id": "pixtral"}]}'), list[object]()
    server.models = (307, {"Location": f"{other.url}/models"}, b"")
    monkeypatch.setattr(other, "models", property(lambda self: asked.append(1)))
    found = checked(configure, f"engine.base_url={server.url}", "engine.api_key_env=MY_KEY")
    other.close()
    assert "sends requests elsewhere (HTTP 307)" in str(found["address"])


def test_this_machine_is_asked_without_a_proxy(
    configure: Configure, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert checked(configure, f"engine.base_url={server.url}", "model.name=pixtral")["model"] == "pixtral is served"


def test_each_of_several_servers_is_asked(configure: Configure, server: ScriptedServer) -> None:
    urls = (f"engine.base_url={server.url}", "engine.more_urls=[http://127.0.0.1:9/v1]")
    found = checked(configure, *urls, "model.name=pixtral")
    assert "http://127.0.0.1:9/v1 cannot be reached" in str(found["address"])
