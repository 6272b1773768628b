"""Engine `cosmos`, with a stand-in for NVIDIA's package: the same names and signature, no model."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from src.worker.engines import cosmos as cosmos_module
from src.worker.engines.cosmos import CosmosEngine
from src.worker.engines.engine import ItemFailed, Refused, Request
from src.worker.engines.vllm_server import vllm_environment
from src.worker.lifecycle import LoadFailed
from tests.harness.records import JOB, MODEL, item

STAND_IN = '''
"""A stand-in for NVIDIA's package."""
import os
assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn", "the environment must be set before the import"

class Model:
    """As much of vLLM's LLM as the class uses."""
    finish_reason, token_ids, prompt_token_ids = "length", [1] * 300, [1] * 500

    def chat(self, messages, sampling_params=None):
        self.outputs, self.text = [self], messages[0]
        return [self]

class PixtralPromptUpsampler:
    def __init__(self, checkpoint_dir, offload_prompt_upsampler=False):
        self.checkpoint_dir, self.offload_prompt_upsampler = checkpoint_dir, offload_prompt_upsampler
        self.unloaded = 0
        if not offload_prompt_upsampler:
            self._load_upsampler_model()

    def _load_upsampler_model(self):
        self.upsampler_model = Model()

    def _offload_upsampler_model(self):
        self.unloaded += 1

    def _prompt_upsample_with_offload(self, prompt, video_path):
        if "huge" in prompt and not self.offload_prompt_upsampler:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if "4687" in prompt:
            raise ValueError("Prompt length of 4687 is longer than the maximum model length of 4096.")
        if "quits" in prompt:
            raise SystemExit(3)
        assert isinstance(video_path, list), "a path would be read with its own frames"
        if self.offload_prompt_upsampler:
            self._load_upsampler_model()
        text = f"{prompt} at length, from {len(video_path)} frames of {self.checkpoint_dir}"
        return self.upsampler_model.chat([text], sampling_params=None)[0].outputs[0].text
'''


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CosmosEngine:
    """The engine, not loaded; NVIDIA's package is importable."""
    package = tmp_path / "packages" / "cosmos_transfer1" / "auxiliary" / "upsampler" / "model"
    package.mkdir(parents=True)
    (package / "upsampler.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    for name in [m for m in sys.modules if m.startswith("cosmos_transfer1")]:
        monkeypatch.delitem(sys.modules, name)
    for name in vllm_environment():
        if name.startswith(("VLLM_", "HF_HUB_", "TORCHELASTIC_")):
            monkeypatch.setenv(name, "restored after the test")
            monkeypatch.delenv(name)
    monkeypatch.setattr(cosmos_module, "vllm_build", lambda: ("0.8.1", False))
    return CosmosEngine(replace(JOB, model=replace(MODEL, checkpoint="/ckpt")), tmp_path)


def load(engine: CosmosEngine) -> CosmosEngine:
    engine.load(lambda name, **facts: None)
    return engine


def request(**fields: object) -> Request:
    return Request(item("a", **fields), (), 1, 20)


def test_frames_are_passed_as_a_list(engine: CosmosEngine) -> None:
    answer = load(engine).answer(request(text="a boat", frames=("frames/1.png", "frames/2.png")))
    assert answer.text == "a boat at length, from 2 frames of /ckpt"


@pytest.mark.parametrize("offload", [False, True])
def test_tokens_and_finish_are_those_of_the_model(engine: CosmosEngine, offload: bool) -> None:
    """The class hides that an answer was cut off."""
    engine.job = replace(engine.job, engine=replace(engine.job.engine, offload=offload))
    load(engine)
    for _ in range(2):
        answer = engine.answer(request(text="a boat"))
        assert (answer.finish_reason, answer.prompt_tokens, answer.output_tokens) == ("length", 500, 300)


def test_long_prompt_is_refused(engine: CosmosEngine) -> None:
    with pytest.raises(Refused, match="4687") as error:
        load(engine).answer(request(text="4687"))
    assert (error.value.prompt_tokens, error.value.limit) == (4687, 4096)


def test_model_is_offloaded_when_memory_runs_out(engine: CosmosEngine) -> None:
    load(engine)
    for _ in range(2):
        assert engine.answer(request(text="a huge boat")).text.startswith("a huge boat at length")
    assert engine.fallbacks == ["offload=True"]
    assert engine._upsampler.unloaded == 1


def test_other_errors_fail_the_item(engine: CosmosEngine) -> None:
    load(engine)
    with pytest.raises(ItemFailed, match="NVIDIA's upsampler: SystemExit: 3"):
        engine.answer(request(text="a boat that quits"))
    load(engine)._upsampler = None
    with pytest.raises(ItemFailed, match="NVIDIA's upsampler: AttributeError"):
        engine.answer(request())


def test_missing_package_fails_loading(engine: CosmosEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cosmos_transfer1", None)
    with pytest.raises(LoadFailed, match="cannot import NVIDIA's upsampler"):
        load(engine)
