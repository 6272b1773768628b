"""A GGUF counted by llama.cpp's server on this machine, here a stand-in that counts words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from src.errors import InputError
from src.media.geometry import Size
from src.models.families import family_of
from src.models.family import Media
from src.models.gguf import can_count
from tests.harness.fake_llamacpp import install
from tests.harness.records import ENGINE, MODEL

ASK = replace(MODEL, family="ask", gguf="package:tiny_gguf/tiny.gguf")
LLAMACPP = replace(ENGINE, name="llamacpp")


@pytest.fixture(autouse=True)
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = install(tmp_path / "packages")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    family_of.cache_clear()
    yield folder
    family_of.cache_clear()


@pytest.mark.parametrize("engine", ["llamacpp", "vllm"])
def test_texts_are_counted_by_its_server(tmp_path: Path, engine: str) -> None:
    family = family_of(ASK, replace(ENGINE, name=engine), str(tmp_path))
    assert family.verified
    assert family.text_tokens("be brief", "a red boat", with_media=False) == 7 + 5


def test_counts_are_kept_for_the_next_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert family_of(ASK, LLAMACPP, str(tmp_path)).text_tokens("", "a red boat", with_media=False) == 10
    family_of.cache_clear()
    monkeypatch.setattr("src.models.gguf.llamacpp_argv", lambda *_: pytest.fail("the server was started again"))
    assert family_of(ASK, LLAMACPP, str(tmp_path)).text_tokens("", "a red boat", with_media=False) == 10


def test_frames_of_a_blind_model_cost_nothing(tmp_path: Path) -> None:
    family = family_of(replace(ASK, text_only=True), LLAMACPP, str(tmp_path))
    assert family.media_tokens(Size(640, 360), Media(8)) == 0
    assert family.text_tokens("", "a red boat", with_media=True) == 10
    assert family.refusal(Size(9999, 9999), Media(8)) == ""
    assert "sees no frames" in family.note


@pytest.mark.parametrize(
    ("gguf", "is_here", "counts"),
    [
        ("package:tiny_gguf/tiny.gguf", True, True),
        ("package:tiny_gguf/tiny.gguf", False, True),  # a package holds the same file everywhere
        ("{path}", True, True),
        ("{path}", False, False),
        (__file__, True, False),
        ("package:no_such/x.gguf", True, False),
        ("", True, False),
    ],
)
def test_only_the_same_file_is_counted(packages: Path, gguf: str, is_here: bool, counts: bool) -> None:
    named = gguf.format(path=packages / "tiny_gguf" / "tiny.gguf")
    assert can_count(replace(MODEL, gguf=named), is_here=is_here) == counts


def test_unloadable_model_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_text("GGUF")
    family = family_of(replace(ASK, gguf=str(tmp_path / "broken.gguf")), LLAMACPP, str(tmp_path))
    with pytest.raises(InputError, match=r"llama.cpp's server for .*broken.gguf did not start"):
        family.text_tokens("", "a boat", with_media=False)


def test_passing_error_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server cannot do at the moment is no refusal of the request."""
    answers = [(500, b'{"error": {"message": "out of memory"}}')]
    monkeypatch.setattr("src.models.gguf.asked", lambda *_: answers[0])
    with pytest.raises(InputError, match="HTTP 500: out of memory"):
        family_of(ASK, LLAMACPP, str(tmp_path)).text_tokens("", "a red boat", with_media=False)
    answers[0] = (200, b'{"input_tokens": 7}')
    family_of.cache_clear()
    assert family_of(ASK, LLAMACPP, str(tmp_path)).text_tokens("", "a red boat", with_media=False) == 7
