"""The vision part of a model, small and random, for llama.cpp: a Pixtral encoder of one layer in front of SmolLM2's weights.

Names and fields: `tools/mtmd/clip.cpp` and `clip-impl.h` of llama.cpp.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from tests.harness.smollm2 import read_gguf

WIDTH, INNER, PATCH_PX, MERGED = 32, 64, 16, 2
NEUTRAL = "Ġpicture"  # each part of a picture is near this token, so that what follows remains English
SPREAD = 0.1  # of the random weights: enough that a red picture is answered in other words than a blue one


def write_mmproj(file: Path, language_model: Path, projector: str = "pixtral", seed: int = 0) -> Path:
    """Write the part that belongs to a GGUF. projector: the kind that it says it is."""
    fields, tensors = read_gguf(language_model)
    words = tensors["token_embd.weight"]()
    neutral = words[fields["tokenizer.ggml.tokens"].index(NEUTRAL)]
    out = words.shape[1]
    square = {f"v.blk.0.attn_{part}.weight": (WIDTH, WIDTH) for part in ("q", "k", "v", "out")}
    shapes = {
        "v.patch_embd.weight": (WIDTH, 3, PATCH_PX, PATCH_PX), "v.pre_ln.weight": (WIDTH,), **square,
        "v.blk.0.ln1.weight": (WIDTH,), "v.blk.0.ln2.weight": (WIDTH,), "v.blk.0.ffn_up.weight": (INNER, WIDTH),
        "v.blk.0.ffn_gate.weight": (INNER, WIDTH), "v.blk.0.ffn_down.weight": (WIDTH, INNER), "mm.input_norm.weight": (WIDTH,),
        "mm.patch_merger.weight": (WIDTH, WIDTH * MERGED**2), "mm.1.weight": (out, WIDTH), "mm.2.weight": (out, out),
    }  # fmt: skip
    chance = np.random.default_rng(seed)
    writer = GGUFWriter(file, "clip")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(projector)
    writer.add_vision_image_size(512)  # the longest side
    writer.add_vision_patch_size(PATCH_PX)
    writer.add_vision_spatial_merge_size(MERGED)
    writer.add_vision_embedding_length(WIDTH)
    writer.add_vision_feed_forward_length(INNER)
    writer.add_vision_block_count(1)
    writer.add_vision_head_count(2)
    writer.add_vision_projection_dim(out)
    writer.add_vision_attention_layernorm_eps(1e-5)
    writer.add_vision_use_silu(True)
    writer.add_vision_image_mean([0.5] * 3)
    writer.add_vision_image_std([0.5] * 3)
    for name, shape in shapes.items():
        writer.add_tensor(name, (SPREAD * chance.standard_normal(shape)).astype(np.float32))
    writer.add_tensor("mm.2.bias", neutral)
    writer.add_tensor("v.token_embd.img_break", neutral)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
