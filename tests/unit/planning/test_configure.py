"""Config groups become frozen settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.choices import HostKind, TaskName
from src.config import Config, HostConf
from src.errors import InputError
from src.planning import observed_limits
from src.planning.configure import host_settings, image_settings, one_machine, plan_settings
from src.planning.observed_limits import ObservedLimit
from tests.conftest import Configure


def test_settings_hold_host_and_image(configure: Configure) -> None:
    config = configure(
        "host.name=gpu_box", "host.docker=[sudo,docker]", "image.reference=mine:1", "image.mounts=[/data]"
    )
    settings = plan_settings(config)
    assert (settings.host, settings.image) == (host_settings(config.host), image_settings(config))
    assert (settings.host.name, settings.host.docker) == ("gpu_box", ("sudo", "docker"))
    assert (settings.image.reference, settings.image.mounts) == ("mine:1", ("/data",))
    hash(settings)


def test_ssh_host_needs_an_address(configure: Configure) -> None:
    with pytest.raises(InputError, match=r"host\.address: host=ssh needs a name") as caught:
        host_settings(configure("host.kind=ssh").host)
    assert "conf/host/NAME.yaml" in caught.value.hint


def fleet_of(configure: Configure, *names: str) -> Config:
    config = configure("host=fleet")
    config.fleet = [HostConf(name, HostKind.ssh, address=name) for name in names]
    return config


def test_fleet_has_its_members(configure: Configure) -> None:
    settings = plan_settings(fleet_of(configure, "gpu_a", "gpu_b"))
    assert (settings.host.name, [member.address for member in settings.members]) == ("fleet", ["gpu_a", "gpu_b"])


@pytest.mark.parametrize("names", [(), ("gpu_a", "gpu_a")])
def test_fleet_needs_members_each_once(configure: Configure, names: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"host\.members"):
        plan_settings(fleet_of(configure, *names))


def test_some_tasks_need_one_machine(configure: Configure) -> None:
    with pytest.raises(InputError, match="host=fleet: videos are made on one machine"):
        one_machine(fleet_of(configure, "gpu_a"), "videos are made on")


def test_limits_task_ignores_observed_limits(configure: Configure, tmp_path: Path) -> None:
    """It measures them."""
    config = configure()
    config.cache_dir = str(tmp_path)
    key = observed_limits.key_of(plan_settings(config))
    observed = ObservedLimit("local", "", "offline", "m", "1", 4096, 2500, 3001, "2026-01-01")
    observed_limits.remember(observed_limits.limits_file(tmp_path), key, observed)
    assert plan_settings(config).effective_len == 3000
    config.task.name = TaskName.limits
    assert plan_settings(config).effective_len == 0
