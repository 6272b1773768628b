"""What all rows of a run come to, added up while they are written."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field

from ..timing.run_facts import TokenTotals
from ..worker.protocol import UPSAMPLED, Outcome
from .reviews import REJECTED
from .rows import Row


@dataclass(slots=True)
class Totals:
    """Counts by state; by state before a review; by state and reason, of what was not upsampled; by engine, verdict and flag.

    is_offline: whether any is of the engine that stands in for a model. seconds: of each answer.
    """

    states: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    engines: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    is_offline: bool = False
    seconds: array[float] = field(default_factory=lambda: array("d"))
    tokens: TokenTotals = field(default_factory=TokenTotals)
    output_tokens: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether every item was upsampled, whatever a reviewer thought of it."""
        return self.states.total() == self.states[UPSAMPLED] + self.verdicts[REJECTED]

    def add(self, row: Row, outcome: Outcome | None = None) -> Row:
        """Add a row, and give it back. outcome: what it was made of, where that is at hand."""
        self.states[row["state"]] += 1
        self.ended[outcome.state if outcome else row["state"]] += 1
        if row["state"] != UPSAMPLED:
            self.reasons[row["state"], row["reason"]] += 1
        if outcome and outcome.engine.name:
            self.engines[f"{outcome.engine.name} {outcome.engine.version}"] += 1
        self.flags.update(row["flags"])
        self.is_offline = self.is_offline or row["engine"] == "offline"
        if review := row.get("review"):
            self.verdicts[review["verdict"]] += 1
        if row["attempts"] and (seconds := row["seconds"]) is not None:
            self.seconds.append(seconds)
        self.output_tokens += row["tokens"]["output"] or 0
        self.tokens.add(row["tokens"]["predicted"], row["tokens"]["measured"])
        return row
