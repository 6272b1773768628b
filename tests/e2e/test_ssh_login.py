"""Logins over SSH as the user's own configuration has them: jump hosts, host keys, passwords; with a real sshd."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from src.errors import AuthError, UnknownHostKey
from src.hosts.ssh import SshHost
from src.planning.settings import HostSettings
from tests.harness.fake_host import HOST
from tests.harness.sshd import Sshd, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def gate_and_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sshd, Sshd]]:
    """Two machines; the configuration of `home` reaches `box` only through `gate`."""
    folder = tmp_path_factory.mktemp("machines")
    gate, box = Sshd(folder / "gate"), Sshd(folder / "box")
    yield gate, box
    gate.kill()
    box.kill()


@pytest.fixture
def home(tmp_path: Path, gate_and_box: tuple[Sshd, Sshd], monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder with this configuration, and no keys or agent of the machine that runs the tests."""
    gate, box = gate_and_box
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    config = tmp_path / "home" / ".ssh" / "config"
    config.parent.mkdir(parents=True)
    config.write_text(
        f"Host gate\n HostName 127.0.0.1\n Port {gate.port}\n User root\n IdentityFile {gate.key}\n"
        f"Host box\n HostName 127.0.0.1\n Port {box.port}\n User root\n IdentityFile {box.key}\n ProxyJump gate\n"
    )


def settings(tmp_path: Path, **fields: object) -> HostSettings:
    return replace(HOST, known_hosts=str(tmp_path / "known"), patience_s=1.0, **fields)  # type: ignore[arg-type]


@pytest.mark.usefixtures("home")
def test_jump_host_of_the_configuration_is_used(tmp_path: Path, gate_and_box: tuple[Sshd, Sshd]) -> None:
    (tmp_path / "known").write_text("".join(server.known_hosts_line for server in gate_and_box))
    with SshHost(settings(tmp_path)) as host:
        assert host.run(("echo", "a 'word' $(id)")).out == b"a 'word' $(id)\n"


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("unknown", [0, 1])
def test_key_of_every_hop_is_checked(tmp_path: Path, gate_and_box: tuple[Sshd, Sshd], unknown: int) -> None:
    (tmp_path / "known").write_text(gate_and_box[1 - unknown].known_hosts_line)
    with pytest.raises(UnknownHostKey) as e, SshHost(settings(tmp_path)) as host:
        host.run(("true",))
    assert e.value.entry.strip() == gate_and_box[unknown].known_hosts_line.strip()


@pytest.mark.usefixtures("home")
def test_refused_password_is_an_error_at_once(
    tmp_path: Path, gate_and_box: tuple[Sshd, Sshd], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = gate_and_box[0]
    (tmp_path / "known").write_text(gate.known_hosts_line)
    monkeypatch.setenv("MY_PASSWORD", "wr0ng")
    wrong = settings(tmp_path, address="127.0.0.1", port=gate.port, user="root", password_env="MY_PASSWORD")
    with pytest.raises(AuthError, match="login failed") as e, SshHost(wrong) as host:
        host.run(("true",))
    assert "wr0ng" not in str(e.value)
