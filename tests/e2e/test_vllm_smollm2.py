"""The real vLLM on the CPU with real weights: the 135M model that `engine=llamacpp` runs, converted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.program import program, quoted, results_of
from tests.harness.smollm2 import gguf_or_skip, write_checkpoint
from tests.harness.tiny_server import PATIENCE_S

pytestmark = pytest.mark.vllm


def test_vllm_answers_with_real_weights(tmp_path: Path, vllm_python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And as llama.cpp counted before: its template and tokenizer are those of the GGUF."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # one process less to import vLLM
    checkpoint = write_checkpoint(gguf_or_skip(), tmp_path / "model")
    run = tmp_path / "run"
    end = program(
        "model=smollm2_135m", "engine=vllm", f"model.checkpoint={quoted(checkpoint)}", f"worker.python={vllm_python}",
        "model.extra_args=[--enforce-eager]", "budget.max_output_tokens=48", "checks.cut_off=false", "hints.video=false",
        f"hydra.run.dir={quoted(run)}", f"cache_dir={quoted(tmp_path / 'cache')}", timeout_s=PATIENCE_S,
    )  # fmt: skip
    assert end.code == 0, end.err
    rows = results_of(run)
    assert all(row["tokens"]["predicted"] == row["tokens"]["measured"] for row in rows) and len(rows) == 8
    texts = {row["name"]: row["upsampled_prompt"].casefold() for row in rows}
    assert "boat" in texts["sunset_sail"] and "tractor" in texts["tractor_field"]
