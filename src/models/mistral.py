"""Mistral Small 3.x and Ministral 3: Pixtral's rule for images with merged patches, and a template with a system role.

Version 7 and later of Mistral's templates: `<s>[SYSTEM_PROMPT]system[/SYSTEM_PROMPT][INST] images text [/INST]`.
"""

from __future__ import annotations

from dataclasses import dataclass

from .pixtral import Pixtral

TOKEN_PX = 28  # patches of 14 px, merged 2 by 2 (params.json of Mistral-Small-3.1-24B)
MAX_SIDE_PX = 1540


@dataclass(frozen=True, slots=True)
class Mistral(Pixtral):
    token_px: int = TOKEN_PX
    max_side_px: int = MAX_SIDE_PX

    def wrapper_tokens(self, system: str) -> int:
        return 5 if system else 3

    def text_tokens(self, system: str, text: str, *, with_media: bool) -> int:
        return (self.count(system) if system else 0) + self.count(text)
