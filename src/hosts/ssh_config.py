"""The user's SSH configuration as ssh itself reads it: with Include, Match and everything else that decides what applies."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

from paramiko import SSHConfig

from .. import log
from ..errors import HostError

# Directives that count here, and those that would change where or how a connection goes and that do not.
_USED = ("hostname", "user", "port", "identityfile", "proxyjump", "proxycommand", "forwardagent", "userknownhostsfile")
_UNUSED = ("hostkeyalias", "certificatefile", "identityagent", "pkcs11provider", "localcommand", "remotecommand")
_MOST_HOPS = 8


def resolved(address: str, user: str, port: int, timeout_s: float = 120.0) -> SSHConfig | None:
    """What applies to this address and to the jump hosts before it, by `ssh -G`; None where there is no ssh to ask.

    Raises HostError for a configuration that ssh refuses.
    """
    blocks: dict[str, str] = {}
    todo = [(address, user, port)]
    while todo and len(blocks) < _MOST_HOPS:
        name, as_user, at_port = todo.pop()
        options = _asked(name, as_user, at_port, timeout_s)
        if options is None:
            return None
        blocks[name] = _block(name, options)
        for hop in ",".join(options.get("proxyjump", [])).split(","):
            host = hop.rpartition("@")[2].partition(":")[0]
            if host and host != "none" and host not in blocks:
                todo.append((host, "", 0))
    return SSHConfig.from_text("\n".join(blocks.values()))


def _asked(name: str, user: str, port: int, timeout_s: float) -> dict[str, list[str]] | None:
    """All directives for a name, in lower case."""
    own = Path("~/.ssh/config").expanduser()
    # ssh looks in the home of the account; where HOME says another one, its file is named.
    elsewhere = Path(pwd.getpwuid(os.getuid()).pw_dir) != Path.home()
    argv = ["ssh", "-G", *(("-F", str(own) if own.exists() else "none") if elsewhere else ())]
    argv += [*(("-l", user) if user else ()), *(("-p", str(port)) if port else ()), "--", name]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired:
        raise HostError(
            f"ssh -G, which reads ~/.ssh/config, did not end within {timeout_s:g} s (host.command_timeout_s)",
            hint="a Match exec there?",
        ) from None
    if done.returncode:
        raise HostError(
            f"the SSH configuration cannot be used: {done.stderr.strip()[-300:]}", hint=f"try: ssh -G {name}"
        )
    options: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        options.setdefault(key.lower(), []).append(value)
    return options


def _block(name: str, options: dict[str, list[str]]) -> str:
    """The directives that count, for this name alone. ssh prints its own defaults too, which are left out."""
    lines = [f"Host {name}"]
    for key in _USED:
        values = options.get(key, [])
        if key == "identityfile" and "~/.ssh/id_ed25519_sk" in values:
            continue
        if key == "userknownhostsfile" and all("/known_hosts2" in value for value in values):
            continue
        lines += [f"  {key} {value}" for value in values if value != "none"]
    if unused := [key for key in _UNUSED if options.get(key, ["none"]) != ["none"]]:
        log.get().warning("ssh_config_not_used", host=name, directives=" ".join(unused))
    return "\n".join(lines)
