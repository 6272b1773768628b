"""Logins over SSH as the user's own configuration has them: jump hosts, host keys, passwords; with a real sshd."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from src.errors import AuthError, HostError, LinkLost, UnknownHostKey
from src.hosts import transfer
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


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "form", ["Include {}\n", "Include {}\nHost other\n Port 1\n", "Match host box,gate\n Include {}\n"]
)
def test_included_configuration_counts(tmp_path: Path, gate_and_box: tuple[Sshd, Sshd], form: str) -> None:
    config = tmp_path / "home" / ".ssh" / "config"
    config.rename(config.with_name("lab"))
    config.write_text(form.format(config.with_name("lab")))
    (tmp_path / "known").write_text("".join(server.known_hosts_line for server in gate_and_box))
    with SshHost(settings(tmp_path)) as host:
        assert host.run(("echo", "there")).out == b"there\n"


@pytest.mark.usefixtures("home")
def test_configuration_that_ssh_refuses_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "home" / ".ssh" / "config").write_text("Host box\n NoSuchDirective yes\n")
    with pytest.raises(HostError, match=r"(?i)nosuchdirective"), SshHost(settings(tmp_path)) as host:
        host.run(("true",))


LOGINS = {
    "speaking": "echo '*** welcome ***'; echo careful >&2; bash -c \"$SSH_ORIGINAL_COMMAND\"; c=$?; echo bye; exit $c",
    "csh": 'exec tcsh -f -c "$SSH_ORIGINAL_COMMAND"',
    "fish": 'exec fish --no-config -c "$SSH_ORIGINAL_COMMAND"',
}


@pytest.mark.parametrize("login", LOGINS)
def test_any_login_shell_serves_a_job(tmp_path: Path, login: str) -> None:
    """Commands with awkward words and input, files there and back."""
    if login != "speaking" and not shutil.which({"csh": "tcsh"}.get(login, login)):
        pytest.skip(f"no {login} here")
    box = Sshd(tmp_path / "box", LOGINS[login])
    try:
        (tmp_path / "known").write_text(box.known_hosts_line)
        (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 5000)
        fields = {"address": "127.0.0.1", "port": box.port, "user": "root", "key_file": str(box.key)}
        with SshHost(settings(tmp_path, **fields)) as host:
            done = host.run(
                ("sh", "-c", 'printf "%s|" "$@"; cat; echo no >&2; exit 3', "sh", "a 'b'", "!c", "d\ne"), [b"fed"]
            )
            assert (done.code, done.out, done.err) == (3, b"a 'b'|!c|d\ne|fed", b"no\n")
            (tmp_path / "there").mkdir()
            transfer.send(host, {"x/a.bin": tmp_path / "a.bin"}, str(tmp_path / "there"), "key")
            transfer.fetch(host, str(tmp_path / "there"), {"x/a.bin": 1_280_000}, tmp_path / "back")
            assert (tmp_path / "back" / "x" / "a.bin").read_bytes() == (tmp_path / "a.bin").read_bytes()
    finally:
        box.kill()


@pytest.mark.usefixtures("home")
def test_login_without_a_key_is_refused(
    tmp_path: Path, gate_and_box: tuple[Sshd, Sshd], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = gate_and_box[0]
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / "home" / ".ssh" / "config").unlink()
    (tmp_path / "known").write_text(gate.known_hosts_line)
    keyless = settings(tmp_path, address="127.0.0.1", port=gate.port, user="root")
    with pytest.raises(AuthError, match="no key to try") as error, SshHost(keyless) as host:
        host.run(("true",))
    assert "host.key_file" in error.value.hint


def test_one_session_at_a_time_is_enough(tmp_path: Path) -> None:
    box = Sshd(tmp_path / "box", more="MaxSessions 1\n")
    try:
        (tmp_path / "known").write_text(box.known_hosts_line)
        fields = {"address": "127.0.0.1", "port": box.port, "user": "root", "key_file": str(box.key)}
        with SshHost(settings(tmp_path, **fields)) as host, ThreadPoolExecutor(4) as pool:
            said = pool.map(lambda n: host.run(("sh", "-c", f"sleep 0.2; echo {n}")).out, range(4))
            assert list(said) == [b"0\n", b"1\n", b"2\n", b"3\n"]
    finally:
        box.kill()


def test_account_without_a_shell_is_an_error(tmp_path: Path) -> None:
    box = Sshd(tmp_path / "box", "echo This account is not available; exit 1")
    try:
        (tmp_path / "known").write_text(box.known_hosts_line)
        fields = {"address": "127.0.0.1", "port": box.port, "user": "root", "key_file": str(box.key)}
        with SshHost(settings(tmp_path, **fields)) as host, pytest.raises(HostError, match="not available") as error:
            host.run(("true",))
        assert not isinstance(error.value, LinkLost)
    finally:
        box.kill()
