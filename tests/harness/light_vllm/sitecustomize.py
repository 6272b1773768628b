"""For a real vLLM on a CPU that shares its cores with others. Loaded by any Python with this folder on PYTHONPATH.

Engine and worker are forks of its server, as vLLM has it by default except on a CPU, and do not import everything again (10 CPU
seconds each); they wait for each other without spinning, which they do for a second after each message. A processor's keywords are
deep copied several times as it is loaded, with a tokenizer of 150,000 words among them: it is shared. The first server of a model
on a machine looks at its class in a process of its own, which would import everything once more: it looks itself.
"""

import copy
import multiprocessing
import os
import pickle
import subprocess
import time
from pathlib import Path
from typing import Any

_fork = multiprocessing.get_context("fork")
multiprocessing.get_context = lambda method=None: _fork  # type: ignore[assignment]
os.sched_yield = lambda: time.sleep(0.0005)


def _tokenizer(tokenizer: Any, memo: dict[int, Any]) -> Any:
    return tokenizer if memo else copy._reconstruct(tokenizer, memo, *tokenizer.__reduce_ex__(4))  # type: ignore[attr-defined]


class _Copiers(dict[type, Any]):
    def get(self, kind: type, default: Any = None) -> Any:
        is_tokenizer = any(base.__name__ == "PreTrainedTokenizerBase" for base in kind.__mro__)
        return _tokenizer if is_tokenizer else super().get(kind, default)


copy._deepcopy_dispatch = _Copiers(copy._deepcopy_dispatch)  # type: ignore[attr-defined]


_run = subprocess.run


def _run_here(args: Any, **given: Any) -> Any:
    if not isinstance(args, list) or args[1:] != ["-m", "vllm.model_executor.models.registry"]:
        return _run(args, **given)
    inspect, output = pickle.loads(given["input"])
    Path(output).write_bytes(pickle.dumps(inspect()))
    return subprocess.CompletedProcess(args, 0, b"", b"")


subprocess.run = _run_here  # type: ignore[assignment]
