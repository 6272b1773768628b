"""The job of inference: NVIDIA's command, the lines of a batch, and the container that runs it."""

from __future__ import annotations

import json

from src.hosts.docker import run_argv
from src.inference.configure import inference_settings
from src.inference.items import inference_items
from src.inference.job import infer_item, infer_job, launch_of, specs_of
from src.inference.settings import InferenceSettings
from src.worker.protocol import InferItem, InferJob
from src.worker.records import from_line, to_line
from tests.conftest import Configure
from tests.unit.inference.conftest import GIVEN, Planned


def test_items_with_equal_controls_share_a_group(planned: Planned, settings: InferenceSettings) -> None:
    plan = planned({}, {"depth": {"control_weight": 1}}, {}, {"depth": {"control_weight": 0.5}})
    found = inference_items(plan.items, None, settings)
    specs = specs_of(found)
    assert [infer_item(item, specs).group for item in found] == [0, 1, 0, 1]
    assert len(infer_job(specs, settings).groups) == 2


def test_batch_line_has_prompt_controls_and_files(planned: Planned, settings: InferenceSettings) -> None:
    [item] = inference_items(planned({"depth": {"control_weight": 0.5}}).items, None, settings)
    line = infer_item(item, specs_of([item]))
    overrides = {"depth": {"control_weight": 0.5}}
    assert (line.id, line.prompt) == (item.id, "a boat")
    assert line.as_line == {"visual_input": line.video, "prompt": "a boat", "control_overrides": overrides}
    assert line.frames == (line.video,) == (item.video,)
    assert from_line(InferItem, to_line(line)) == line


def test_job_is_read_back_equal(settings: InferenceSettings) -> None:
    job = infer_job(['{"edge": {"control_weight": 1.0}}'], settings)
    assert from_line(InferJob, to_line(job)) == job


def test_command_has_all_arguments_of_nvidia(configure: Configure) -> None:
    config = configure(
        *GIVEN, "inference.num_gpus=4", "inference.offload_text_encoder_model=true", "inference.num_steps=20",
        "inference.extra_args=[--is_av_sample]",
    )  # fmt: skip
    config.host.gpus = "device=0,1,2,3"
    settings = inference_settings(config, None)
    assert infer_job([], settings).argv == (
        "torchrun", "--standalone", "--nproc_per_node=4",
        "cosmos_transfer1/diffusion/inference/transfer.py",
        "--checkpoint_dir", "/models/cosmos",
        "--video_save_folder", "{videos}",
        "--controlnet_specs", "{spec}",
        "--num_gpus", "4",
        "--batch_input_path", "{batch}",
        "--offload_text_encoder_model",
        "--is_av_sample",
    )  # fmt: skip
    job = infer_job(['{"edge": {}}'], settings)
    assert job.cwd == "/opt/cosmos-transfer1"
    assert job.env == {"PYTHONPATH": "/opt/cosmos-transfer1", "CHECKPOINT_DIR": "/models/cosmos"}
    assert json.loads(settings.arguments) == {"num_steps": 20}


def test_container_has_all_arguments_of_docker(configure: Configure) -> None:
    config = configure(
        *GIVEN, "image=cosmos_transfer1", "image.reference=cosmos-transfer1:mine", "image.mounts=[/opt/cosmos-transfer1]",
        "host.gpus=2", "inference.num_gpus=2", "inference.python=/usr/bin/python3",
    )  # fmt: skip
    launch = launch_of(inference_settings(config, None), "89abcdef01234567")
    job = "/data/up/jobs/0123456789abcdef"
    assert run_argv(launch, job, "/data/up", "1000:100") == (
        "docker", "run", "--detach", "--init",
        "--name", "prompt-upsampler-0123456789abcdef-8e230465",
        "--label", "prompt-upsampler.job=0123456789abcdef",
        "--label", "prompt-upsampler.run=89abcdef01234567",
        "--label", "prompt-upsampler.root=/data/up",
        "--network", "none",
        "--user", "1000:100",
        "--cap-drop", "ALL",
        "--security-opt", "no-new-privileges",
        "--read-only",
        "--tmpfs", "/tmp:rw,exec,nosuid,mode=1777",
        "--shm-size", "16g",
        "--pids-limit", "8192",
        "--log-opt", "max-size=20m",
        "--stop-timeout", "35",
        "--pull", "never",
        "--gpus", "2",
        "--mount", f"type=bind,source={job},target={job}",
        "--mount", f"type=bind,source={job}/frames,target={job}/frames,readonly",
        "--mount", "type=bind,source=/data/up/cache,target=/data/up/cache",
        "--mount", "type=bind,source=/models/cosmos,target=/models/cosmos,readonly",
        "--mount", "type=bind,source=/opt/cosmos-transfer1,target=/opt/cosmos-transfer1,readonly",
        "--env", "USER=upsampler",
        "--env", "LOGNAME=upsampler",
        "--env", "HOME=/data/up/cache/home",
        "--env", "XDG_CACHE_HOME=/data/up/cache",
        "--env", "VLLM_CACHE_ROOT=/data/up/cache/vllm",
        "--env", "TRITON_CACHE_DIR=/data/up/cache/triton",
        "--env", "TORCHINDUCTOR_CACHE_DIR=/data/up/cache/inductor",
        "--entrypoint", "",
        "cosmos-transfer1:mine",
        "/usr/bin/python3", f"{job}/worker.pyz", job,
    )  # fmt: skip
