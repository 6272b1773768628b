"""Checkpoints without weights, for trying the whole way on a CPU: what counts tokens and refuses prompts is as in the real
models, the words are noise."""

from __future__ import annotations

import base64
import importlib
import importlib.util
import json
import sys
import zlib
from pathlib import Path
from typing import Any

from ..lifecycle import LoadFailed
from ..protocol import UpsampleJob
from .tiny_qwen import make_tiny_qwen

# Pixtral's own shape, made small.
TINY_PIXTRAL: dict[str, Any] = {
    "dim": 64, "n_layers": 2, "head_dim": 32, "hidden_dim": 128, "n_heads": 2, "n_kv_heads": 1,
    "norm_eps": 1e-5, "vocab_size": 131072, "rope_theta": 1e9, "max_position_embeddings": 131072,
    "vision_encoder": {
        "hidden_size": 64, "num_channels": 3, "image_size": 1024, "patch_size": 16, "rope_theta": 1e4,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_token_id": 10, "image_break_token_id": 12, "image_end_token_id": 13, "adapter_bias": True,
    },
}  # fmt: skip
# What Mistral Small 3.1 has in its place: patches of 14 px, merged 2 by 2.
_SMALL_ENCODER = {
    "image_size": 1540, "max_image_size": 1540, "patch_size": 14, "spatial_merge_size": 2, "adapter_bias": False,
    "mm_projector_id": "patch_merge", "add_pre_mm_projector_layer_norm": True,
}  # fmt: skip
_SMALL_IMAGE = {"image_patch_size": 14, "max_image_size": 1540, "spatial_merge_size": 2}


def make_tiny_model(job: UpsampleJob, folder: Path) -> Path:
    """A checkpoint folder without weights for the job's family: shape and tokenizer, for `--load-format dummy`."""
    family = job.model.tiny_family or job.model.family
    if family == "pixtral":
        return make_tiny_pixtral(folder)
    if family == "mistral":
        return make_tiny_mistral(folder)
    folder.mkdir(exist_ok=True)
    return make_tiny_qwen(family, zlib.decompress(base64.b64decode(job.tokenizer)), folder)


def make_tiny_pixtral(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(TINY_PIXTRAL))
    (folder / "tekken.json").write_bytes(_tekken())
    return folder


def make_tiny_mistral(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    encoder = TINY_PIXTRAL["vision_encoder"] | _SMALL_ENCODER
    (folder / "params.json").write_text(json.dumps(TINY_PIXTRAL | {"vision_encoder": encoder}))
    tekken = json.loads(_tekken())
    tekken.pop("multimodal", None)
    tekken["config"]["version"] = "v7"
    tekken["image"] = _SMALL_IMAGE
    tokens = importlib.import_module("mistral_common.tokens.tokenizers.base").SpecialTokens
    old = importlib.import_module("mistral_common.tokens.tokenizers.tekken").Tekkenizer.DEPRECATED_SPECIAL_TOKENS
    names = dict.fromkeys([token["token_str"] for token in old] + [token.value for token in tokens])
    tekken["special_tokens"] = [
        {"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)
    ]
    (folder / "tekken.json").write_text(json.dumps(tekken))
    return folder


def _tekken() -> bytes:
    """The tokenizer inside mistral-common, which every vLLM brings along."""
    spec = importlib.util.find_spec("mistral_common")
    if spec is None or spec.origin is None:
        raise LoadFailed(f"{sys.executable} has no mistral_common, which holds the tokenizer of the tiny model")
    return (Path(spec.origin).parent / "data" / "tekken_240911.json").read_bytes()
