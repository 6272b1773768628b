"""Hosts over SSH, before a link: ciphers, passwords, names."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest

from src.errors import AuthError, HostError, LinkLost
from src.hosts.ssh import SshHost, _Transport
from src.interrupts import in_background
from src.planning.settings import HostSettings
from tests.harness.fake_host import HOST


def test_fast_ciphers_come_first() -> None:
    assert "gcm" in _Transport._preferred_ciphers[0]
    assert sorted(_Transport._preferred_ciphers) == sorted(paramiko.Transport._preferred_ciphers)


def settings(tmp_path: Path, **fields: object) -> HostSettings:
    return replace(HOST, known_hosts=str(tmp_path / "known"), patience_s=1.0, **fields)  # type: ignore[arg-type]


def test_missing_password_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_PASSWORD", raising=False)
    with pytest.raises(AuthError, match="MY_PASSWORD"), SshHost(settings(tmp_path, password_env="MY_PASSWORD")) as host:
        host.run(("true",))


def test_unknown_name_is_not_a_lost_link(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"no-such-host\.invalid.*the name is not known") as error:
        SshHost(settings(tmp_path, address="no-such-host.invalid")).run(("true",))
    assert not isinstance(error.value, LinkLost)


def test_name_that_was_known_is_a_lost_link(tmp_path: Path) -> None:
    host = SshHost(settings(tmp_path, address="no-such-host.invalid"))
    host._was_open = True
    with pytest.raises(LinkLost, match="not known at the moment"):
        host.run(("true",))


def test_silent_port_is_a_lost_link(tmp_path: Path) -> None:
    with pytest.raises(LinkLost, match="cannot be reached") as error:
        SshHost(settings(tmp_path, address="127.0.0.1", port=9)).run(("true",))
    assert "sshd" in error.value.hint


def test_silent_host_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = SshHost(settings(tmp_path, address="127.0.0.1", port=silent.getsockname()[1]))
        connecting = in_background(lambda: host.run(("true",)))
        held, _ = silent.accept()
        began = time.monotonic()
        host.close()
        assert time.monotonic() - began < 5 and not connecting.done()
        held.close()
