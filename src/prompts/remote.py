"""Clips and prompt files that are addresses, as s3://bucket/clip.mp4: fetched into the cache, once for each version that the
storage names. Home of fsspec, which comes with the extra `remote_files`."""

from __future__ import annotations

import hashlib
import posixpath
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import UpsamplerError, VideoError
from ..files import folder_atomic
from ..worker.values import SECRET_PARAMETER

PACKAGES = {
    "s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "az": "adlfs", "abfs": "adlfs",
    "http": "aiohttp", "https": "aiohttp", "memory": "fsspec",
}  # fmt: skip
# A Path has one slash where an address has two.
_ADDRESS = re.compile(rf"({'|'.join(PACKAGES)}):/+(.+)", re.DOTALL | re.IGNORECASE)
_USER = re.compile(r"[^/?#]*@")
_FOLDER = ".fetched_from"  # beside a fetched file: the address of its folder, which its paths are relative to
_VERSION = ("size", "mtime", "created", "etag", "LastModified", "last_modified", "generation", "md5Hash", "blob_id")


def address_of(path: Path | str) -> str:
    """The address that a path stands for; "" for a path of this machine."""
    found = _ADDRESS.fullmatch(str(path))
    return f"{found[1].lower()}://{found[2]}" if found else ""


def holds_secret(address: str) -> bool:
    """Whether an address has a password, or is signed: plans and results repeat it."""
    place = address.partition("://")[2]
    return bool(_USER.match(place) or SECRET_PARAMETER.search(place.partition("?")[2]))


def beside(folder: Path, written: str) -> Path | None:
    """The address that a relative path in a fetched prompt file stands for; None for the folder of any other."""
    if not (base := _base_of(folder)):
        return None
    scheme, _, place = base.partition("://")
    return Path(f"{scheme}://{posixpath.normpath(posixpath.join(place, written))}")


@lru_cache
def _base_of(folder: Path) -> str:
    """The address that the files of a folder were fetched from; "" for any other folder. All items of a prompt file ask for it."""
    try:
        return (folder / _FOLDER).read_text(encoding="utf-8")
    except OSError:
        return ""


def fetched(address: str, cache: Path, max_bytes: float = float("inf")) -> Path:
    """The file at an address, in the cache; VideoError where it cannot be had."""
    try:
        return _fetched(address, cache, max_bytes)
    except UpsamplerError:
        raise
    except ImportError:
        package = PACKAGES[address.partition(":")[0]]
        hint = f"pip install {package}, or the extra remote_files"
        raise VideoError(f"{address}: a remote file needs {package} here, which is not installed", hint=hint) from None
    except FileNotFoundError:
        raise VideoError(
            f"{address}: there is no such object", hint="compare its name with what the storage lists"
        ) from None
    except Exception as e:  # each kind of storage has its own
        if isinstance(e, PermissionError) or "credential" in f"{type(e).__name__} {e}".lower():
            hint = "log in with the storage's own tool: aws configure, gcloud auth application-default login, hf auth login"
            raise VideoError(f"{address}: access was refused, or there are no credentials for it", hint=hint) from None
        why = next(iter(str(e).splitlines()), "")[:200]
        raise VideoError(f"{address}: cannot be fetched: {type(e).__name__}: {why}", hint="try again later") from None


def _fetched(address: str, cache: Path, max_bytes: float) -> Path:
    import fsspec

    storage, place = fsspec.core.url_to_fs(address)
    info: dict[str, Any] = storage.info(place)
    if info.get("type") == "directory":
        raise VideoError(f"{address}: is a folder", hint="name a file in it")
    if (size := info.get("size") or 0) > max_bytes:
        raise VideoError(
            f"{address}: {size / 1e9:.1f} GB is larger than video.max_bytes={max_bytes:.0f}", hint="raise it"
        )
    version = [str(value) for name, value in sorted(info.items()) if name.lower() in map(str.lower, _VERSION)]
    folder = cache / "remote" / hashlib.sha256("\n".join((address, *version)).encode()).hexdigest()[:32]
    path = folder / re.sub(r"[^\w.+-]", "_", posixpath.basename(place.partition("?")[0]))[-100:].lstrip(".")
    if not path.exists():
        with folder_atomic(folder) as aside:
            storage.get_file(place, str(aside / path.name))
            (aside / _FOLDER).write_text(posixpath.dirname(address), encoding="utf-8")
    return path
