"""What starts the workers of host=pool."""

from __future__ import annotations

import shlex
from dataclasses import replace

import kubernetes_validate
import pytest

from src.errors import InputError
from src.hosts.manifest import PodSettings, PoolWorkers, kubernetes_job, slurm_script
from tests.harness.fake_host import HOST, LAUNCH

WORKERS = PoolWorkers(
    jobs=["0123456789abcdef", "fedcba9876543210"],
    python="python3",
    host=replace(HOST, kind="pool", root="/shared/my root", sbatch=("--gpus=1",)),
    image=replace(LAUNCH.image, reference="registry/vllm:1", shm_size="8g", env=("MODE=fast", "HF_TOKEN")),
    grace_s=30.0,
    secrets=("API_KEY",),
)
POD = PodSettings("batch", "shared", "/mnt", 2, "nvidia.com/gpu", 2.5, "16Gi", 6, "keys")


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("pod", [POD, replace(POD, namespace="", gpus=0, mount="")])
def test_job_is_valid_by_the_api(pod: PodSettings, uid: int) -> None:
    kubernetes_validate.validate(kubernetes_job(WORKERS, pod, uid, uid), "1.31", strict=True)


def test_pod_asks_for_what_was_named() -> None:
    pod = kubernetes_job(WORKERS, POD, 1000, 100)["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": "2"}
    assert container["args"] == ["/mnt", "python3", *WORKERS.jobs]
    assert pod["volumes"][1]["emptyDir"]["sizeLimit"] == "8Gi"
    assert {variable["name"] for variable in container["env"]} == {"HOME", "MODE", "HF_TOKEN", "API_KEY"}
    assert pod["securityContext"]["runAsUser"] == 1000


def test_evicted_pods_are_no_failures() -> None:
    spec = kubernetes_job(WORKERS, POD, 0, 0)["spec"]
    assert spec["podFailurePolicy"]["rules"][0]["action"] == "Ignore"
    assert "runAsUser" not in spec["template"]["spec"]["securityContext"]


def test_slurm_script_names_every_worker() -> None:
    lines = slurm_script(WORKERS).splitlines()
    assert {"#SBATCH --array=0-1", "#SBATCH --requeue", "#SBATCH --gpus=1"} <= set(lines)
    assert "set -- '/shared/my root' python3 0123456789abcdef fedcba9876543210" in lines


def test_options_of_sbatch_keep_their_words() -> None:
    """Slurm reads a directive as a shell does, and what follows # as a comment."""
    script = slurm_script(replace(WORKERS, host=replace(WORKERS.host, sbatch=("--comment=a#b job's", "--time=5"))))
    with_blank = slurm_script(replace(WORKERS, host=replace(WORKERS.host, sbatch=("--partition gpu",))))
    assert "#SBATCH --partition gpu" in with_blank.splitlines()
    directives = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    assert [shlex.split(line) for line in directives[-2:]] == [["--comment=a#b job's"], ["--time=5"]]


@pytest.mark.parametrize(
    ("size", "quantity"),
    [
        ("8g", "8Gi"),
        ("8GiB", "8Gi"),
        ("512mb", "512Mi"),
        ("64b", "64"),
        ("1.5G", "1.5Gi"),
        ("16Gi", "16Gi"),
        ("16 g", "16Gi"),
    ],
)
def test_sizes_of_docker_are_quantities(size: str, quantity: str) -> None:
    job = kubernetes_job(replace(WORKERS, image=replace(WORKERS.image, shm_size=size)), POD, 0, 0)
    assert job["spec"]["template"]["spec"]["volumes"][1]["emptyDir"]["sizeLimit"] == quantity
    kubernetes_validate.validate(job, "1.31", strict=True)


def test_wrong_size_is_named() -> None:
    with pytest.raises(InputError, match="shm_size=lots"):
        kubernetes_job(replace(WORKERS, image=replace(WORKERS.image, shm_size="lots")), POD, 0, 0)
