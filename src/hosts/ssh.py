"""A host over SSH. Home of fabric and paramiko: what they raise is turned into one of `errors` here.

Fabric follows the configuration that `ssh_config` resolves, keys and jump hosts. What it would do by itself is replaced
where it would hang, guess or trust: host keys are checked strictly (fabric accepts any), commands have deadlines, a dead
link is noticed.
"""

from __future__ import annotations

import logging
import math
import os
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paramiko
from fabric import Config, Connection
from paramiko.hostkeys import HostKeyEntry

from ..errors import AuthError, HostError, LinkLost, UnknownHostKey
from ..planning.settings import HostSettings
from ..text import PROGRAM
from .framing import LOGIN_COMMAND, Frame, Unframed
from .host import MOST_OUTPUT, PIECE, CommandResult, Limit, printed_too_much
from .known_hosts import KnownHosts, RefuseUnknownKeys, UnknownKey, check_key_file, fingerprint
from .ssh_config import resolved

PULSE_S = 4.0  # between questions whether the other side is still there
TICK_S = 1.0
CLOSE_S = 0.5  # that closing waits for a thread that is connecting
logging.getLogger("paramiko").addHandler(logging.NullHandler())  # what matters is reported by this module


class _Transport(paramiko.Transport):  # type: ignore[misc]
    """AES-GCM first: the processor does it, so it carries the most bytes a second."""

    _preferred_ciphers = tuple(
        sorted(paramiko.Transport._preferred_ciphers, key=lambda name: "gcm" not in name)  # stable: else as it was
    )


class _Watch:
    """When something last came from a command, or went to it."""

    def __init__(self, argv: Sequence[str], limit: Limit) -> None:
        self.argv, self.limit = argv, limit
        self.moved()

    def moved(self) -> None:
        self._at = time.monotonic()

    def is_late(self) -> bool:
        return time.monotonic() > self._at + self.limit.seconds


class SshHost:
    """One connection, opened when it is needed and again when it was lost; several threads may use it."""

    def __init__(self, settings: HostSettings) -> None:
        self.settings, self.name = settings, settings.name
        self._limit = Limit(settings.command_timeout_s)
        self._mutex = threading.Lock()
        self._connection: Connection | None = None
        self.until = math.inf
        self._was_open = False  # once: what fails later may pass

    # ------------------------------------------------------------------------------------------------ commands

    def run(self, argv: Sequence[str], feed: Iterable[bytes] = (), *, limit: Limit | None = None) -> CommandResult:
        frame = Frame(argv)
        channel = self._channel()
        watch = _Watch(argv, limit or self._limit)
        with channel:
            failed: list[Exception] = []
            feeder = threading.Thread(target=self._feed, args=(channel, frame.feed(feed), failed, watch), daemon=True)
            feeder.start()
            out = self._bounded(self._read(channel, channel.recv, watch), argv)
            err = self._bounded(self._read(channel, channel.recv_stderr, watch), argv)
            code = self._exit_code(channel, watch)
            feeder.join(TICK_S)
            if failed and code == 0:
                raise LinkLost(f"{self.name}: the transfer broke off: {failed[0]}") from failed[0]
            with self._told_apart():
                return CommandResult(*frame.reply(out, err, code))

    def stream(self, argv: Sequence[str]) -> Iterator[bytes]:
        frame = Frame(argv)
        channel = self._channel()
        watch = _Watch(argv, self._limit)
        with channel:
            self._feed(channel, frame.feed(()), [], watch)
            with self._told_apart():
                yield from frame.stream(self._read(channel, channel.recv, watch))
            err = self._bounded(self._read(channel, channel.recv_stderr, watch), argv)
            if code := self._exit_code(channel, watch):
                raise HostError(f"{self.name}: {argv[0]} ended with {code}: {CommandResult(code, b'', err).message}")

    @contextmanager
    def _told_apart(self) -> Iterator[None]:
        """A login shell that did not run the command is an error, and no lost link."""
        try:
            yield
        except Unframed as e:
            raise HostError(
                f"{self.name}: the login shell there runs no commands; it printed {str(e)[-300:]!r}",
                hint=f"try: ssh {self.settings.address} /bin/sh -c true",
            ) from None

    def _channel(self) -> paramiko.Channel:
        transport = self._transport()
        try:
            channel = self._session(transport)
            channel.settimeout(TICK_S)
            channel.exec_command(LOGIN_COMMAND)
        except (paramiko.SSHException, OSError, EOFError) as e:
            self._drop(transport)
            raise LinkLost(f"{self.name}: no command can be sent: {e or type(e).__name__}") from e
        return channel

    def _session(self, transport: paramiko.Transport) -> paramiko.Channel:
        """A new session; where the server allows no more of them (MaxSessions), once another command has ended."""
        deadline = time.monotonic() + self._limit.seconds
        while True:
            try:
                return transport.open_session(timeout=self.settings.link_timeout_s)
            except paramiko.SSHException as e:
                # Of two that are refused at a time, paramiko tells one what happened (its saved_exception is only one).
                if not (isinstance(e, paramiko.ChannelException) or "Unable to open channel" in str(e)):
                    raise
                if time.monotonic() > deadline:
                    hint = "raise MaxSessions in its sshd_config to 2 or more"
                    raise HostError(f"{self.name}: sshd there refuses another session: {e}", hint=hint) from e
                time.sleep(0.1)

    def _feed(self, channel: paramiko.Channel, feed: Iterable[bytes], failed: list[Exception], watch: _Watch) -> None:
        try:
            for piece in feed:
                view = memoryview(piece)
                while view:
                    try:
                        view = view[channel.send(view) :]
                        watch.moved()
                    except TimeoutError:
                        if channel.closed or not channel.get_transport().is_active():
                            raise
            channel.shutdown_write()
        except Exception as e:  # of the link, or of the files that are fed: the main thread tells
            failed.append(e)
            channel.close()

    def _read(self, channel: paramiko.Channel, recv: Callable[[int], bytes], watch: _Watch) -> Iterator[bytes]:
        while True:
            try:
                piece = recv(PIECE)
            except TimeoutError:
                self._still_there(channel, watch)
                continue
            except (paramiko.SSHException, OSError, EOFError) as e:
                raise LinkLost(f"{self.name}: the link broke: {e}") from e
            if not piece:
                return
            watch.moved()
            yield piece

    def _bounded(self, pieces: Iterator[bytes], argv: Sequence[str]) -> bytes:
        held, size = [], 0
        for piece in pieces:
            held.append(piece)
            if (size := size + len(piece)) > MOST_OUTPUT:
                raise printed_too_much(self.name, argv)
        return b"".join(held)

    def _exit_code(self, channel: paramiko.Channel, watch: _Watch) -> int:
        watch.moved()
        while not channel.status_event.wait(TICK_S):
            self._still_there(channel, watch)
        if channel.exit_status == -1:  # the link went before the code came: not known how it ended
            raise LinkLost(f"{self.name}: the link was lost while a command ran")
        return int(channel.exit_status)

    def _still_there(self, channel: paramiko.Channel, watch: _Watch) -> None:
        transport = channel.get_transport()
        if not transport.is_active():
            raise LinkLost(f"{self.name}: the link is dead")
        if watch.is_late():
            self._drop(transport)
            raise watch.limit.exceeded(self.name, watch.argv)

    # ------------------------------------------------------------------------------------------------ the connection

    def _transport(self) -> paramiko.Transport:
        with self._mutex:
            if self._connection is not None:
                transport = self._connection.client.get_transport()
                if transport is not None and transport.is_active():
                    return transport
                self._connection.close()
                self._connection = None
            connection = self._opened()
            self._connection, self._was_open = connection, True
            return connection.client.get_transport()

    def _drop(self, transport: paramiko.Transport) -> None:
        transport.close()

    def close(self) -> None:
        """Does not wait for a thread that is still connecting to a host that is silent."""
        if self._mutex.acquire(timeout=CLOSE_S):
            connection, self._connection = self._connection, None
            self._mutex.release()
            if connection is not None:
                connection.close()

    def _opened(self) -> Connection:
        connection = self._made()
        known = KnownHosts.read(self._key_files(connection))
        hops = [connection]
        while isinstance(hops[-1].gateway, Connection):
            hops.append(hops[-1].gateway)
        for hop in reversed(hops):  # the jump host first: its keys are checked as strictly
            known.load_into(hop.client)
            hop.client.set_missing_host_key_policy(RefuseUnknownKeys())
            hop.connect_kwargs.setdefault("transport_factory", _Transport)
            try:
                self._open(hop)
                known.refuse_revoked(hop.client.get_transport(), hop.host)
            except BaseException:
                connection.close()
                raise
            _watch(hop.client.get_transport(), self.settings.link_timeout_s)
        return connection

    def _made(self) -> Connection:
        s = self.settings
        left_s = min(s.link_timeout_s, max(1.0, self.until - time.monotonic()))
        secrets: dict[str, Any] = {}
        if s.password_env:
            password = os.environ.get(s.password_env)
            if password is None:
                raise AuthError(f"the environment variable {s.password_env} (host.password_env) is not set")
            secrets |= {"password": password, "look_for_keys": False, "allow_agent": False}
        if s.key_file:
            secrets["key_filename"] = os.path.expanduser(s.key_file)
            check_key_file(secrets["key_filename"], s.key_file)
        try:
            return Connection(
                s.address,
                user=s.user or None,
                port=s.port or None,
                config=Config(
                    overrides={"run": {"in_stream": False}},
                    ssh_config=resolved(s.address, s.user, s.port, s.command_timeout_s),
                ),
                connect_timeout=max(1, int(left_s)),
                connect_kwargs={"banner_timeout": left_s, "auth_timeout": left_s, **secrets},
            )
        except (paramiko.ConfigParseError, ValueError, OSError) as e:
            raise HostError(f"{self.name}: the SSH configuration cannot be used: {e}") from e

    def _open(self, hop: Connection) -> None:
        """Open one connection; fatal refusals are distinguished from a host that cannot be reached now."""
        s, where = self.settings, f"{self.name}: {hop.user}@{hop.host}:{hop.port}"
        trust = f"{PROGRAM} task=trust host={s.name}"
        if s.name == "ssh":  # not a host of the user's own: the address came from the command line
            trust += f" host.address={s.address}" + (f" host.port={s.port}" if s.port else "")
        try:
            hop.open()
        except UnknownKey as e:
            entry = HostKeyEntry([e.hostname], e.key).to_line() or ""
            raise UnknownHostKey(
                f"{where}: unknown host key: {e.key.get_name()} {fingerprint(e.key)}",
                hint=f"compare it with the machine's own key; then accept it with\n    {trust}",
                entry=entry,
            ) from None
        except paramiko.BadHostKeyException as e:
            raise AuthError(
                f"{where}: the machine's key has CHANGED: known is {fingerprint(e.expected_key)}, it shows "
                f"{fingerprint(e.key)}. Possible man-in-the-middle",
                hint=f"only if you know that the machine was reinstalled: ssh-keygen -R {shlex.quote(e.hostname)} "
                f"(and -f {self.settings.known_hosts}), then {trust}",
            ) from None
        except (paramiko.AuthenticationException, paramiko.PasswordRequiredException) as e:
            if self._was_open and not isinstance(e, paramiko.PasswordRequiredException) and _broke_off(hop, e):
                raise LinkLost(f"{where}: the link broke during the login") from e
            raise AuthError(
                f"{where}: login failed: {e}",
                hint="try `ssh` with the same name; set host.user, host.key_file or host.password_env",
            ) from e
        except paramiko.ssh_exception.IncompatiblePeer as e:
            raise AuthError(f"{where}: no common algorithms (a server that only knows ssh-rsa is refused): {e}") from e
        except socket.gaierror as e:
            if self._was_open:  # the name was known: it is the network that is gone
                raise LinkLost(f"{where}: the name is not known at the moment: {e.strerror}") from e
            raise HostError(
                f"{where}: the name is not known: {e.strerror}", hint="check host.address and ~/.ssh/config"
            ) from e
        except FileNotFoundError as e:
            raise AuthError(f"{where}: {e.filename}: there is no such key file") from e
        except (paramiko.SSHException, OSError, EOFError) as e:
            if "No authentication methods" in str(e):  # paramiko has no type of its own for it
                raise AuthError(f"{where}: login failed: there is no key to try", hint=_NO_KEY) from e
            raise LinkLost(
                f"{where}: cannot be reached: {e or type(e).__name__}", hint="is it up, and is sshd listening there?"
            ) from e

    def _key_files(self, connection: Connection) -> list[Path]:
        theirs = str(connection.ssh_config.get("userknownhostsfile", "~/.ssh/known_hosts")).split()
        return [Path(os.path.expanduser(f)) for f in (*theirs, "/etc/ssh/ssh_known_hosts", self.settings.known_hosts)]

    def __enter__(self) -> SshHost:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_NO_KEY = "set host.key_file or host.password_env, or start an agent with a key (ssh-add)"


def _broke_off(hop: Connection, error: Exception) -> bool:
    transport = hop.client.get_transport()
    return "EOF" in str(error) or transport is None or not transport.is_active()


def _watch(transport: paramiko.Transport, timeout_s: float) -> None:
    """Make a link without an answer or an acknowledged packet for so long show itself, and small packets leave at once."""
    threading.Thread(target=_pulse, args=(transport, timeout_s), daemon=True).start()
    transport.channel_timeout = timeout_s
    if isinstance(transport.sock, socket.socket):
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(timeout_s * 1000))


def _pulse(transport: paramiko.Transport, timeout_s: float) -> None:
    """Ask now and then for an answer, and close a link that gives none: a machine between may still acknowledge every
    packet, so that TCP sees nothing wrong. (paramiko's own keepalive asks for no answer.)"""
    while transport.is_active():
        time.sleep(PULSE_S)
        answered = threading.Event()
        threading.Thread(target=_ask, args=(transport, answered), daemon=True).start()
        if not answered.wait(timeout_s):
            transport.close()


def _ask(transport: paramiko.Transport, answered: threading.Event) -> None:
    try:
        transport.global_request("keepalive@openssh.com", wait=True)  # servers refuse it, which is an answer
    except Exception:  # the link is gone; paramiko raises for whoever reads from it
        return
    answered.set()
