"""Inference as values: which prompt and which controls an item goes with, and NVIDIA's command. Nothing is started."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.errors import InputError
from src.inference.configure import inference_settings
from src.inference.items import InferenceItem, choose_prompt, inference_items
from src.inference.job import infer_argv, job_line, job_record, specs_of, stage_settings, transfer_argv
from src.inference.pipeline_file import settings_from_json, settings_json
from src.inference.settings import InferenceSettings
from src.planning.plan import Plan, PlanItem
from src.planning.resolve import resolve
from tests.conftest import Configure

GIVEN = ("inference.checkpoint_dir=/models/cosmos", "inference.repository=/opt/cosmos-transfer1")


@pytest.fixture
def settings(configure: Configure) -> InferenceSettings:
    return inference_settings(configure(*GIVEN), None)


@pytest.fixture
def planned(tmp_path: Path, configure: Configure, clips: Path) -> Any:
    """A function from the fields of items to a plan; each has the wide clip unless it says otherwise."""

    def made(*items: dict[str, Any]) -> Plan:
        full = [
            {"name": f"n{n}", "prompt": "a boat", "video_path": str(clips / "wide.mp4")} | i
            for n, i in enumerate(items)
        ]
        file = tmp_path / "prompts.json"
        file.write_text(json.dumps([{k: v for k, v in item.items() if v is not None} for item in full]))
        return resolve(configure(f'prompts="{file}"'))

    return made


def row(state: str, text: str | None = None, reason: str = "") -> dict[str, Any]:
    return {"state": state, "upsampled_prompt": text, "reason": reason}


def only(plan: Plan, settings: InferenceSettings) -> InferenceItem:
    [take] = inference_items(plan.items, None, settings)
    return take


# ---------------------------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize(
    ("found", "required", "prompt", "source", "left_out"),
    [
        (row("upsampled", "a long boat"), True, "a long boat", "upsampled", ""),
        (row("kept", reason="echo"), False, "a boat", "original", ""),
        (row("kept", reason="echo"), True, "", "", "its prompt was not upsampled: echo"),
        (row("failed", reason="no text"), False, "", "", "its prompt failed: no text"),
        (None, False, "a boat", "original", ""),
        (None, True, "", "", "its prompt was not upsampled: nothing was in this run"),
    ],
)
def test_prompt_that_an_item_goes_with(
    planned: Any, found: Any, required: bool, prompt: str, source: str, left_out: str
) -> None:
    choice = choose_prompt(planned({}).items[0], found, require_upsampled=required)
    assert (choice.prompt, choice.source, choice.left_out) == (prompt, source, left_out)


def test_spec_that_brings_its_upsampled_prompt_goes_with_that_when_nothing_was_upsampled(planned: Any) -> None:
    [item] = planned({"upsampled_prompt": "a long boat"}).items
    choice = choose_prompt(item, None, require_upsampled=True)
    assert (choice.prompt, choice.source) == ("a long boat", "spec")


def test_item_without_a_video_or_with_a_broken_one_is_left_out_and_says_why(
    planned: Any, settings: InferenceSettings, clips: Path
) -> None:
    plan = planned({"video_path": None}, {"video_path": str(clips / "text.mp4")}, {"video_path": "gone.mp4"})
    found = inference_items(plan.items, None, settings)
    assert all(take.left_out and not take.id for take in found)
    assert "no video" in found[0].left_out and "gone.mp4" in found[2].left_out


# ---------------------------------------------------------------------------------------------------------- controls


def test_item_without_controls_has_those_of_the_template(planned: Any, settings: InferenceSettings) -> None:
    take = only(planned({}), settings)
    assert json.loads(take.spec) == {"edge": {"control_weight": 1.0}}
    assert json.loads(take.controls) == {}


def test_controls_of_an_item_stand_in_place_of_the_template(planned: Any, settings: InferenceSettings) -> None:
    own = {
        "depth": {"control_weight": 0.4, "ckpt_path": "/x.pt"},
        "vis": {"control_weight": 0.2},
        "sigma_max": 60,
        "seed": 7,
    }
    take = only(planned(own), settings)
    assert json.loads(take.spec) == {"depth": {"ckpt_path": "/x.pt"}, "vis": {}, "sigma_max": 60, "seed": 7}
    assert json.loads(take.controls) == {"depth": own["depth"], "vis": own["vis"]}


def test_fields_beside_the_template_are_not_taken_for_arguments(planned: Any, settings: InferenceSettings) -> None:
    assert json.loads(only(planned({"seed": 7, "fps": "x"}), settings).spec) == {"edge": {"control_weight": 1.0}}


def test_control_overrides_change_controls_that_are_there_and_others_are_named(
    planned: Any, settings: InferenceSettings
) -> None:
    take = only(
        planned({"control_overrides": {"edge": {"control_weight": 0.3}, "seg": {"control_weight": 1}}}), settings
    )
    assert json.loads(take.controls) == {"edge": {"control_weight": 0.3}}
    assert take.note == "control_overrides of seg: no such control in the spec"


def test_control_files_are_known_by_content_and_relative_to_the_file_that_names_them(
    planned: Any, settings: InferenceSettings, tmp_path: Path
) -> None:
    (tmp_path / "depth map.MP4").write_bytes(b"a map")
    (tmp_path / "weights.pt").write_bytes(b"weights")
    own = {"depth": {"input_control": "depth map.MP4", "control_weight": "weights.pt"}}
    take = only(planned(own), settings)
    fields = json.loads(take.controls)["depth"]
    files = dict(take.files)
    assert {Path(path).name for path in files.values()} == {"wide.mp4", "depth map.MP4", "weights.pt"}
    assert files[fields["input_control"]].endswith("depth map.MP4") and fields["input_control"].endswith(".mp4")
    assert files[fields["control_weight"]].endswith("weights.pt")
    (tmp_path / "weights.pt").write_bytes(b"others")
    assert only(planned(own), settings).id != take.id


@pytest.mark.parametrize("fields", [{"control_weight": -1}, {"control_weight": "much"}, {"input_control": "gone.mp4"}])
def test_item_with_a_control_that_nvidia_would_refuse_is_left_out(
    planned: Any, settings: InferenceSettings, fields: dict[str, Any]
) -> None:
    assert next(iter(fields)) in only(planned({"edge": fields}), settings).left_out


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"edge": 5}, "edge: is no object"),
        ({"depth": [1]}, "depth: is no object"),
        ({"edge": {}, "sigma_max": "high"}, "sigma_max=high: must be a number"),
        ({"edge": {}, "num_steps": -3}, "num_steps=-3: must be 1 or more"),
        ({"edge": {}, "seed": 1.5}, "seed=1.5: must be a whole number"),
        ({"edge": {}, "blur_strength": "soft"}, "blur_strength=soft: must be one of very_low"),
    ],
)
def test_item_whose_controls_say_nothing_is_left_out_and_says_why(
    planned: Any, settings: InferenceSettings, fields: dict[str, Any], said: str
) -> None:
    assert said in only(planned(fields), settings).left_out


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"egde": {"control_weight": 0.5}}, "egde: no such control; is edge meant?"),
        ({"edge": {"control_wieght": 0.3}}, "edge.control_wieght: no field of a control"),
        ({"control_overrides": {"edge": 7}}, "control_overrides of edge: no object"),
        ({"metadata": {"edges": 1}, "edge": None}, ""),
    ],
)
def test_what_nvidia_does_not_read_is_noted(
    planned: Any, settings: InferenceSettings, fields: dict[str, Any], said: str
) -> None:
    take = only(planned(fields), settings)
    assert said in take.note if said else not take.note


def test_items_with_the_same_controls_share_a_group(planned: Any, settings: InferenceSettings) -> None:
    found = inference_items(
        planned({}, {"depth": {"control_weight": 1}}, {}, {"depth": {"control_weight": 0.5}}).items, None, settings
    )
    specs = specs_of(found)
    assert [job_line(take, specs)["group"] for take in found] == [0, 1, 0, 1]


def test_what_a_video_depends_on_makes_its_id_and_names_do_not(planned: Any, settings: InferenceSettings) -> None:
    first = only(planned({}), settings).id
    assert only(planned({"name": "another"}), settings).id == first
    assert only(planned({"prompt": "a ship"}), settings).id != first
    assert only(planned({}), replace(settings, arguments='{"seed": 2}')).id != first
    assert only(planned({}), replace(settings, num_gpus=4, torchrun="/opt/torchrun")).id == first


# ----------------------------------------------------------------------------------------------------------- commands


def test_the_whole_command_of_nvidia(configure: Configure) -> None:
    settings = inference_settings(
        configure(
            *GIVEN, "inference.num_gpus=4", "inference.offload_text_encoder_model=true", "inference.num_steps=20",
            "inference.extra_args=[--is_av_sample]", "host.gpus=device=0\\,1\\,2\\,3",
        ),
        None,
    )  # fmt: skip
    assert transfer_argv(settings) == (
        "torchrun", "--nproc_per_node=4", "--nnodes=1", "--node_rank=0",
        "cosmos_transfer1/diffusion/inference/transfer.py",
        "--checkpoint_dir", "/models/cosmos",
        "--video_save_folder", "{videos}",
        "--controlnet_specs", "{spec}",
        "--num_gpus", "4",
        "--batch_input_path", "{batch}",
        "--offload_text_encoder_model",
        "--is_av_sample",
    )  # fmt: skip
    record = job_record(['{"edge": {}}'], settings, 1)
    assert record["cwd"] == "/opt/cosmos-transfer1"
    assert record["env"] == {"PYTHONPATH": "/opt/cosmos-transfer1", "CHECKPOINT_DIR": "/models/cosmos"}
    assert json.loads(settings.arguments) == {"num_steps": 20}


def test_the_whole_command_for_nvidias_container(planned: Any, configure: Configure) -> None:
    plan = planned({})
    config = configure(
        *GIVEN, "image=cosmos_transfer1", "image.reference=cosmos-transfer1:mine", "image.mounts=[/opt/cosmos-transfer1]",
        "host.gpus=2", "inference.num_gpus=2", "inference.python=/usr/bin/python3",
    )  # fmt: skip
    inference = inference_settings(config, None)
    settings = stage_settings(plan.settings, inference)
    job = "/data/up/jobs/0123456789abcdef"
    assert infer_argv(settings, inference, "89abcdef01234567", job, "/data/up", "1000:100") == (
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
        "/usr/bin/python3", f"{job}/infer.py", job,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize("option", ["edge", "depth", "seg", "vis", "keypoint", "multi"])
def test_every_option_of_the_group_is_a_spec_that_nvidia_takes(configure: Configure, option: str) -> None:
    controls = json.loads(inference_settings(configure(f"inference={option}", *GIVEN), None).controls)
    assert sum(fields["control_weight"] for fields in controls.values()) == 1
    assert option == "multi" or list(controls) == [option]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("inference.checkpoint_dir=''", "checkpoint_dir"),
        ("inference.repository=''", "repository"),
        ("inference.controls.edge.control_weight=-1", "control_weight"),
        ("inference.controls.edge=1", "controls.edge"),
        ("inference.blur_strength=hard", "blur_strength"),
        ("inference.num_steps=0", "num_steps"),
        ("inference.sigma_max=.nan", "sigma_max"),
        ("inference.extra_args=[--batch_size=2]", "--batch_size"),
        ("inference.num_gpus=0", "num_gpus"),
        ("inference.max_attempts=0", "max_attempts"),
    ],
)
def test_what_nvidia_would_refuse_is_refused_before_anything_starts(
    configure: Configure, override: str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        inference_settings(configure(*GIVEN, override), None)


def test_control_that_nvidia_does_not_know_is_refused(configure: Configure) -> None:
    config = configure(*GIVEN)
    config.inference.controls = {"lines": {"control_weight": 1}}
    with pytest.raises(InputError, match=r"controls\.lines"):
        inference_settings(config, None)


def test_more_gpus_than_the_host_group_names_are_refused(configure: Configure) -> None:
    with pytest.raises(InputError, match="num_gpus=4"):
        inference_settings(configure(*GIVEN, "host.gpus=2", "inference.num_gpus=4"), None)


def test_without_a_host_inference_goes_where_the_run_was(planned: Any, configure: Configure) -> None:
    run = planned({}).settings
    run = replace(run, host=replace(run.host, kind="ssh", name="gpu_box", address="gpu-box"))
    assert inference_settings(configure(*GIVEN), run).place.address == "gpu-box"


def test_settings_come_back_from_pipeline_json_as_they_were(configure: Configure) -> None:
    settings = inference_settings(
        configure(*GIVEN, "inference=multi", "inference.seed=3", "image=vllm", "image.mounts=[/a,/b:/c:rw]"), None
    )
    assert settings_from_json(json.loads(json.dumps(settings_json(settings)))) == settings


def test_item_of_a_plan_is_not_changed_by_looking(planned: Any, settings: InferenceSettings) -> None:
    plan = planned({"edge": {"control_weight": 0.2}})
    before: tuple[PlanItem, ...] = tuple(replace(item) for item in plan.items)
    inference_items(plan.items, None, settings)
    assert plan.items == before
