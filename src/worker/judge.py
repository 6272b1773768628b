"""Whether an answer is taken, and how the next one is asked for where it is not."""

from __future__ import annotations

from dataclasses import replace

from .answers import notes_on_count
from .checks import CUT_OFF, SeenAnswers, failed_check
from .encoder import Encoder
from .engines.engine import Answer, Request
from .forms import Formed, formed
from .protocol import UPSAMPLED, Attempt, UpsampleJob
from .text_checks import USABLE, WARNINGS, failed_checks
from .work import Work

INVALID = "invalid"
CORRECTION_TOKENS = 200  # of the message that says what is wrong, and of the template around two more turns
CORRECTIONS = {
    INVALID: "That answer cannot be used: {wrong}. Answer again: the whole of it, corrected, and nothing else.",
    "too_long": "That is too long: {wrong}. Shorten it well below the limit. Keep the subject, the action and their order, and "
    "drop the least important detail. Answer with the shorter text alone, in the same form.",
}


class Judge:
    """Judges the answers of one job. seen: which item gave which text."""

    def __init__(self, job: UpsampleJob, seen: SeenAnswers) -> None:
        self._job, self._seen, self._encoder = job, seen, Encoder.of(job.answer)

    def is_last(self, work: Work, request: Request, answer: Answer, engine: str) -> bool:
        """Write an answer down in its work; whether it was the last one to ask for. Raises ItemFailed where it shows that
        the engine was sent something else than planned."""
        item = work.item
        work.answer = work.raw = answer  # as it came, also where its count shows that it must fail
        notes = notes_on_count(answer, None if request.turns else item.predicted, engine)
        found = formed(answer, self._job.answer, item.pins)
        removed = (f"removed from the answer: {', '.join(found.removed)}",) if found.removed else ()
        work.formed, work.notes = found, (*removed, *notes, answer.note)
        work.answer = replace(answer, text=found.text)
        wrong, check, work.flags = self._wrong_with(work, found, work.answer)
        work.attempts.append(Attempt(request.seed, request.max_tokens, wrong))
        if wrong is None or (check in USABLE and check in work.asked_for):
            work.state, work.reason = UPSAMPLED, ""
            return True
        n = len(work.attempts)
        work.reason = f"{wrong}, {n} time{'s' if n > 1 else ''}"
        if check in USABLE:
            work.usable, work.usable_at = (work.answer, work.raw, found, work.flags), n - 1
        work.asked_for.add(check)
        if answer.finish_reason == "length" and item.predicted:  # a larger reserve, where the budget has room
            work.max_tokens = min(2 * work.max_tokens, self._job.max_model_len - item.predicted, work.longest)
        return not self._may_correct(work, check, wrong, answer)

    def _wrong_with(self, work: Work, found: Formed, answer: Answer) -> tuple[str | None, str, tuple[str, ...]]:
        """Why an answer is not taken as it is, None when it is; the check that it fails, by name; and all that it fails."""
        item = work.item
        failed = [*failed_checks(found, item, self._job.answer, self._encoder)]
        flags = tuple(f"{name}: {detail}" for name, detail in failed)
        hard = next(((name, detail) for name, detail in failed if name not in (*USABLE, *WARNINGS)), None)
        if hard:
            return ": ".join(hard), hard[0], flags
        if found.invalid:
            is_cut = answer.finish_reason == "length"
            return (CUT_OFF, "", flags) if is_cut else (f"invalid: {found.invalid}", INVALID, flags)
        wrong = failed_check(answer, item, self._job.checks)
        wrong = wrong or self._seen.failed_check(answer.text, item.id, item.input_hash)
        if wrong:
            return wrong, "", flags
        soft = next((f for f in failed if f[0] in USABLE and f[0] not in work.asked_for), None) or next(
            (f for f in failed if f[0] in USABLE), None
        )
        return (": ".join(soft), soft[0], flags) if soft else (None, "", flags)

    def _may_correct(self, work: Work, check: str, wrong: str, answer: Answer) -> bool:
        """Whether to continue; an answer that is invalid or too long goes back to the model, with what is wrong with it, where
        the context has room for both."""
        work.turns, work.room = (), 0
        if check not in (INVALID, "too_long"):
            return True
        if check == INVALID:
            if work.repairs == self._job.answer.max_repairs:
                return False
            work.repairs += 1
        room = self._job.max_model_len - (answer.prompt_tokens or 0) - (answer.output_tokens or 0) - CORRECTION_TOKENS
        room = min(work.max_tokens, room)
        if answer.prompt_tokens is None or room > (answer.output_tokens or 0):
            work.room = room if answer.prompt_tokens is not None else 0
            correction = CORRECTIONS[check].format(wrong=wrong.partition(": ")[2])
            work.turns = (("assistant", answer.text), ("user", correction))
        return True
