"""Checks of an answer that a target asks for, each with a name (`answer_form.CHECKS`) and what it found, in words."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator

from .answer_form import TEXT, AnswerForm
from .answers import is_refusal
from .encoder import Encoder
from .forms import Formed, leaves
from .protocol import Item

# A text that fails one of these can still be used: it is asked for once more, and stands, flagged, where that does not help.
USABLE = ("preface", "quotes", "too_long")
WARNINGS = ("dropped_subject",)
NGRAM, LEAST_NGRAMS, MOST_REPEATED = 6, 12, 0.35  # words in a row; in prose under 0.05 of them come twice
_WORDS = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_QUOTED = re.compile(r'"[^"]*"|“[^“”]*”|「[^「」]*」|«[^«»]*»')
_HAN_OR_KANA = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
# Function words, by which languages of Latin letters are told apart.
_FUNCTION_WORDS = {
    "en": "the and of with is are its to from as at while his her their that this",
    "de": "der die das und mit ist von auf den ein eine im zu sich nicht dem",
    "fr": "le la les et des une est dans avec sur du au pour qui il elle",
    "es": "el los las y una en con del por su que se es al lo como",
    "it": "il gli e una di con che nel della si sono per dei alla è mentre",
    "pt": "o os as e uma com do da em no na que um ao por seu",
    "nl": "de het een en van met is op zijn in te dat aan naar door wordt",
}
_FUNCTION = {language: frozenset(words.split()) for language, words in _FUNCTION_WORDS.items()}
_LEAST_WORDS = 20  # fewer do not tell a language
_FUNCTIONAL = (
    "a an the and or but of in on at to by with from into over under near for as is are was were be been its it his her their "
    "this that these those one two three some many very slowly quickly while then up down out off through across along around "
    "behind before after between above below toward towards like not no video clip shot scene footage"
)
_NO_NOUNS = frozenset(_FUNCTIONAL.split())
_NOT_A_NOUN = re.compile(r"(?:ing|ed|ly)$")


def failed_checks(found: Formed, item: Item, form: AnswerForm, encoder: Encoder) -> Iterator[tuple[str, str]]:
    """The checks that an answer fails, those first that make it unusable: their names and what they found."""
    said = " ".join(_strings(found.text, form))
    of_any = ("think", "refusal")  # the rest is asked of a prompt, which an invalid answer is not
    checks: tuple[tuple[str, Callable[[], str | None]], ...] = (
        ("think", lambda: "its thoughts do not end" if found.unclosed else None),
        ("refusal", lambda: "the model declines" if is_refusal(found.text) else None),
        ("loop", lambda: _loop(found.text, form)),
        ("language", lambda: other_language(said, item.language or form.language)),
        *((name, lambda: "removed") for name in found.surrounding()),
        ("too_long", lambda: encoder.too_long(found.text)),
        ("dropped_subject", lambda: ", ".join(dropped_nouns(item.prompt, said))),
    )
    for name, check in checks:
        if name in form.checks and (name in of_any or not found.invalid) and (detail := check()):
            yield name, detail


def _strings(text: str, form: AnswerForm) -> Iterator[str]:
    """The text, or the texts in a JSON answer."""
    if form.form == TEXT:
        yield text
        return
    try:
        yield from leaves(json.loads(text))
    except (ValueError, RecursionError):
        yield text


def _loop(text: str, form: AnswerForm) -> str:
    return next((f"“{again[:60]}” comes again and again" for t in _strings(text, form) if (again := repeated(t))), "")


def repeated(text: str) -> str:
    """The most frequent run of words of a text that repeats itself; "" for one that does not."""
    words = [*_HAN_OR_KANA.findall(text)] if is_asian(text) else _WORDS.findall(text.casefold())
    runs = Counter(tuple(words[n : n + NGRAM]) for n in range(len(words) - NGRAM + 1))
    total = sum(runs.values())
    if total < LEAST_NGRAMS or 1 - len(runs) / total <= MOST_REPEATED:
        return ""
    return " ".join(runs.most_common(1)[0][0])


def is_asian(text: str) -> bool:
    if text.isascii():  # as most are
        return False
    letters = [c for c in text if c.isalpha()]
    return bool(letters) and len(_HAN_OR_KANA.findall(text)) > 0.4 * len(letters)


def other_language(text: str, wanted: str) -> str:
    """In which other language or script a text is, where one is wanted; what it quotes may be in any."""
    if not wanted:
        return ""
    text = _QUOTED.sub("", text)
    letters = [c for c in text if c.isalpha()]
    if not letters:
        return ""
    if wanted == "zh":
        return "" if is_asian(text) else "it is not in Chinese"
    if not text.isascii() and sum(unicodedata.name(c, "").startswith("LATIN") for c in letters) < 0.7 * len(letters):
        return "it is not in Latin letters"
    words = [word.casefold() for word in _WORDS.findall(text)]
    counts = {language: sum(word in known for word in words) for language, known in _FUNCTION.items()}
    best = max(counts, key=lambda language: counts[language])
    is_other = len(words) >= _LEAST_WORDS and counts[best] > 1.5 * counts[wanted]
    return f"it reads as {best}, not {wanted}" if is_other else ""


def dropped_nouns(prompt: str, text: str) -> list[str]:
    """Nouns of a short prompt in Latin letters that a longer text does not hold: the last word of each run of words that are
    neither function words nor, by their ending, verbs or adverbs."""
    if is_asian(text) != is_asian(prompt):
        return []
    known, nouns, run = text.casefold(), dict[str, None](), list[str]()
    words = re.findall(r"[a-zà-ɏ]+|[^\sa-zà-ɏ]", prompt.casefold())
    for word in (*words, "."):
        if not word.isalpha() or word in _NO_NOUNS or _NOT_A_NOUN.search(word) or _is_verb(word, run):
            nouns.update(dict.fromkeys(run[-1:]))
            run = []
        elif len(word) > 2:
            run.append(word)
    return [noun for noun in nouns if _stem(noun) not in known]


def _is_verb(word: str, run: list[str]) -> bool:
    return bool(run) and word.endswith("s") and not word.endswith("ss") and not run[-1].endswith("s")


def _stem(noun: str) -> str:
    for ending, most in (("ies", 3), ("es", 2), ("s", 1), ("y", 1)):
        if noun.endswith(ending) and len(noun) - most >= 3 and not noun.endswith("ss"):
            return noun[:-most]
    return noun
