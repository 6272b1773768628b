"""From host settings to a host that runs commands."""

from __future__ import annotations

from ..planning.settings import HostSettings
from .host import Host, LocalHost, checked, expanded, unexpected_output


def connect(settings: HostSettings) -> Host:
    """The host that the settings name. Raises HostError, AuthError or LinkLost when it cannot be reached."""
    if settings.kind in ("local", "ray") or (settings.kind in ("slurm", "pool") and not settings.address):
        return LocalHost(settings.name, settings.command_timeout_s)
    from .ssh import SshHost

    return SshHost(settings)


def root_on(host: Host, settings: HostSettings) -> str:
    """host.root as an absolute path there; it need not exist yet."""
    home = checked(host.run(("sh", "-c", "cd && pwd")), host, "no home folder").decode("utf-8", "replace").strip()
    if not home.startswith("/") or "\n" in home:
        raise unexpected_output(host, home)
    return expanded(settings.root, home)
