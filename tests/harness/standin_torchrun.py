"""A STAND-IN for torchrun, for machines without torch: it starts a process for each GPU, each in a session of its own as
torch's elastic agent does, ends the others when one fails or it is asked to end, and says with 1 that one failed."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nproc_per_node", type=int, required=True)
    parser.add_argument("--standalone", action="store_true", required=True)
    parser.add_argument("-m", dest="is_module", action="store_true")
    parser.add_argument("script")
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    world = asked.nproc_per_node
    processes = [
        subprocess.Popen(
            [sys.executable, "-u", *(["-m"] if asked.is_module else []), asked.script, *asked.rest],
            env={**os.environ, "RANK": str(n), "LOCAL_RANK": str(n), "WORLD_SIZE": str(world)},
            start_new_session=True,
        )
        for n in range(world)
    ]

    def end(*_: object) -> None:
        for process in processes:
            process.terminate()

    signal.signal(signal.SIGTERM, end)
    while any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes):
            end()
        time.sleep(0.02)
    return int(any(process.returncode for process in processes))


if __name__ == "__main__":
    sys.exit(main())
