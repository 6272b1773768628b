"""host.gpus as a value: which devices it names, how workers share them, how a plain process is restricted to them."""

from __future__ import annotations


def devices(gpus: str) -> tuple[str, ...] | None:
    """The devices that `device=0,2` or a count names; None for `all`, which names none. ValueError for anything else."""
    if gpus == "all":
        return None
    if gpus in ("", "none"):
        return ()
    if gpus.startswith("device="):
        return tuple(name.strip() for name in gpus.removeprefix("device=").split(",") if name.strip())
    if not gpus.isdecimal():
        raise ValueError(f"{gpus}: must be all, none, a count, or a list as in device=0,2")
    return tuple(str(n) for n in range(int(gpus)))


def shares(gpus: str, workers: int) -> tuple[str, ...]:
    """host.gpus for each worker. ValueError when the devices cannot be shared evenly."""
    named = devices(gpus)
    if workers == 1:
        return (gpus,)
    if named is None:
        raise ValueError("all names no devices for several workers to share: give a count, or a list as in device=0,1")
    each, left = divmod(len(named), workers)
    if left:
        raise ValueError(
            f"{gpus}: {len(named)} GPUs cannot be shared evenly by {workers} workers; for two, name for example device=0,1"
        )
    parts = [named[n * each : (n + 1) * each] for n in range(workers)]
    return tuple(f"device={','.join(part)}" if part else "none" for part in parts)


def environment(gpus: str) -> dict[str, str]:
    """The variables that restrict a plain process to these devices; Docker has `--gpus` for it."""
    named = devices(gpus)
    return {} if named is None else {"CUDA_VISIBLE_DEVICES": ",".join(named)}
