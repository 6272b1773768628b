"""The programs of NVIDIA that make videos: what each takes, how it is called, how many frames it makes at a time."""

from __future__ import annotations

from collections.abc import Mapping

from . import cosmos3, transfer1, transfer2_5
from .engine import Engine

ENGINES: Mapping[str, Engine] = {
    engine.name: engine for engine in (transfer1.ENGINE, transfer2_5.ENGINE, cosmos3.ENGINE)
}
