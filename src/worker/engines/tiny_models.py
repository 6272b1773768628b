"""Checkpoints without weights, for trying the whole way on a CPU."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

from ..lifecycle import LoadFailed

# Pixtral's own shape, made small: what counts tokens and refuses prompts is as in the real model, the words are noise.
TINY_PIXTRAL = {
    "dim": 64, "n_layers": 2, "head_dim": 32, "hidden_dim": 128, "n_heads": 2, "n_kv_heads": 1,
    "norm_eps": 1e-5, "vocab_size": 131072, "rope_theta": 1e9, "max_position_embeddings": 131072,
    "vision_encoder": {
        "hidden_size": 64, "num_channels": 3, "image_size": 1024, "patch_size": 16, "rope_theta": 1e4,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_token_id": 10, "image_break_token_id": 12, "image_end_token_id": 13, "adapter_bias": True,
    },
}  # fmt: skip


def make_tiny_pixtral(folder: Path) -> Path:
    """A checkpoint folder without weights: shape and tokenizer, for `--load-format dummy`."""
    spec = importlib.util.find_spec("mistral_common")
    if spec is None or spec.origin is None:
        raise LoadFailed(f"{sys.executable} has no mistral_common, which holds the tokenizer of the tiny model")
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(TINY_PIXTRAL))
    tokenizer = (Path(spec.origin).parent / "data" / "tekken_240911.json").read_bytes()
    (folder / "tekken.json").write_bytes(tokenizer)
    return folder
