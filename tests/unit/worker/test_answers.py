"""Answers of real models around the prompt that was asked for."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.worker.answer_form import CHECKS, JSON, TAGGED, AnswerForm
from src.worker.answers import cleaned, is_refusal, notes_on_count
from src.worker.encoder import Encoder
from src.worker.engines.engine import Answer, ItemFailed
from src.worker.forms import formed
from src.worker.text_checks import failed_checks
from tests.harness.records import item

PROMPT = 'A red car stops at a sign that says "STOP". Dust hangs in low sunlight; the camera follows.'


@pytest.mark.parametrize(
    "answer",
    [
        f"<think>\nThe user wants more. A <b> tag.\n</think>\n\n{PROMPT}",
        f"The user wants more light.\n</think>\n{PROMPT}",
        f"<thinking>a</thinking><answer>{PROMPT}</answer>",
        f"[THINK]hm[/THINK]{PROMPT}",
        f"◁think▷hm◁/think▷{PROMPT}",
        f"<|channel|>analysis<|message|>hm<|end|><|channel|>final<|message|>{PROMPT}<|return|>",
    ],
)
def test_reasoning_is_removed(answer: str) -> None:
    assert cleaned(answer)[0] == PROMPT


@pytest.mark.parametrize(
    "answer",
    [
        f'Sure! Here is an enhanced version of your prompt:\n\n**Enhanced prompt:** "{PROMPT}"\n\nLet me know if you like it!',
        f"Certainly! Here's the upsampled video description: {PROMPT}",
        f"Here is a more detailed version:\n{PROMPT}\n\nI hope this helps! Feel free to ask for changes.",
        f"Of course, {PROMPT}",
        f"**Prompt:** {PROMPT}",
        f"### Enhanced Prompt:\n\n{PROMPT}",
        f"Final answer: {PROMPT}",
        f"---\n{PROMPT}\n---",
        f"{PROMPT} Would you like me to adjust the tone?",
        f"Below is a rewritten prompt based on the frames:\n\n{PROMPT}",
        f"Great, here is the final, detailed English prompt: {PROMPT}",
        f"I have written a richer version for you, with the sign in it:\n{PROMPT}",
        f"{PROMPT} Let me know if you want another one.",
    ],
)
def test_words_around_the_prompt_are_removed(answer: str) -> None:
    text, removed = cleaned(answer)
    assert text == PROMPT
    assert removed


@pytest.mark.parametrize(
    "answer",
    [
        'This is a medium shot of a storefront whose neon sign carries the text: "OPEN 24 HOURS". A man walks past slowly.',
        "This is a title card with the caption: The End. It fades to black.",
        "A man turns to the camera and speaks. Let me know when the train arrives, he says, and walks off into the fog.",
        "Great, sweeping dunes roll towards the horizon.",
        "Here is where the text on the wall reads: nobody. A cat sleeps.",
        "A sign asks. Would you like fries with that, it says in red letters.",
        "I have a dream, says the text on the screen: peace. The crowd cheers.",
        "This is a darker version of the city: rain falls on empty streets.",
        "A window is lit. If you need help, the arrow points to the clerk. The clerk smiles and the camera dollies out.",
        "The park gate opens. Feel free to roam, the banner states. Children run in.",
        "The park gate opens. Feel free to roam, the banner promises.",
        "Here is a woman reading from a prompt card: red hair, blue coat. She smiles.",
        "This is a command prompt on a black screen: green letters scroll.",
        "Below is a command prompt: green letters scroll.",
        "Here is a wide shot of a director's cut version of a diner: neon glows on wet asphalt.",
        "Credits roll. Would you like to play again, the arcade screen asks in green letters.",
        'The hero shouts: "Stop. If you want to live, come with me," and runs towards the door.',
    ],
)
def test_words_of_a_scene_stay(answer: str) -> None:
    assert cleaned(answer) == (answer, [])


KINDS = (
    "concise", "better", "extended", "modified", "corrected", "enriched", "photorealistic", "high-quality", "augmented", "120-word",
)  # fmt: skip


@pytest.mark.parametrize(
    "preface",
    [
        *(f"Here's a {kind} prompt: " for kind in KINDS), "Here is a highly detailed prompt: ", "I've improved the prompt: ",
        "Here's an even more detailed version: ", "Here's a slightly longer version: ", "I have upsampled the prompt: ",
        "Here is the **enhanced prompt**: ", "Okay, this is the prompt: ", "Okay, sure, here is your prompt: ",
        "Great, this is your prompt:\n\n", "Below is my rewrite of it: ", "Here are three versions of the prompt: ",
        "Okay, so here is the prompt: ", "I've expanded the description: ", "I have rewritten the caption: ",
        "This is the upgraded version: ", "Here's a version with more light in it: ", "This is the prompt you asked for: ",
        "Here's a highly detailed prompt suitable for Cosmos: ", "Here is an immersive prompt (about 150 words): ",
        "Here is a more vivid and immersive prompt, rewritten for video generation: ",
        "Here's a richly detailed prompt of about 150 words: ", "Here is a richly detailed version, ready for video generation: ",
        "Here is a photorealistic prompt optimized for video generation: ",
        "I've carefully crafted a prompt which keeps all details: ",
    ],
)  # fmt: skip
def test_usual_prefaces_are_removed(preface: str) -> None:
    assert cleaned(preface + PROMPT) == (PROMPT, ["preface"])


@pytest.mark.parametrize(
    "offer",
    [
        *(f"Feel free to {what} it." for what in ("customize", "use", "edit", "refine")), "I hope you like it!",
        "I hope this captures your vision.", "Let me know your thoughts!", "Let me know which you prefer.",
        "If you'd like changes, let me know!", "If you need adjustments, just ask!", "Would you like the prompt in JSON?",
        "I hope this helps! Let me know what you think.", 'Let me know if the "tone" should change!',
        'I hope this helps! Let me know if you want it "moodier".', "Let me know if you'd like any changes! 😊",
        "Let me know if you'd like any adjustments! I can also make it shorter.", "I hope this helps! Enjoy!",
        "Let me know if you want any adjustments. I'm happy to refine it further.",
        "Let me know if you'd like any changes, additional details, or a different style!",
        "Would you like it shorter, a single paragraph, or more cinematic?",
    ],
)  # fmt: skip
@pytest.mark.parametrize("between", [" ", "\n\n"])
def test_usual_offers_are_removed(between: str, offer: str) -> None:
    assert cleaned(PROMPT + between + offer)[0] == PROMPT


@pytest.mark.parametrize(
    "answer",
    [
        "A dog." + "\n" * 60_000 + "x", "A dog." + " \n" * 30_000 + "x", " " * 60_000 + "x", "A dog." + "\n" * 60_000,
        "let me know " * 10_000 + "\nx", "---\n" * 10_000 + "x", "A dog.\n---" + " " * 60_000 + "x", '"' * 60_000, "“" * 60_000,
        "new " * 10_000 + "x", "<think>" * 10_000, "#" * 60_000, ". Is there anything" * 3_200 + "\nx",
        ". Is there anything" * 3_200 + ', he says "x"', "here is " + "a " * 30_000, ", he " * 15_000 + ". Let me know",
    ],
    ids=range(16),
)  # fmt: skip
@pytest.mark.parametrize("form", [AnswerForm(checks=CHECKS), AnswerForm(form=JSON), AnswerForm(form=TAGGED)])
def test_repeated_characters_take_linear_time(answer: str, form: AnswerForm) -> None:
    """An answer that repeats a blank, or a mark, to its end must not hold up the worker."""
    whole = {JSON: "{" + answer + '{"a": 1}' + answer, TAGGED: f"<final_prompt>{answer}"}.get(form.form, answer)
    started = time.process_time()
    found = formed(Answer(whole, "stop", 7, 3), form, {})
    list(failed_checks(found, item("a", prompt="a boat"), form, Encoder.of(form)))
    assert time.process_time() - started < 3.0  # quadratic, it takes minutes


def test_control_characters_are_removed() -> None:
    assert cleaned("A\0 red \x1b[1mboat\n\tat sea\x9b.") == ("A red [1mboat\n\tat sea.", ["control characters"])


@pytest.mark.parametrize(
    "around", ['"{}"', "“{}”", "«{}»", "**{}**", "```\n{}\n```", "```text\n{}\n```", "'{}'", "`{}`"]
)
def test_marks_around_it_all_are_removed(around: str) -> None:
    assert cleaned(around.format(PROMPT))[0] == PROMPT
    assert cleaned(around.format("A"))[0] == "A"


@pytest.mark.parametrize(
    "answer",
    [
        PROMPT,
        '"Stop", says the sign, and the driver answers "never"',
        "Sure-footed goats climb a cliff.",
        "Okay is written on a wall: large, red letters.",
        'A note reads: "Let me know." The hand drops it.',
        "Here is where the river bends. It is dawn.",
        "'Tis the season: children's hats are red",
        '{"temporal_caption": "A car"}',
        '```json\n{"temporal_caption": "Sure! Here is a prompt: x"}\n```',
        "[wide shot] A car.",
        "The prompt on the terminal blinks: a green line.",
    ],
)
def test_a_plain_prompt_stays_as_it_is(answer: str) -> None:
    assert cleaned(answer) == (answer, [])


def test_reasoning_without_an_end_leaves_nothing() -> None:
    assert cleaned("<think>\nThe user wants")[0] == ""


@given(st.text())
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    once = cleaned(text)[0]
    assert cleaned(once)[0] == once


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that request.",
        "I cannot assist with creating this prompt.",
        "Unfortunately, I am unable to view the images.",
        "As an AI language model, I do not have eyes.",
        "I’m unable to describe people.",
        "Sorry, I won't do that.",
    ],
)
def test_refusals_are_recognized(answer: str) -> None:
    assert is_refusal(answer)


@pytest.mark.parametrize(
    "answer", [PROMPT, "A man says: I can't help it.", "Sorry dogs sit in the rain.", "I can see a car."]
)
def test_prompts_are_no_refusals(answer: str) -> None:
    assert not is_refusal(answer)


@pytest.mark.parametrize(("counted", "note"), [(90, "counted 90"), (None, "unverified"), (100, "")])
def test_endpoint_may_count_as_its_model_does(counted: int | None, note: str) -> None:
    notes = notes_on_count(Answer("A car", "stop", counted, 5), 100, "endpoint")
    assert (note in notes[0]) if note else not notes


@pytest.mark.parametrize(("engine", "counted"), [("vllm", 90), ("vllm", None), ("endpoint", 90)])
def test_no_prediction_takes_any_count(engine: str, counted: int | None) -> None:
    assert not notes_on_count(Answer("A car", "stop", counted, 5), None, engine)


@pytest.mark.parametrize(("counted", "reason"), [(90, "counted 90 prompt tokens, the plan 100"), (None, "no usage")])
def test_vllm_must_count_as_planned(counted: int | None, reason: str) -> None:
    with pytest.raises(ItemFailed, match=reason):
        notes_on_count(Answer("A car", "stop", counted, 5), 100, "vllm")
