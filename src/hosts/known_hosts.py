"""Host keys: known_hosts files, unknown keys, revoked keys, key files."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

from ..errors import AuthError


def fingerprint(key: paramiko.PKey) -> str:
    """As ssh-keygen shows it: SHA256:base64 without padding."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")


class UnknownKey(Exception):
    """A host key that has not been accepted yet."""

    def __init__(self, hostname: str, key: paramiko.PKey) -> None:
        super().__init__(hostname)
        self.hostname, self.key = hostname, key


class RefuseUnknownKeys(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        raise UnknownKey(hostname, key)


def check_key_file(path: str, field: str) -> None:
    """Refuse a key file that holds no key; paramiko would say so as if the machine could not be reached."""
    try:
        paramiko.PKey.from_path(path)
    except FileNotFoundError:
        raise AuthError(f"host.key_file={field}: there is no such file") from None
    except (paramiko.PasswordRequiredException, TypeError):
        raise AuthError(f"host.key_file={field}: the key has a passphrase", hint="add it to ssh-agent") from None
    except Exception as e:  # paramiko and cryptography raise many kinds
        raise AuthError(f"host.key_file={field}: not a valid private key ({e or type(e).__name__})") from e


@dataclass(frozen=True, slots=True)
class KnownHosts:
    """The host keys of known_hosts files. paramiko's own loader fails on lines that begin with a marker."""

    entries: tuple[HostKeyEntry, ...]
    revoked: frozenset[bytes]

    @staticmethod
    def read(files: Iterable[Path]) -> KnownHosts:
        """What files that are there say; lines without a key are skipped, as ssh does."""
        entries, revoked = [], set()
        for file in files:
            try:
                text = file.read_text(encoding="utf-8", errors="replace")
            except FileNotFoundError:
                continue
            for number, line in enumerate(text.splitlines(), start=1):
                marker, _, rest = line.partition(" ") if line.startswith("@") else ("", "", line)
                if marker == "@cert-authority" or not rest.strip() or rest.startswith("#"):
                    continue
                try:
                    entry = HostKeyEntry.from_line(rest, number)
                except (paramiko.SSHException, InvalidHostKey, ValueError):
                    continue
                if entry is not None and marker == "@revoked":
                    revoked.add(entry.key.asbytes())
                elif entry is not None:
                    entries.append(entry)
        return KnownHosts(tuple(entries), frozenset(revoked))

    def load_into(self, client: paramiko.SSHClient) -> None:
        keys = client.get_host_keys()
        keys.clear()
        for entry in self.entries:
            for name in entry.hostnames:
                keys.add(name, entry.key.get_name(), entry.key)

    def refuse_revoked(self, transport: paramiko.Transport, host: str) -> None:
        key = transport.get_remote_server_key()
        if key.asbytes() in self.revoked:
            raise AuthError(f"{host}: its key {fingerprint(key)} is marked @revoked in a known_hosts file")
