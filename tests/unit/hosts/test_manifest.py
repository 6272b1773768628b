"""What starts the workers of host=pool."""

from __future__ import annotations

from dataclasses import replace

import kubernetes_validate
import pytest

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
