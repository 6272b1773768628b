"""The config group `inference` becomes settings, or is rejected before anything starts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from src.errors import InputError
from src.inference.configure import inference_settings, refuse_what_is_missing, upscaling
from tests.conftest import Configure
from tests.unit.inference.conftest import GIVEN, Planned


@pytest.mark.parametrize("option", ["edge", "depth", "seg", "vis", "keypoint", "multi"])
def test_every_option_is_a_valid_spec(configure: Configure, option: str) -> None:
    controls = json.loads(inference_settings(configure(f"inference={option}", *GIVEN), None).controls)
    assert sum(fields["control_weight"] for fields in controls.values()) == 1
    assert option == "multi" or list(controls) == [option]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("inference.checkpoint_dir=''", "checkpoint_dir"),
        ("inference.repository=''", "repository"),
        ("inference.controls.edge.control_weight=-1", "control_weight"),
        ("inference.controls.edge=1", "controls.edge"),
        ("inference.blur_strength=hard", "blur_strength"),
        ("inference.num_steps=0", "num_steps"),
        ("inference.sigma_max=.nan", "sigma_max"),
        ("inference.extra_args=[--batch_size=2]", "--batch_size=2 is managed by the program"),
        ("inference.num_gpus=0", "num_gpus"),
        ("inference.max_attempts=0", "max_attempts"),
    ],
)
def test_invalid_value_is_rejected_by_name(configure: Configure, override: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        inference_settings(configure(*GIVEN, override), None)


def test_unknown_control_is_rejected(configure: Configure) -> None:
    config = configure(*GIVEN)
    config.inference.controls = {"lines": {"control_weight": 1}}
    with pytest.raises(InputError, match=r"controls\.lines"):
        inference_settings(config, None)


def test_more_gpus_than_the_host_are_rejected(configure: Configure) -> None:
    with pytest.raises(InputError, match="num_gpus=4"):
        inference_settings(configure(*GIVEN, "host.gpus=2", "inference.num_gpus=4"), None)


def test_default_host_is_that_of_the_run(planned: Planned, configure: Configure) -> None:
    run = planned({}).settings
    run = replace(run, host=replace(run.host, kind="ssh", name="gpu_box", address="gpu-box"))
    assert inference_settings(configure(*GIVEN), run).host.address == "gpu-box"


def test_missing_files_are_listed_before_the_start(configure: Configure) -> None:
    with pytest.raises(InputError) as caught:
        refuse_what_is_missing(inference_settings(configure(*GIVEN, "inference.torchrun=/nowhere/torchrun"), None))
    for missing in ("checkpoint_dir=/models/cosmos", "script=/opt/cosmos-transfer1", "torchrun=/nowhere/torchrun"):
        assert f"inference.{missing}" in str(caught.value)


def test_upscaling_takes_all_videos(configure: Configure) -> None:
    """Also where only upsampled prompts were to be used: of such, the videos were made."""
    given = ("inference.require_upsampled=true", "inference.sigma_max=50")
    settings = upscaling(inference_settings(configure("inference=edge", *GIVEN, *given), None))
    assert json.loads(settings.arguments) == {"num_steps": 10} and not settings.require_upsampled


def test_several_videos_at_a_time_are_refused(configure: Configure) -> None:
    given = ("inference/engine=cosmos3", "inference=edge", "inference.repository=/opt/cosmos", "inference.num_gpus=1")
    inference_settings(configure(*given, "inference.extra_args=[--parallelism-preset=latency]"), None)
    with pytest.raises(InputError, match="hides which one ended a call"):
        inference_settings(configure(*given, "inference.extra_args=[--parallelism-preset,throughput]"), None)
    with pytest.raises(InputError, match="--cp-size=1 is managed by the program"):
        inference_settings(configure(*given, "inference.extra_args=[--cp-size=1]"), None)
    inference_settings(configure(*given, "inference.extra_args=[--cache=/data/throughput/x]"), None)
