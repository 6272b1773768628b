"""Host keys: which lines of known_hosts files count, and how a key is shown; jump hosts and passwords, with a real sshd."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from src.errors import AuthError, UnknownHostKey
from src.hosts.known_hosts import KnownHosts, fingerprint
from src.hosts.ssh import SshHost, _Transport
from src.planning.settings import HostSettings
from tests.harness import sshd
from tests.harness.sshd import Sshd

needs_sshd = pytest.mark.skipif(bool(sshd.missing()), reason=sshd.missing())


@pytest.fixture(scope="module")
def key() -> paramiko.PKey:
    return paramiko.RSAKey.generate(2048)


@pytest.fixture
def line(key: paramiko.PKey) -> str:
    return f"box.example {key.get_name()} {key.get_base64()}"


def known(tmp_path: Path, text: str) -> KnownHosts:
    file = tmp_path / "known_hosts"
    file.write_text(text)
    return KnownHosts.read([tmp_path / "is not there", file])


def test_plain_line_counts(tmp_path: Path, line: str, key: paramiko.PKey) -> None:
    client = paramiko.SSHClient()
    known(tmp_path, f"# a comment\n\n{line}\n").load_into(client)
    assert client.get_host_keys().check("box.example", key)


def test_hashed_names_count(tmp_path: Path, line: str, key: paramiko.PKey) -> None:
    hashed = paramiko.HostKeys.hash_host("box.example")
    client = paramiko.SSHClient()
    known(tmp_path, line.replace("box.example", hashed)).load_into(client)
    assert client.get_host_keys().check("box.example", key)
    assert not client.get_host_keys().check("other.example", key)


def test_lines_with_markers_and_broken_ones_do_not_hide_the_others(tmp_path: Path, line: str) -> None:
    found = known(tmp_path, f"@cert-authority *.example ssh-rsa AAAA\nbroken\nx ssh-rsa !!!\n{line}\n")
    assert [entry.hostnames for entry in found.entries] == [["box.example"]]


def test_revoked_key_is_no_known_key(tmp_path: Path, line: str, key: paramiko.PKey) -> None:
    found = known(tmp_path, f"@revoked {line}\n")
    assert found.entries == ()
    assert found.revoked == {key.asbytes()}


def test_fingerprint_is_the_one_of_ssh_keygen(tmp_path: Path, line: str, key: paramiko.PKey) -> None:
    public = tmp_path / "key.pub"
    public.write_text(line.split(" ", 1)[1] + "\n")
    try:
        said = subprocess.run(["ssh-keygen", "-lf", str(public)], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("no ssh-keygen here")
    assert fingerprint(key) in said.split()


def test_the_quickest_cipher_is_offered_first_and_none_is_lost() -> None:
    assert "gcm" in _Transport._preferred_ciphers[0]
    assert sorted(_Transport._preferred_ciphers) == sorted(paramiko.Transport._preferred_ciphers)


# ------------------------------------------------------------------------------------------------------- with a real sshd


@pytest.fixture
def gate_and_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Sshd, Sshd]]:
    """Two machines, of which ~/.ssh/config reaches `box` through `gate` only."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    gate, box = Sshd(tmp_path / "gate"), Sshd(tmp_path / "box")
    config = tmp_path / "home" / ".ssh" / "config"
    config.parent.mkdir(parents=True)
    config.write_text(
        f"Host gate\n HostName 127.0.0.1\n Port {gate.port}\n User root\n IdentityFile {gate.key}\n"
        f"Host box\n HostName 127.0.0.1\n Port {box.port}\n User root\n IdentityFile {box.key}\n ProxyJump gate\n"
    )
    yield gate, box
    gate.kill()
    box.kill()


def settings(tmp_path: Path, **own: object) -> HostSettings:
    known = {
        "name": "box", "kind": "ssh", "address": "box", "user": "", "port": 0, "key_file": "", "password_env": "",
        "known_hosts": str(tmp_path / "known"), "root": "~", "docker": (), "gpus": "", "patience_s": 1.0, "keep_job": False,
    }  # fmt: skip
    return HostSettings(**known | own)  # type: ignore[arg-type]


@needs_sshd
@pytest.mark.e2e
def test_a_jump_host_of_the_ssh_configuration_is_used(tmp_path: Path, gate_and_box: tuple[Sshd, Sshd]) -> None:
    (tmp_path / "known").write_text("".join(server.known_hosts_line for server in gate_and_box))
    with SshHost(settings(tmp_path)) as host:
        assert host.run(("echo", "a 'word' $(id)")).out == b"a 'word' $(id)\n"


@needs_sshd
@pytest.mark.e2e
@pytest.mark.parametrize("unknown", [0, 1])
def test_the_key_of_every_machine_on_the_way_is_checked(
    tmp_path: Path, gate_and_box: tuple[Sshd, Sshd], unknown: int
) -> None:
    (tmp_path / "known").write_text(gate_and_box[1 - unknown].known_hosts_line)
    with pytest.raises(UnknownHostKey) as e, SshHost(settings(tmp_path)) as host:
        host.run(("true",))
    assert e.value.entry.strip() == gate_and_box[unknown].known_hosts_line.strip()


@needs_sshd
@pytest.mark.e2e
def test_a_password_that_is_refused_is_said_at_once(
    tmp_path: Path, gate_and_box: tuple[Sshd, Sshd], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = gate_and_box[0]
    (tmp_path / "known").write_text(gate.known_hosts_line)
    monkeypatch.setenv("MY_PASSWORD", "wr0ng")
    own = settings(tmp_path, address="127.0.0.1", port=gate.port, user="root", password_env="MY_PASSWORD")
    with pytest.raises(AuthError, match="does not let us in") as e, SshHost(own) as host:
        host.run(("true",))
    assert "wr0ng" not in str(e.value)


def test_a_password_whose_variable_is_not_set_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_PASSWORD", raising=False)
    with pytest.raises(AuthError, match="MY_PASSWORD"), SshHost(settings(tmp_path, password_env="MY_PASSWORD")) as host:
        host.run(("true",))
