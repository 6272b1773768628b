"""`task=trust host=NAME`: print the unknown key of a host, ask, and add it to the known_hosts of host.known_hosts."""

from __future__ import annotations

from pathlib import Path

from ..errors import AuthError, ExitCode, InputError, UnknownHostKey
from ..files import write_atomic
from ..hosts.connect import connect
from ..planning.configure import machines_of
from ..planning.settings import HostSettings
from . import Invocation
from .confirm import agrees


def run(invocation: Invocation) -> ExitCode:
    """A changed key is never accepted here. With jump hosts, each is asked about in turn."""
    for settings in (machines := machines_of(invocation.config)):
        if settings.kind != "ssh" and len(machines) == 1:
            raise InputError(f"host={settings.name} is this machine: there is no key to accept")
        if settings.kind == "ssh" and (code := _trust(settings, invocation)):
            return code
    return ExitCode.OK


def _trust(settings: HostSettings, invocation: Invocation) -> ExitCode:
    out = invocation.out
    while True:
        host = connect(settings)
        try:
            host.run(("true",))
        except UnknownHostKey as e:
            out.print(e.message, markup=False, soft_wrap=True)
            if not agrees(invocation, "Is this the host's key?"):
                out.print("nothing was accepted")
                return ExitCode.AUTH
            file = Path(settings.known_hosts).expanduser()
            known = file.read_text().splitlines() if file.exists() else []
            write_atomic(file, "\n".join((*known, e.entry.rstrip("\n"), "")))
            out.print(f"accepted, in {file}", markup=False, soft_wrap=True)
            continue
        except AuthError as e:
            if "key has CHANGED" in e.message:
                raise
            out.print(f"the key is known; {e.message}", markup=False, soft_wrap=True)
            return ExitCode.OK
        finally:
            host.close()
        out.print(f"{settings.name}: the key is known, and login works")
        return ExitCode.OK
