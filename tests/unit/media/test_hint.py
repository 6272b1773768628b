"""Keys of hints: everything that the pixels depend on, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from src.media.hint import hint_key, hint_name
from src.media.video import Video
from tests.unit.media.conftest import planned_hint

VIDEO = Video("/clips/boat.mp4", "5" * 64, 320, 180, 24.0, 48, 2.0, "h264")
HINT = planned_hint(VIDEO)


def test_key_changes_with_whatever_changes_pixels() -> None:
    others = [
        replace(HINT, width_px=2), replace(HINT, height_px=2), replace(HINT, frames=1), replace(HINT, rule="ends"),
        replace(HINT, fps=1.0),
    ]  # fmt: skip
    keys = [hint_key(VIDEO, hint) for hint in (HINT, *others)] + [hint_key(replace(VIDEO, sha256="0" * 64), HINT)]
    assert len(set(keys)) == len(keys)


NAMES = ["../../etc/passwd.mp4", "a/b.mp4", ".hidden.mp4", "new\nline.mp4", "x" * 250 + ".mp4", "雨.mp4", "a b'\".mp4"]


@pytest.mark.parametrize("name", NAMES)
def test_key_does_not_depend_on_the_name(name: str) -> None:
    assert hint_key(replace(VIDEO, path=f"/clips/{name}"), HINT) == hint_key(VIDEO, HINT)


@pytest.mark.parametrize("name", NAMES)
def test_key_and_name_are_plain_folder_names(name: str) -> None:
    video = replace(VIDEO, path=f"/clips/{name}")
    for folder in (hint_key(video, HINT), hint_name(video, HINT)):
        assert folder.isascii() and folder.isprintable()
        assert "/" not in folder and not folder.startswith(".")
        assert len(folder) < 100
