"""An item on its way: what the attempts at it have come to, and the outcome that this makes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from .engines.engine import Answer, Engine, Picture
from .forms import Formed
from .protocol import KEPT, UPSAMPLED, Attempt, EngineUsed, Item, Outcome, Seconds, SentFrame, TokenCounts

LONGEST = 1 << 40


@dataclass
class Work:
    """An item, and what the attempts at it have come to.

    failures: of TRIES; answers_before: those to all items at the last of them, broke: whether that broke the connection.
    counted: prompt tokens, limit: of a request, where a refusal names them; longest: answer that the server has room for, as
    far as that is known. raw: the answer as it came, flags: the checks that it fails. turns: of the next request, room: for
    its answer, where that is less than max_tokens. asked_for: checks that have led to another request. usable: an answer that
    fails such a check and could stand, usable_at: of which attempt; used: of which attempt the text is, where that is not the
    last.
    """

    item: Item
    max_tokens: int
    started: float = 0.0
    failures: int = 0
    answers_before: int = -1
    broke: bool = False
    pictures: tuple[Picture, ...] | None = None
    attempts: list[Attempt] = field(default_factory=list)
    answer: Answer | None = None
    state: str = KEPT
    reason: str = ""
    refusal: str = ""
    counted: int | None = None
    limit: int | None = None
    longest: int = LONGEST
    notes: tuple[str, ...] = ()
    raw: Answer | None = None
    formed: Formed | None = None
    flags: tuple[str, ...] = ()
    turns: tuple[tuple[str, str], ...] = ()
    room: int = 0
    repairs: int = 0
    asked_for: set[str] = field(default_factory=set)
    usable: tuple[Answer, Answer, Formed, tuple[str, ...]] | None = None
    usable_at: int = 0
    used: int | None = None

    def keep_usable(self) -> None:
        """After the last attempt: an answer that could stand does, where what came after it was worse."""
        if self.state != UPSAMPLED and self.usable:
            self.answer, self.raw, self.formed, self.flags = self.usable
            self.state, self.reason, self.used = UPSAMPLED, "", self.usable_at


def outcome_of(work: Work, engine: Engine, total_s: float) -> Outcome:
    item, answer = work.item, work.answer
    measured = answer.prompt_tokens if answer else work.counted
    is_text = answer is not None and work.state == UPSAMPLED
    return Outcome(
        id=item.id,
        state=work.state,
        reason=work.reason,
        text=answer.text if answer and is_text else None,
        note="; ".join(note for note in (item.note, *work.notes) if note),
        attempts=tuple(work.attempts),
        engine=EngineUsed(engine.name, engine.version, tuple(engine.fallbacks)),
        tokens=TokenCounts(item.predicted, measured, answer.output_tokens if answer else None),
        finish_reason=answer.finish_reason if answer else None,
        frames=tuple(SentFrame(p.sha256, len(p.data), p.size) for p in work.pictures or ()),
        seconds=Seconds(total_s, answer.first_token_s if answer else None, answer.queue_s if answer else None),
        refusal=work.refusal,
        limit=work.limit,
        rejected=answer.text if answer and work.state == KEPT else None,
        step=item.step,
        input_hash=item.input_hash,
        raw=work.raw.text if answer and work.raw and work.raw.text != answer.text else None,
        reasoning=work.formed.reasoning or None if work.formed else None,
        negative=work.formed.negative if work.formed and is_text else None,
        flags=work.flags if is_text else (),
        at=round(time.time(), 3),
        used=work.used,
    )
