"""The engine and the model of a job, as config and job.json have them; a part of the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .values import Url, Variable


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Where answers come from; field by field as in the config group `engine`. Holds no secret, only where one is.

    in_flight: AUTO, or how many requests. slots, threads, gpu_layers: of llama.cpp's server; 0 threads: one per core, -1
    layers: as many as fit.
    """

    name: str
    max_attempts: int
    in_flight: int
    item_delay_s: float
    base_url: Url
    api_key_env: Variable
    api_key_file: str
    start_timeout_s: float
    request_timeout_s: float
    grace_s: float
    time_limit_s: float
    offload: bool
    patience_s: float = 600.0
    slots: int = 4
    threads: int = 0
    gpu_layers: int = -1
    more_urls: tuple[Url, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """A turn of the conversation before a request: what was asked, and an answer of the wanted kind."""

    user: str
    answer: str


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The checkpoint and how the engine loads it; field by field as in the config group `model`.

    token_px, max_side_px: edge of the square of pixels that becomes one token, and longest side that is seen, where the
    checkpoint says so; 0: those of its family. opening: tokens that its template puts before the answer, beyond those of its
    family. cap_source: how cap_pixels_per_frame was decided.
    text_only: it is sent no frames, but what was measured in them, in words.
    """

    name: str
    checkpoint: str
    tiny_random: bool
    tokenizer: str
    max_images: int
    dtype: str
    load_format: str
    gpu_memory_utilization: float
    max_num_seqs: int
    tensor_parallel_size: int
    data_parallel_size: int
    prefix_caching: bool
    extra_args: tuple[str, ...]
    family: str = "pixtral"
    tiny_family: str = ""
    image_pixels: tuple[int, ...] = ()
    video_pixels: tuple[int, ...] = ()
    min_pixels: int = 0
    max_pixels: int = 0
    cap_pixels_per_frame: bool | None = None
    thinking: bool = True
    gpu_memory_gib: float = 0.0
    token_px: int = 0
    max_side_px: int = 0
    cap_source: str = ""
    gguf: str = ""
    mmproj: str = ""
    text_only: bool = False
    examples: tuple[Example, ...] = ()
    opening: int = 0

    @property
    def is_mistral(self) -> bool:
        """Whether the checkpoint is in Mistral's own format."""
        return (self.tiny_family or self.family) in ("pixtral", "mistral")

    @property
    def takes_clips(self) -> bool:
        """Whether the server counts videos among what a prompt may hold."""
        return (self.tiny_family or self.family).startswith("qwen")

    @property
    def has_state(self) -> bool:
        """Whether layers keep a state from piece to piece of a prompt, for which vLLM wants to cut prompts."""
        return (self.tiny_family or self.family) == "qwen3_5"

    @property
    def request_fields(self) -> Mapping[str, Any]:
        """What every request says about the model beside its name."""
        return {} if self.thinking else {"chat_template_kwargs": {"enable_thinking": False}}
