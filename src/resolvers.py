"""What Hydra needs before it composes: the schema, and the resolvers of conf/config.yaml."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime
from typing import cast

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from .choices import HostKind, TaskName
from .config import Config, HostConf
from .files import bundled

# Tasks that are no runs.
_WITHOUT_RUN = (
    TaskName.status, TaskName.runs, TaskName.report, TaskName.cancel, TaskName.clean, TaskName.trust, TaskName.doctor,
    TaskName.verify, TaskName.init,
)  # fmt: skip
created: list[str] = []  # folders that this process created for new runs


def run_folder(resume: str | None, run: str | None, task: TaskName, pattern: str, separate: bool = False) -> str:
    """Folder of this run: the one to resume, or a new one named by the clock, created here so that no other run gets it.

    Tasks that are no runs share one. separate: a run of its own, although it starts from another one.
    """
    if task in _WITHOUT_RUN:
        return "outputs/.tasks"
    if (existing := resume or run) and not separate:
        return existing
    folder = datetime.now().strftime(pattern)
    candidate, n, gone = folder, 1, 0
    while True:
        try:
            os.makedirs(candidate)
            created.append(candidate)
            return candidate
        except FileExistsError:
            n += 1
            candidate = f"{folder}-{n}"
        except FileNotFoundError:  # another process has just removed the folder of the day, which was empty
            if (gone := gone + 1) > 100:  # or the folder of all runs is a link to nothing
                raise


def is_new(folder: str) -> bool:
    """Whether this process created a folder for a run, or a sweep for one of its points."""
    return os.path.abspath(folder) in map(os.path.abspath, created) or HydraConfig.get().mode is RunMode.MULTIRUN


def hydra_subdir(task: TaskName, folder: str) -> str | None:
    """Where Hydra keeps its record in a run folder; a later start does not overwrite the record of the first."""
    if task in _WITHOUT_RUN:
        return None
    is_first = not os.path.lexists(os.path.join(folder, ".hydra"))
    return ".hydra" if is_first else f".hydra/resumed-{datetime.now():%Y%m%d-%H%M%S-%f}"


def or_bundled(name: str) -> str:
    """A file of the working folder, or the one that comes with the program."""
    return name if os.path.exists(name) else str(bundled(name))


def members(fleet: HostConf) -> list[HostConf]:
    """The members of a fleet: options of the group `host`, and by address machines that are reached as the fleet says."""
    return [_member(name, fleet) for name in fleet.members]


def _member(name: str, fleet: HostConf) -> HostConf:
    from hydra import compose
    from hydra.core.global_hydra import GlobalHydra

    known = GlobalHydra.instance().config_loader().get_group_options("host")
    if name not in known:
        return replace(fleet, name=name, kind=HostKind.ssh, address=name, members=[])
    option = OmegaConf.merge(OmegaConf.structured(HostConf), compose(f"host/{name}").host)
    return cast(HostConf, OmegaConf.to_object(option))


def register() -> None:
    """Make the schema and the resolvers known to Hydra; called once, before `hydra.main`."""
    store = ConfigStore.instance()
    # Hydra copies the whole store for every group that --help lists, which takes seconds; what is loaded from it is a copy.
    store.__deepcopy__ = lambda memo: store  # type: ignore[attr-defined]
    store.store(name="schema", node=Config)
    OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True, replace=True)
    OmegaConf.register_new_resolver(
        "choose", lambda condition, then, otherwise: then if condition else otherwise, replace=True
    )
    OmegaConf.register_new_resolver("or_bundled", or_bundled, replace=True)
    OmegaConf.register_new_resolver("package", lambda name: f"{__package__}.{name}", replace=True)
    OmegaConf.register_new_resolver("hydra_subdir", hydra_subdir, use_cache=True, replace=True)
