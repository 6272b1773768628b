"""known_hosts files: which lines count, how a key is shown, which key files are refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import paramiko
import pytest

from src.errors import AuthError
from src.hosts.known_hosts import KnownHosts, check_key_file, fingerprint


@pytest.fixture(scope="module")
def key() -> paramiko.PKey:
    return paramiko.RSAKey.generate(1024)


@pytest.fixture
def line(key: paramiko.PKey) -> str:
    return f"box.example {key.get_name()} {key.get_base64()}"


def known(tmp_path: Path, text: str) -> KnownHosts:
    file = tmp_path / "known_hosts"
    file.write_text(text)
    return KnownHosts.read([tmp_path / "missing", file])


def test_plain_line_is_a_known_key(tmp_path: Path, line: str, key: paramiko.PKey) -> None:
    client = paramiko.SSHClient()
    known(tmp_path, f"# a comment\n\n{line}\n").load_into(client)
    assert client.get_host_keys().check("box.example", key)


def test_hashed_name_is_a_known_key(tmp_path: Path, line: str, key: paramiko.PKey) -> None:
    hashed = paramiko.HostKeys.hash_host("box.example")
    client = paramiko.SSHClient()
    known(tmp_path, line.replace("box.example", hashed)).load_into(client)
    assert client.get_host_keys().check("box.example", key)
    assert not client.get_host_keys().check("other.example", key)


def test_unusable_lines_do_not_hide_others(tmp_path: Path, line: str) -> None:
    found = known(tmp_path, f"@cert-authority *.example ssh-rsa AAAA\nbroken\nx ssh-rsa !!!\n{line}\n")
    assert [entry.hostnames for entry in found.entries] == [["box.example"]]


def test_revoked_key_is_not_known(tmp_path: Path, line: str, key: paramiko.PKey) -> None:
    found = known(tmp_path, f"@revoked {line}\n")
    assert found.entries == ()
    assert found.revoked == {key.asbytes()}


def test_fingerprint_equals_that_of_ssh_keygen(tmp_path: Path, line: str, key: paramiko.PKey) -> None:
    public = tmp_path / "key.pub"
    public.write_text(line.split(" ", 1)[1] + "\n")
    try:
        shown = subprocess.run(["ssh-keygen", "-lf", str(public)], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("no ssh-keygen here")
    assert fingerprint(key) in shown.split()


class FakeTransport:
    """A connection that shows a key."""

    def __init__(self, key: paramiko.PKey) -> None:
        self.key = key

    def get_remote_server_key(self) -> paramiko.PKey:
        return self.key


def test_revoked_key_is_refused(tmp_path: Path, line: str, key: paramiko.PKey) -> None:
    transport = FakeTransport(key)
    known(tmp_path, line).refuse_revoked(transport, "box")  # type: ignore[arg-type]
    with pytest.raises(AuthError, match=r"box: its key SHA256:.* is marked @revoked"):
        known(tmp_path, f"@revoked {line}\n").refuse_revoked(transport, "box")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        ("no key at all\n", "not a valid private key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "not a valid private key"),
    ],
    ids=["missing", "text", "cut off"],
)
def test_unusable_key_file_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "my key"
    if content is not None:
        file.write_text(content)
    with pytest.raises(AuthError, match=rf"host\.key_file=~/my key: {message}"):
        check_key_file(str(file), "~/my key")


def test_key_with_a_passphrase_is_explained(tmp_path: Path, key: paramiko.PKey) -> None:
    key.write_private_key_file(str(tmp_path / "key"), password="secret")  # type: ignore[attr-defined]
    with pytest.raises(AuthError, match="has a passphrase") as error:
        check_key_file(str(tmp_path / "key"), "key")
    assert "ssh-agent" in error.value.hint


def test_usable_key_file_is_accepted(tmp_path: Path, key: paramiko.PKey) -> None:
    key.write_private_key_file(str(tmp_path / "key"))  # type: ignore[attr-defined]
    check_key_file(str(tmp_path / "key"), "key")
