"""Lines for the tools of video models: each is what its tool takes, whatever the prompt holds."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.targets.exports import HEADS, Sample, call, line_of_cogvideox, sample_of_cosmos3

FACTS = {"resolution": "720", "aspect_ratio": "16,9", "fps": 24, "num_frames": 121, "duration": "5s"}
SAMPLE = Sample("boat", '{"b": "ä", "scene_imagination": "x"}', "blur", "/f/frame_1.png", "", FACTS)
# All that cosmos_framework/inference/common/args.py accepts, as far as it is written.
KNOWN = {"name", "model_mode", "prompt", "negative_prompt", "vision_path", "resolution", "aspect_ratio", "fps", "num_frames",
         "edge", "blur", "depth", "seg", "wsm"}  # fmt: skip


@pytest.mark.parametrize(
    ("sample", "mode"),
    [
        (SAMPLE, "image2video"), (replace(SAMPLE, clip="/c/a.MP4"), "video2video"), (replace(SAMPLE, image=""), "text2video"),
    ],
)  # fmt: skip
def test_sample_has_known_keys_only(sample: Sample, mode: str) -> None:
    line = sample_of_cosmos3(sample)
    assert line["model_mode"] == mode and line.keys() <= KNOWN
    assert line["prompt"] == '{"b": "\\u00e4"}'


def test_clip_of_another_kind_is_no_sample() -> None:
    with pytest.raises(ValueError, match=r"end in \.mp4"):
        sample_of_cosmos3(replace(SAMPLE, clip="a.mkv"))


@pytest.mark.parametrize("name", HEADS)
@given(prompt=st.text(min_size=1, max_size=40), image=st.sampled_from(["", "/a b/'f'.png"]))
def test_call_passes_any_prompt_as_one_argument(name: str, prompt: str, image: str) -> None:
    words = shlex.split(call(name, Sample("n", prompt, "", image)))
    assert f"--prompt={' '.join(prompt.split())}" in words and words[-1] == "$@"
    assert bool(image) == any(image and image in word for word in words)


@pytest.mark.parametrize(
    "name", [name for name in HEADS if name != "wan"]
)  # which names its videos after prompt and time
def test_no_call_writes_over_another_video(name: str) -> None:
    assert any(
        "out" in word and word.endswith("=take_7.mp4") for word in shlex.split(call(name, Sample("take_7", "A boat.")))
    )


def test_script_is_one_for_a_shell(tmp_path: Path) -> None:
    lines = "".join(f"{call('wan', Sample('n', text))}\n" for text in ("$(id) `id` \"x\" 'y' -z", "line\nline"))
    (tmp_path / "python").write_text('#!/bin/sh\nfor a; do echo "[$a]"; done\n')
    (tmp_path / "python").chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", "-c", lines, "sh", "--seed", "1"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (
        "[--prompt=$(id) `id` \"x\" 'y' -z]\n[--seed]\n[1]\n" in done.stdout and "[--prompt=line line]" in done.stdout
    )


def test_cogvideox_line_has_one_separator() -> None:
    assert line_of_cogvideox(Sample("n", "a\nb @@ c", image="/i.png")) == "a b @ @ c@@/i.png"
    assert json.dumps(line_of_cogvideox(Sample("n", "a"))) == '"a"'


@given(st.text("@ a", max_size=9))
def test_cogvideox_line_is_split_where_the_prompt_ends(prompt: str) -> None:
    text, image = line_of_cogvideox(Sample("n", prompt, image="/i.png")).split("@@")
    assert image == "/i.png" and text.replace(" ", "") == prompt.replace(" ", "")
