"""What an engine is: the controls, fields and keys that it takes, its command, the lines of its batch. Pure.

Items name controls and keys in any engine's words. `vocabulary` reads them into the words of Cosmos-Transfer1, where it has
one; an `Engine` maps those to its own, and refuses what it has no word for.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Place = Callable[[str], str]  # from a file's path, as an item has it, to what stands in a line; raises ValueError
STRENGTHS = ("very_low", "low", "medium", "high", "very_high")


class CallSettings(Protocol):
    """What a command depends on, of the settings of inference."""

    @property
    def torchrun(self) -> str: ...
    @property
    def num_gpus(self) -> int: ...
    @property
    def script(self) -> str: ...
    @property
    def checkpoint_dir(self) -> str: ...
    @property
    def checkpoint(self) -> str: ...
    @property
    def flags(self) -> tuple[str, ...]: ...
    @property
    def extra_args(self) -> tuple[str, ...]: ...


class Refused(Exception):
    """Why an item cannot go to an engine."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of an engine. name: there, CONTROL.FIELD for one that stands in a control.

    kind: text, flag, number, whole, digits (a number as text), share (a number, maybe as text), weight (that, or a .pt file),
    file, regions, numbers (a list), object. low, high: of numbers. words: the only values. of: the only controls that have it.
    """

    name: str
    kind: str = "text"
    low: float = -math.inf
    high: float = math.inf
    words: tuple[str, ...] = ()
    of: tuple[str, ...] = ()

    def taken(self, value: Any, place: Place) -> Any:
        """The value as the engine takes it. Raises ValueError with what it must be."""
        if self.kind == "weight" and isinstance(value, str) and value.endswith(".pt"):
            return place(value)
        if self.kind in ("number", "whole", "digits", "share", "weight"):
            return self._number(value)
        if self.kind == "regions":
            return [_region(region, place) for region in _list(value)]
        if self.kind == "numbers":
            return [Key(self.name, "number", self.low).taken(number, place) for number in _list(value)]
        if self.kind == "object" and not isinstance(value, dict):
            raise ValueError("must be an object")
        if self.kind == "flag" and not isinstance(value, bool):
            raise ValueError("must be true or false")
        if self.kind == "file":
            if not isinstance(value, str) or not value.strip():
                raise ValueError("must be the path of one file")
            return place(value)
        if self.kind == "text":
            value = str(value) if self.words and isinstance(value, int) and not isinstance(value, bool) else value
            if self.words and value not in self.words:
                raise ValueError(f"must be one of {', '.join(self.words)}")
            if not isinstance(value, str):
                raise ValueError("must be text")
        return value

    def _number(self, value: Any) -> Any:
        number = value
        if self.kind in ("digits", "share", "weight") and isinstance(value, str):
            try:
                number = float(value)
            except ValueError:
                number = None
        if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= sys.float_info.max:
            raise ValueError("must be a number" if self.kind != "whole" else "must be a whole number")
        if self.kind == "whole" and number != int(number):
            raise ValueError("must be a whole number")
        if not self.low <= number <= self.high:
            low, high = (
                f"{bound:.0f}" if bound == round(bound) else f"{bound:g}" for bound in (self.low, min(self.high, 1e18))
            )
            raise ValueError(f"must be {low} {'or more' if math.isinf(self.high) else f'to {high}'}")
        as_taken: dict[str, Any] = {"whole": int(number), "digits": f"{number:g}", "share": float(number)}
        return as_taken.get(self.kind, value)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("must be a list")
    return value


def _region(region: Any, place: Place) -> dict[str, Any]:
    """An object of regional_prompts; what defines its region may be a file."""
    if not isinstance(region, dict) or not isinstance(region.get("prompt"), str):
        raise ValueError("each must be an object with a prompt")
    file = region.get("region_definitions_path")
    return {**region, **({"region_definitions_path": place(file)} if isinstance(file, str) else {})}


def keys(kind: str, *names: str, low: float = -math.inf, high: float = math.inf) -> dict[str, Key]:
    """Keys that have the common name in the engine too."""
    return {name: Key(name, kind, low, high) for name in names}


@dataclass(frozen=True, slots=True)
class Request:
    """An item in an engine's words. clip: "" for none; own: the controls are the item's, not those of the config. overrides:
    fields that differ from `controls`."""

    prompt: str
    clip: str
    controls: Mapping[str, Mapping[str, Any]]
    arguments: Mapping[str, Any]
    own: bool = False
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def whole(self) -> dict[str, dict[str, Any]]:
        """The controls with what overrides them."""
        return {name: {**fields, **self.overrides.get(name, {})} for name, fields in self.controls.items()}


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine.

    controls, fields, keys: common name -> its own. script: what torchrun starts. flags: options of the config that it has,
    and how it spells them. reserved: arguments that the program sets. needs_hub: whether its checkpoints come from the Hugging
    Face hub. from_hub: controls whose videos are made, where an item brings none, by these models from there. piece: frames that
    are made at a time, one of which is the last of the piece before. least_frames: of a clip, for a video to be made of it.
    """

    name: str
    title: str
    controls: Mapping[str, str]
    fields: Mapping[str, Key]
    keys: Mapping[str, Key]
    script: tuple[str, ...]
    flags: Mapping[str, str]
    reserved: tuple[str, ...]
    needs_hub: bool
    from_hub: Mapping[str, tuple[str, ...]]
    piece: int
    problem: Callable[[Request], str]  # why a request of valid values cannot be made; "" when it can
    group: Callable[[Request], dict[str, Any]]  # what requests have in common that share a load of the model
    line: Callable[[Request, str], dict[str, Any]]  # the line of a batch for a request of this name
    argv: Callable[[CallSettings], tuple[str, ...]]  # after the script; {videos}, {spec}, {batch} are the worker's
    least_frames: int = 1

    def command(self, settings: CallSettings) -> tuple[str, ...]:
        """torchrun with a free port of its own, so that two of them can run on one host."""
        script = (settings.script,) if settings.script else self.script
        start = (settings.torchrun, "--standalone", f"--nproc_per_node={settings.num_gpus}")
        return (
            *start,
            *script,
            *self.argv(settings),
            *(self.flags[flag] for flag in settings.flags),
            *settings.extra_args,
        )

    def pieces_of(self, frames: int, arguments: Mapping[str, Any]) -> int:
        """In how many pieces a video of so many frames is made; each takes as long as any other, for the last is filled up."""
        frames = min(frames, int(arguments.get("max_frames") or frames))
        piece = int(arguments.get("num_video_frames_per_chunk") or self.piece)
        return max(1, math.ceil((frames - 1) / max(piece - int(arguments.get("num_conditional_frames") or 1), 1)))
