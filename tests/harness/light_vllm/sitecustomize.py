"""For a real vLLM on a CPU that shares its cores with others: engine and worker are forks of its server, as vLLM has it by
default except on a CPU, and do not import everything again (10 CPU seconds each). Loaded by any Python with this on PYTHONPATH."""

import multiprocessing

_fork = multiprocessing.get_context("fork")
multiprocessing.get_context = lambda method=None: _fork  # type: ignore[assignment]
