"""Config values that cannot work are rejected by name, before anything is read or started."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from src.errors import InputError
from src.planning.resolve import resolve
from src.planning.validate import check_config
from tests.conftest import Configure
from tests.unit.planning.conftest import ConfigFor, only_item, over

WRONG = [
    ("frames.count=0", "frames.count=0: must be 1 to 8"),
    ("frames.count=9", "frames.count=9: must be 1 to 8"),
    ("model.max_images=1", "frames.count=2: model.max_images allows 1"),
    ("frames.fps=0", "frames.fps=0.0: must be 0.01 to 240"),
    ("frames.fps=0.0004", "frames.fps=0.0004: must be 0.01 to 240"),
    ("frames.fps=-2", "frames.fps=-2.0: must be 0.01 to 240"),
    ("frames.fps=nan", "frames.fps=nan: must be 0.01 to 240"),
    ("frames.fps=241", "frames.fps=241.0: must be 0.01 to 240"),
    ("upsample.width_px=15", "upsample.width_px=15: must be at least 16"),
    ("upsample.max_side_px=15", "upsample: max_side_px and max_box must be at least 16 (one patch)"),
    ("upsample.max_box=320x8", "upsample: max_side_px and max_box must be at least 16 (one patch)"),
    ("upsample.max_box=wide", "upsample.max_box=wide: must be WIDTHxHEIGHT, as in 320x180"),
    ("image.repository=cosmos", "image.repository: must be an absolute path on the host"),
    ("resolution.name=719", "resolution.name=719: must be one of 1080, 720, 512, 480, 256"),
    ("budget.max_output_tokens=0", "max_output_tokens must be at least 1"),
    ("budget.text_margin=-1", "text_margin at least 0"),
    ("budget.max_model_len=303", "budget.max_model_len=303: leaves no room"),
    ("budget.max_batch_size=0", "max_batch_size and max_batch_tokens must be at least 1"),
    ("budget.max_batch_tokens=0", "max_batch_size and max_batch_tokens must be at least 1"),
    ("engine.name=endpoint", "engine.base_url: engine=endpoint needs the address of a server"),
    ("engine.name=vllm", "model.checkpoint: engine=vllm needs the folder of a checkpoint"),
    ("engine.name=cosmos", "model.checkpoint: engine=cosmos needs the folder above"),
    (
        "engine.name=cosmos & budget.max_model_len=8192",
        "budget.max_model_len=8192: NVIDIA's class of engine=cosmos hard-codes 4096",
    ),
    ("engine.name=cosmos & budget.max_output_tokens=400", "budget.max_output_tokens=400: NVIDIA's class"),
    ("engine.name=cosmos & sampling.temperature=0.1", "sampling.temperature=0.1: NVIDIA's class"),
    ("engine.name=cosmos & frames.count=4", "frames.count=4: NVIDIA's class of engine=cosmos takes 2 pictures"),
    ("engine.name=cosmos & template.system=x", "has a system message, which NVIDIA's class"),
    ("engine.name=cosmos & image.reference=cosmos", "image.repository: engine=cosmos needs the checkout"),
    ("engine.max_attempts=0", "engine.max_attempts=0: must be 1 to 100"),
    ("engine.item_delay_s=nan", "engine.item_delay_s=nan"),
    ("engine.item_delay_s=-1", "engine.item_delay_s=-1"),
    ("engine.in_flight=-1", "engine.in_flight=-1: must be auto, or a number up to 100000"),
    ("engine.in_flight=many", "engine.in_flight=many"),
    ("engine.start_timeout_s=0", "engine.start_timeout_s=0"),
    ("engine.request_timeout_s=-1", "engine.request_timeout_s=-1"),
    ("sampling.temperature=nan", "sampling.temperature=nan"),
    ("sampling.temperature=inf", "sampling.temperature=inf"),
    ("sampling.temperature=-1", "sampling.temperature=-1"),
    ("hints.workers=-1", "hints.workers=-1"),
    ("model.gpu_memory_utilization=1.5", "model.gpu_memory_utilization=1.5"),
    ("model.max_num_seqs=0", "model.max_num_seqs=0"),
    ("model.tensor_parallel_size=0", "model.tensor_parallel_size=0"),
    ("video.max_duration_s=nan", "video.max_duration_s=nan"),
    ("image.mounts=[data]", "image.mounts: data: must be PATH, SOURCE:TARGET or SOURCE:TARGET:rw"),
    ("image.name=mine", "image.reference: image=mine needs the image's name on the host"),
    ("host.workers=2", "host.gpus=all names no devices for several workers to share"),
    ("checks.script=greek", "checks.script=greek: must be latin or empty"),
    ("model.tokenizer=none.json", "model.tokenizer=none.json: no such file"),
    ("model.family=ask", "model.family=ask: needs what can count here"),
    ("engine.name=llamacpp", "model.gguf: engine=llamacpp needs the path of a GGUF"),
    ("engine.slots=0", "engine.slots=0: must be 1 to 1024"),
    ("model.examples=[{user: a, answer: b}]", "model.examples: family pixtral does not count them"),
    ("model.image_pixels=[2,1]", "model.image_pixels=[2, 1]: must be two areas"),
    ("model.max_pixels=100", "family pixtral has no such limits"),
    ("model.min_pixels=-1", "min_pixels and max_pixels must be areas"),
    ("frames.rule=clip", "frames.rule=clip: family pixtral takes no clips; qwen2_5_vl, qwen3_vl, qwen3_5 do"),
]


@pytest.mark.parametrize(("override", "problem"), WRONG, ids=[override for override, _ in WRONG])
def test_wrong_value_is_rejected_by_name(configure: Configure, override: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        check_config(configure(*override.split(" & "), exact="tokenizer" in override))
    assert problem in str(caught.value)


def test_unknown_aspect_is_rejected_by_name(configure: Configure) -> None:
    config = configure()
    config.aspect = "2:1"
    with pytest.raises(InputError, match="aspect=2:1: must be one of 16:9, 4:3, 1:1, 3:4, 9:16"):
        check_config(config)


def test_all_wrong_values_are_listed_together(configure: Configure) -> None:
    config = configure(
        *["frames.count=9", "frames.fps=0", "upsample.width_px=1", "resolution.name=1", "engine.name=vllm"],
        *["budget.max_output_tokens=0", "budget.max_batch_size=0", "engine.max_attempts=0", "checks.script=x"],
    )
    config.aspect, config.prompts = "2:1", "nowhere"  # the config is checked before the prompts
    with pytest.raises(InputError) as caught:
        resolve(config)
    assert str(caught.value).count("\n  - ") == 11
    assert "nowhere" not in str(caught.value)


@pytest.mark.parametrize(
    "override", ["frames.count=8", "frames.fps=240", "upsample.width_px=16", "budget.max_model_len=400"]
)
def test_value_at_the_edge_works(config_for: ConfigFor, clips: Path, override: str) -> None:
    assert only_item(resolve(config_for(over(clips / "wide.mp4"), override))).hint


def test_relative_checkpoint_cannot_be_mounted(configure: Configure) -> None:
    with pytest.raises(InputError, match="must be an absolute path on the host"):
        check_config(
            configure("image.name=mine", "image.reference=mine:1", "model.checkpoint=models/x", "model.gguf=a.gguf")
        )


def test_gguf_without_eyes_is_rejected(configure: Configure) -> None:
    with pytest.raises(InputError, match=r"model\.mmproj: engine=llamacpp needs the vision part"):
        check_config(configure("engine.name=llamacpp", "model.gguf=/models/a.gguf"))
    check_config(configure("engine.name=llamacpp", "model.gguf=/models/a.gguf", "model.text_only=true", "host=ssh"))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("model.gguf=/no/such.gguf", "/no/such.gguf: there is no such file on this host"),
        (f"model.mmproj={__file__}", "is not a GGUF file"),
        ("model.gguf=package:no_such/a.gguf", "no such package"),
    ],
)
def test_files_of_this_machine_are_checked(configure: Configure, given: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        check_config(configure("engine.name=llamacpp", "model.text_only=true", given))
    other = configure(
        "engine.name=llamacpp", "model.text_only=true", "model.gguf=package:no_such/a.gguf", "worker.python=/x"
    )
    check_config(other)


def test_slurm_starts_no_containers(configure: Configure) -> None:
    with pytest.raises(InputError, match="host=slurm is Slurm, which starts no Docker containers"):
        check_config(configure("host=slurm", "image.name=mine", "image.reference=mine:1"))


def test_too_few_gpus_per_worker_are_rejected(configure: Configure) -> None:
    config = configure("host.workers=2", "model.tensor_parallel_size=2")
    config.host.gpus = "device=0,1"
    with pytest.raises(InputError, match=r"host\.gpus=device=0,1: 1 per worker"):
        check_config(config)
    config.host.gpus = "device=0,1,2,3"
    check_config(config)


# Outputs


@pytest.mark.parametrize("export", ["parquet", "dataset"])
def test_tables_need_pyarrow_before_the_start(
    config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch, export: str
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="pip install pyarrow"):
        resolve(config_for([{"prompt": "x"}], f"output.exports=[{export}]"))
    assert resolve(config_for([{"prompt": "x"}], "output.exports=[openai,cosmos3]")).items


def test_tables_are_never_updated_in_place(configure: Configure, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"prompt": ["a"]}), tmp_path / "x.parquet")
    before = (tmp_path / "x.parquet").read_bytes()
    config = configure("output.specs=in_place")
    config.prompts = str(tmp_path / "x.parquet")
    with pytest.raises(InputError, match="is Parquet, which cannot be updated in place"):
        resolve(config)
    assert (tmp_path / "x.parquet").read_bytes() == before


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("frames=clip", "frames.count=769"), "frames.count=769: must be 2 to 768"),
        (("frames=clip", "frames.count=1"), "frames.count=1: must be 2 to 768"),
        (("frames=clip", "engine.name=cosmos"), "frames.rule=clip: engine=cosmos takes frames only"),
        (("frames=clip", "model.max_pixels=65536"), "model.min_pixels and max_pixels are for images"),
        (("engine.name=cosmos",), "engine=cosmos serves family pixtral only"),
    ],
)
def test_wrong_combination_is_rejected(configure: Configure, overrides: tuple[str, ...], problem: str) -> None:
    with pytest.raises(InputError) as caught:
        check_config(configure("model=qwen3_vl_8b", *overrides, exact=True))
    assert problem in str(caught.value)
