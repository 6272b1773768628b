"""What makes an answer unusable."""

from __future__ import annotations

import hashlib
import threading
import unicodedata

from .answers import is_refusal
from .engines.engine import Answer
from .protocol import Checks, Item
from .values import says_nothing

CUT_OFF = "cut off at the token limit"


def failed_check(answer: Answer, item: Item, checks: Checks) -> str | None:
    """The check that an answer fails by itself; None when it passes all."""
    text = " ".join(answer.text.split()).casefold()
    prompt = " ".join(item.prompt.split()).casefold()
    if says_nothing(text):
        return "empty answer"
    if checks.cut_off and answer.finish_reason == "length":
        return CUT_OFF
    if answer.finish_reason == "content_filter":
        return "cut off by the server's content filter"
    if prompt and (text == prompt or (text in prompt and len(text) > 20)):
        return "echo of the prompt"
    if is_refusal(answer.text):
        return "refusal"
    if checks.script == "latin":
        letters = [c for c in text if c.isalpha()]
        latin = sum(unicodedata.name(c, "").startswith("LATIN") for c in letters)
        if letters and latin < 0.7 * len(letters):
            return "not in latin script"
    return None


class SeenAnswers:
    """Which item first gave which text, and for which input; 32 bytes per text, so that it stays small over a large batch."""

    def __init__(self) -> None:
        self._first: dict[bytes, tuple[str, str]] = {}
        self._mutex = threading.Lock()

    def failed_check(self, text: str, item_id: str, input_hash: str) -> str | None:
        """The check that fails when another item gave this text before for another input; None for a new text.

        Two files of the same pictures and the same words are two items, and may well have one answer.
        """
        key = hashlib.blake2b(" ".join(text.split()).encode("utf-8", "replace"), digest_size=16).digest()
        with self._mutex:
            owner, input_of_owner = self._first.setdefault(key, (item_id, input_hash))
        if owner == item_id or input_hash == input_of_owner:
            return None
        return f"same answer as item {owner}, which has other input"
