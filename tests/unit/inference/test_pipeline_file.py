"""pipeline.json: read back equal, in this version and the one before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from src.errors import InputError
from src.inference.configure import inference_settings
from src.inference.pipeline_file import read_pipeline, save_pipeline, settings_json
from src.inference.settings import InferenceSettings
from src.run_folder import RunPaths
from tests.conftest import Configure
from tests.unit.inference.conftest import GIVEN

VERSION_1 = Path(__file__).with_name("pipeline_v1.json")  # written by the program before version 2


@pytest.mark.parametrize("upsampling", [True, False])
def test_pipeline_is_read_back_equal(configure: Configure, tmp_path: Path, upsampling: bool) -> None:
    overrides = ["inference=multi", "inference.seed=3", "image.name=vllm", "image.mounts=[/a,/b:/c:rw]"]
    settings = inference_settings(configure(*GIVEN, *overrides), None)
    save_pipeline(upsampling, settings, RunPaths(tmp_path))
    assert read_pipeline(RunPaths(tmp_path)) == (upsampling, settings)
    assert json.loads((tmp_path / "pipeline.json").read_text())["version"] == 2


def test_version_1_keeps_host_and_image(tmp_path: Path) -> None:
    """It had their settings in `place` and `container`."""
    shutil.copy(VERSION_1, tmp_path / "pipeline.json")
    upsampling, settings = read_pipeline(RunPaths(tmp_path))
    assert upsampling
    assert (settings.host.name, settings.host.address, settings.host.gpus) == ("gpu_box", "gpu-box", "device=0,1")
    assert (settings.image.reference, settings.image.mounts) == ("cosmos-transfer1:mine", ("/opt/cosmos-transfer1",))


def test_version_1_keeps_everything_else(tmp_path: Path) -> None:
    shutil.copy(VERSION_1, tmp_path / "pipeline.json")
    before = json.loads(VERSION_1.read_text())["inference"]
    after = settings_json(read_pipeline(RunPaths(tmp_path))[1])
    host, image = after.pop("host"), after.pop("image")
    assert host.items() >= before.pop("place").items() and image.items() >= before.pop("container").items()
    assert after.items() >= before.items() and after["engine"] == "transfer1"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"version": 2', '"version": 99'),
        lambda text: text.replace('"num_gpus": 1', '"num_gpus": "one"'),
    ],
    ids=["torn", "no object", "newer version", "wrong type"],
)
def test_invalid_pipeline_is_an_input_error(
    settings: InferenceSettings, tmp_path: Path, damage: Callable[[str], str]
) -> None:
    paths = RunPaths(tmp_path)
    save_pipeline(True, settings, paths)
    paths.pipeline.write_text(damage(paths.pipeline.read_text()))
    with pytest.raises(InputError, match=r"pipeline\.json"):
        read_pipeline(paths)
