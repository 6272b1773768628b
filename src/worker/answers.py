"""An answer as it came becomes a prompt: without reasoning, prefaces, offers and quotation marks around it all."""

from __future__ import annotations

import re

from .engines.engine import Answer, ItemFailed

_FLAGS = re.IGNORECASE | re.DOTALL
# What reasoning models write around their thoughts: Qwen, DeepSeek and Cosmos-Reason; Magistral; Kimi; gpt-oss.
_THOUGHTS = (
    re.compile(r"<(think|thinking|thought|reasoning|reflection)>.*?(</\1>|$)", _FLAGS),
    re.compile(r"\[think\].*?(\[/think\]|$)", _FLAGS),
    re.compile(r"◁think▷.*?(◁/think▷|$)", _FLAGS),
    re.compile(r"<\|channel\|>analysis<\|message\|>.*?(<\|channel\|>final<\|message\|>|$)", _FLAGS),
    re.compile(r"^.*?</(think|thinking|thought|reasoning)>", _FLAGS),  # the template opened it
)
_MARKS = re.compile(
    r"</?(?:think|thinking|thought|reasoning|reflection)>|\[/?think\]|◁/?think▷|<\|[a-z]+\|>", re.IGNORECASE
)
_TAGS = re.compile(r"</?(answer|output|response)>|<\|(end|return|im_end|eot_id)\|>", re.IGNORECASE)
_TEXT = r"(?:prompt|version|description|caption|rewrite|text)s?"
_HERE = r"here(?:'s|’s| is| are)\b"
_KIND = (
    r"(?:and|more|most|final|enhanced|upsampled|revised|improved|expanded|rewritten|detailed|refined|new|updated|polished|long|longer|"
    r"vivid|rich|richer|complete|full|comprehensive|optimi[sz]ed|possible|suggested|elaborate|descriptive|cinematic|"
    r"\w+ly|immersive|photorealistic|engaging|dynamic|enriched|requested|original|upgraded|english|video|image|scene|text|generation|single|short|one-paragraph)"
)
_MADE = r"(?:written|made|created|prepared|expanded|rewritten|enhanced|improved|refined|revised|upsampled|(?:carefully )?crafted)"
# A prompt as what an answer is: nothing follows its name but for what it is made of.
_NAMED = (
    r"(?: (?!(?:text|caption|description)s?\b)[\w'’\"“”*,-]+){0,9}? [\"“*]*"
    r"(?:(?<!command )(?<!shell )(?<!terminal )prompt|rewrite|VERSION)s?[*\"”]*"
    r"(?: ?[,(–—-][^:\n]{0,120}| (?:for|based|you|with|that|which|as|in|suitable|optimi[sz]ed|ready|rewritten|written|tailored|"
    r"designed|of (?:your|it|this|about|around|roughly|\d|the (?:prompt|request|original)))\b[^:\n]{0,120})?[*\"”]*:[*\"”]*\s+"
)
_PREFACES = (
    re.compile(
        r"^(?:(?:sure(?: thing)?|certainly|of course|absolutely|got it|understood)\b[!.,:]+\s+"
        # After a comma, the scene may go on: "Great, sweeping dunes".
        rf"|(?:okay|ok|great)\b(?:[!.:]+\s+|,\s+(?:so,?\s+)?(?=(?:i|sure|let me|below|this is)\b|{_HERE}|(?-i:[A-Z\"“*]))))",
        re.IGNORECASE,
    ),
    re.compile(
        rf"^(?:{_HERE}|below is|this is|i(?:'ve|’ve| have))\b[^:\n]{{0,200}}\b{_TEXT}\b[^:\n]{{0,160}}:[ \t]*\n\s*",
        re.IGNORECASE,
    ),
    # On the same line, a scene may hold a text, a caption or a description, too: of these, only where nothing but their kind is
    # named.
    re.compile(rf"^(?:{_HERE}|below is|i(?:'ve|’ve| have)){_NAMED.replace('VERSION', 'version')}", re.IGNORECASE),
    re.compile(rf"^this is{_NAMED.replace('|VERSION', '')}", re.IGNORECASE),
    re.compile(
        rf"^(?:{_HERE}|below is|this is|i(?:'ve|’ve| have)(?: {_MADE})?)(?: (?:the|a|an|your|my|one))?"
        rf"(?: {_KIND},?){{0,5}} {_TEXT}\b[^:\n]{{0,160}}:\s+",
        re.IGNORECASE,
    ),
    re.compile(rf"^(?:{_HERE}|below is)\b[^:\n]{{0,200}}:[ \t]*\n+", re.IGNORECASE),
)
_LABEL = re.compile(
    rf"^[#*_\s]*(?:(?:final|enhanced|upsampled|revised|improved|expanded|rewritten|detailed|refined|new|your|the|video|long)\s+)*"
    rf"(?:{_TEXT}|answer|output)[*_\s]*:[*_]*\s+",
    re.IGNORECASE,
)
# Blanks are matched from the first of a run on, and a line to its end: answers that repeat them a thousand times are checked, too.
_BREAK = r"(?<!\s)(?=[^\S\n]*\n)\s+"  # a run of blanks with a line break in it
_OFFERS = (
    r"(?:please )?(?:let me know|feel free to|i hope (?:this|that|you)|hope this helps|would you like|do you want me|"
    r"if you(?:'d|’d| would) like|if you (?:need|want)|is there anything)\b"
)
_OFFER = re.compile(rf"{_BREAK}{_OFFERS}(?=(?P<line>[^\n]*))(?P=line)\s*$", re.IGNORECASE)
# On the line of the scene, only what is an offer to its end: people in it speak, too, and signs.
_OFFER_INSIDE = re.compile(rf"(?<=[.!?\"”*])\s+(?={_OFFERS})", re.IGNORECASE)
_OFFER_ALONE = re.compile(_OFFERS, re.IGNORECASE)
_SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+")
_SPOKEN = re.compile(
    r"[,.!?] (?:(?:he|she|it|they|one|a|an|the|his|her|their)\b[^,.!?]{0,40} )?"
    r"(?:say|says|said|sing|sings|sang|reply|replies|replied|(?:ask|whisper|shout|call|read|add|murmur|state|promise|announce|warn|"
    r"declare|advise|proclaim|invite|suggest)(?:s|d|ed)?)\b",
    re.IGNORECASE,
)
# How an offer goes on, which may be a mere smile.
_GOES_ON = re.compile(
    r"(?:i(?:'m|’m| am| can|'d|’d| will)|happy to|just|enjoy|thanks?|thank you)\b|[^a-z]*$", re.IGNORECASE
)
LONGEST_OFFER = 300  # characters
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # which a prompt cannot be given on to a program with
_RULE = re.compile(rf"^\s*(?:-{{3,}}|\*{{3,}}|_{{3,}})\s*\n|{_BREAK}(?:-{{3,}}|\*{{3,}}|_{{3,}})\s*$")
MOST_LAYERS = 20  # of what is removed around a prompt, one after another
_QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»", "'": "'", "‘": "’", "`": "`", "「": "」"}


def notes_on_count(answer: Answer, planned: int | None, engine: str) -> tuple[str, ...]:
    """What there is to say of the prompt tokens that an engine counted. Raises ItemFailed where they show that an engine that
    this program started was not sent what was planned; an endpoint may count as its own model does."""
    counted = answer.prompt_tokens
    if engine == "vllm" and counted is None and planned is not None:
        raise ItemFailed("the server reports no usage.prompt_tokens, so the plan cannot be checked")
    if engine == "endpoint" and counted is None:
        return ("unverified: the endpoint reports no token counts",)
    if planned is None or counted is None or planned == counted:
        return ()
    if engine != "endpoint":
        raise ItemFailed(
            f"the engine counted {counted} prompt tokens, the plan {planned}: its input is not what was planned; "
            "another version of vLLM or of its processor would do that"
        )
    return (
        f"the endpoint counted {counted} prompt tokens, the plan {planned}: another model, version or processor "
        "setting behind the address; model.family=ask lets the server count",
    )


def without_thoughts(text: str) -> tuple[str, str, bool]:
    """A text without what the model thought before it, the thoughts, and whether one of them does not end."""
    thoughts, unclosed = list[str](), False
    for pattern in _THOUGHTS:
        for found in pattern.finditer(text):
            thoughts.append(_MARKS.sub("", found[0]).strip())
            unclosed = unclosed or not found[pattern.groups]
        text = pattern.sub("", text)
    return text.strip(), "\n\n".join(filter(None, thoughts)), unclosed


def cleaned(text: str) -> tuple[str, list[str]]:
    """The prompt in an answer, and what was removed around it; JSON, as a template may ask for, stays as it is."""
    removed: dict[str, None] = {}

    def without(kind: str, pattern: re.Pattern[str], text: str, most: int = 0) -> str:
        shorter = pattern.sub("", text, count=most).strip()
        if shorter != text.strip():
            removed[kind] = None
            return shorter
        return text

    text = without("control characters", _CONTROL, text)
    for thought in _THOUGHTS:
        text = without("reasoning", thought, text)
    text = without("tags", _TAGS, text)
    for _ in range(MOST_LAYERS):
        if (before := text).lstrip("`json \n").startswith(("{", "[")):
            break
        for preface in _PREFACES:
            text = without("preface", preface, text, 1)
        text = without("label", _LABEL, text, 1)
        text = without("offer", _OFFER, text, 1)
        if (shorter := _without_offer(text)) != text:
            removed["offer"] = None
            text = shorter
        text = without("rule", _RULE, text)
        if (bare := _unquoted(text.strip())) != text.strip():
            removed["quotation marks"] = None
            text = bare
        if text == before:
            break
    return text, list(removed)


def _without_offer(text: str) -> str:
    """A text without what its last line offers to the reader at its end."""
    start = max(text.rstrip().rfind("\n") + 1, len(text) - LONGEST_OFFER)
    for found in _OFFER_INSIDE.finditer(text, start):
        offer = text[found.end() :].strip()
        _, *others = _SENTENCE_ENDS.split(offer)
        is_one = all(_OFFER_ALONE.match(sentence) or _GOES_ON.match(sentence) for sentence in others)
        in_quotes = offer.count('"') % 2 or offer.count("”") > offer.count("“")
        if is_one and not in_quotes and not _SPOKEN.search(offer):
            return text[: found.start()]
    return text


def _unquoted(text: str) -> str:
    """A text without the marks around all of it; those around its first and its last words are not a pair."""
    for fence in ("```", "**", "__"):
        inner = text[len(fence) : -len(fence)]
        if len(text) > 2 * len(fence) and text.startswith(fence) and text.endswith(fence) and fence not in inner:
            return (re.sub(r"^\w*\n", "", inner) if fence == "```" else inner).strip()
    close = _QUOTES.get(text[:1])
    if close is None or len(text) < 3 or not text.endswith(close):
        return text
    inner = text[1:-1]
    at = inner.find(close)
    # The first such mark inside opens another pair where a blank stands before it; else it closes the first.
    opens = at >= 0 and close == text[0] and (at == 0 or not (inner[at - 1].isalnum() or inner[at - 1] in ".,!?"))
    is_pair = at < 0 or opens
    return inner.strip() if is_pair or (close == "'" and _is_apostrophe(inner, at)) else text


def _is_apostrophe(text: str, at: int) -> bool:
    return 0 < at < len(text) - 1 and text[at - 1].isalpha() and text[at + 1].isalpha()


_CANNOT = r"(?:can(?:no|'|’)t|can not|(?:am|'m|’m) (?:not able|unable)|won(?:'|’)t|(?:must|have to) decline)"
_REGRET = r"(?:(?:i(?:'|’)m|i am) (?:very |so |really )?sorry|sorry|i apologi[sz]e|unfortunately|my apologies)"
_HELP = (
    r"(?:help|assist|comply|fulfil|creat|generat|provid|describ|process|writ|see|view|access|continue|engage|do that)"
)
_REFUSAL = re.compile(
    rf"^{_REGRET}\b[^.\n]{{0,80}}\bi ?{_CANNOT}|^i ?{_CANNOT}\b.{{0,30}}\b{_HELP}|^as an ai\b", re.IGNORECASE
)


def is_refusal(text: str) -> bool:
    """Whether an answer declines to answer."""
    return bool(_REFUSAL.match(text.strip()))
