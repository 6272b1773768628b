"""worker.pyz: the worker package, and the one library that it needs, as one file that any Python 3.10 runs; the same bytes for
the same content."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from importlib import metadata
from pathlib import Path

from .. import worker

WORKER = "worker.pyz"
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold
_MAIN = "import sys\n\nfrom worker.__main__ import main\n\nsys.exit(main(sys.argv))\n"


@cache
def worker_bundle() -> bytes:
    """A zip with sorted names, fixed dates and no compression, so that its hash changes only with the code."""
    files = _files_of("worker", Path(worker.__file__).parent)
    library = metadata.distribution("fastjsonschema")  # pure Python, without dependencies
    files |= _files_of("fastjsonschema", Path(str(library.locate_file("fastjsonschema"))))
    files["fastjsonschema/LICENSE"] = next(f for f in library.files or () if f.name == "LICENSE").read_binary()
    files["__main__.py"] = _MAIN.encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _DATE), files[name])
    return packed.getvalue()


def _files_of(name: str, folder: Path) -> dict[str, bytes]:
    return {f"{name}/{file.relative_to(folder).as_posix()}": file.read_bytes() for file in folder.rglob("*.py")}
