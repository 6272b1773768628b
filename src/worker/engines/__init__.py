"""Where answers come from: one module per engine, each with a class that has the methods of `engine.Engine`.

An engine asks once; trying again, checks and the journal are the worker's.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from ..lifecycle import LoadFailed
from ..protocol import UpsampleJob
from .engine import Engine

# Name in job.json -> module and class. Only the engine of the job is imported: each may need packages of its own.
ENGINES = {
    "offline": ("offline", "OfflineEngine"),
    "vllm": ("vllm", "VllmEngine"),
    "llamacpp": ("llamacpp", "LlamaCppEngine"),
    "endpoint": ("endpoint", "EndpointEngine"),
    "cosmos": ("cosmos", "CosmosEngine"),
}


def make_engine(job: UpsampleJob, folder: Path) -> Engine:
    """The engine that the job names, not loaded yet. Raises LoadFailed where the interpreter lacks what it needs."""
    module, name = ENGINES[job.engine.name]
    try:
        found = importlib.import_module(f"{__name__}.{module}")
    except ImportError as e:
        raise LoadFailed(f"{sys.executable} has no {e.name}, which engine={job.engine.name} needs") from e
    engine: Engine = getattr(found, name)(job, folder)
    return engine
