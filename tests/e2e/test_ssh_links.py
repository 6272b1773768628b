"""Links that break or go dead in each part of a run over SSH."""

from __future__ import annotations

import threading

from src.errors import LinkLost
from src.hosts.ssh import SshHost
from src.planning.configure import host_settings
from tests.conftest import Configure
from tests.harness.program import wait_for
from tests.harness.proxy import Proxy
from tests.harness.remote import Remote, RemoteRun


def break_link(remote: Remote, proxy: Proxy, run: RemoteRun) -> None:
    """Take the host off the network, with every session and everything on its way, until the program notices."""
    remote.sshd.kill()
    proxy.cut()
    wait_for(lambda: run.logged("link_lost"))
    remote.sshd.start()


def test_link_breaks_while_files_are_sent(remote: Remote) -> None:
    proxy = remote.proxied(delay_s=0.1)  # so that sending takes long enough to be hit
    run = RemoteRun(remote, offline=True)
    process = run.start()
    wait_for(lambda: any(remote.root.glob("**/.incoming-*")), step_s=0.002)
    break_link(remote, proxy, run)
    run.assert_whole(process.ended())
    assert not list(remote.root.glob("**/.incoming-*"))


def test_worker_finishes_while_link_is_broken(remote: Remote) -> None:
    run = RemoteRun(remote)
    process = run.after_answers(3)
    remote.sshd.kill()
    remote.server.allow()
    wait_for(lambda: len(remote.answered()) == 6)  # without a controller
    wait_for(lambda: len(run.logged("link_lost")) > 1)
    remote.sshd.start()
    end = process.ended()
    run.assert_whole(end)
    assert "The link to " in end.err
    assert run.loads() == 1


def test_dead_link_is_noticed(remote: Remote, configure: Configure) -> None:
    """Between two polls of a run, and while a command runs on another connection."""
    proxy = remote.proxied()
    raised: list[BaseException] = []

    def command() -> None:
        try:
            host = SshHost(host_settings(configure(*remote.host).host))
            host.run(("sh", "-c", 'touch "$1"; sleep 60', "sh", str(remote.folder / "began")))
        except BaseException as e:
            raised.append(e)

    thread = threading.Thread(target=command, daemon=True)
    thread.start()
    run = RemoteRun(remote)
    process = run.after_answers(3)
    wait_for((remote.folder / "began").exists)
    wait_for(lambda: proxy.idle_s > 0.2)  # between two polls
    proxy.freeze()
    wait_for(lambda: run.logged("link_lost"), seconds=20)
    thread.join(20)
    assert [type(e) for e in raised] == [LinkLost]
    remote.server.allow()
    proxy.thaw()
    run.assert_whole(process.ended())
