"""Entry of the worker: `PYTHON worker.pyz JOB_FOLDER`. Python 3.10 or later.

Started again in the same folder, it does only what has no result yet; a second one beside a running one refuses.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from . import lifecycle
from .protocol import ENVIRONMENT_FILE_VARIABLE, PROTOCOL, InferJob, JobHeader, UpsampleJob
from .records import InvalidRecord, from_line


def prepare(folder: Path, control: lifecycle.Control) -> lifecycle.Work:
    """The work that job.json names."""
    try:
        text = (folder / "job.json").read_bytes()
        header = from_line(JobHeader, text)
        if header.protocol != PROTOCOL:
            raise lifecycle.LoadFailed(f"{folder}: protocol {header.protocol}, this worker has {PROTOCOL}")
        if header.infers:
            from .infer import Runner

            return Runner(folder, from_line(InferJob, text), control)
        from .engines import make_engine
        from .upsample import Worker

        job = from_line(UpsampleJob, text)
        return Worker(folder, job, make_engine(job, folder), control)
    except InvalidRecord as e:
        raise lifecycle.LoadFailed(f"{folder / 'job.json'}: {e}") from e


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    if file := os.environ.pop(ENVIRONMENT_FILE_VARIABLE, ""):  # what `docker inspect` must not show
        given = (entry.partition(b"=") for entry in Path(file).read_bytes().split(b"\0") if entry)
        os.environb.update({name: value for name, _, value in given})
    return lifecycle.run(Path(argv[1]), prepare)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
