"""Folders of shots: a clip with its control clips and its prompt is one item."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from src.errors import InputError, VideoError
from src.media.encode import clip_of_frames
from src.prompts import shots
from src.prompts.specs import prompt_files, read_specs

Shots = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, clips: Path) -> Shots:
    """A function from names of files below a folder to that folder, with a clip, or a text, in each."""

    def made(*names: str) -> Path:
        for name in names:
            file = tmp_path / "shots" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == ".txt":
                file.write_text("A boat.\n")
            else:
                shutil.copy(clips / "wide.mp4", file)
        return tmp_path / "shots"

    return made


def test_each_shot_is_one_item_with_controls(folder: Shots) -> None:
    root = folder("s1/color.mp4", "s1/Depth.mp4", "s1/segmentation.mov", "s1/prompt.txt", "s2/rgb.MP4", "s2/x.mp4")
    one, two = read_specs(prompt_files(str(root)))
    assert (one.name, one.prompt, one.video) == ("s1", "A boat.", root / "s1" / "color.mp4")
    assert one.raw["depth"] == {"input_control": str(root / "s1" / "Depth.mp4")}
    assert one.raw["seg"] == {"input_control": str(root / "s1" / "segmentation.mov")}
    assert (two.name, two.prompt) == ("s2", "") and not two.raw.keys() & set(shots.CONTROLS)


def test_folder_may_be_one_shot(folder: Shots) -> None:
    [spec] = read_specs(prompt_files(str(folder("color.mp4", "edge.mp4", "color.txt"))))
    assert (spec.name, spec.prompt, list(spec.raw["edge"])) == ("shots", "A boat.", ["input_control"])


def test_folder_of_clips_is_no_shot(folder: Shots) -> None:
    assert shots.clips_of(folder("color.mp4", "boat.mp4")) == []


def frames(folder: Path, sizes: tuple[tuple[int, int], ...]) -> list[Path]:
    folder.mkdir(parents=True)
    for n, size in enumerate(sizes):
        Image.fromarray(np.full((size[1], size[0], 3), 40 * n, np.uint8)).save(folder / f"{n:04d}.png")
    return sorted(folder.iterdir())


def test_frames_become_the_clip_of_a_shot(tmp_path: Path) -> None:
    for name in ("color", "depth"):
        frames(tmp_path / "s1" / name, ((65, 48),) * 5)
    with pytest.raises(InputError, match="holds frames in folders") as error:
        prompt_files(str(tmp_path))
    assert "spec.prepare=true" in str(error.value.hint)
    for clip, pictures in shots.sequences_of(tmp_path):
        clip_of_frames(clip, pictures, 12)
    [spec] = read_specs(prompt_files(str(tmp_path)))
    assert spec.name == "s1" and spec.raw["depth"]
    with av.open(str(spec.video)) as made:
        stream = made.streams.video[0]
        found = [round(float(frame.to_ndarray(format="rgb24").mean()) / 40) for frame in made.decode(stream)]
        assert (stream.width, stream.height, stream.average_rate) == (64, 48, 12)
    assert found == [0, 1, 2, 3, 4]


def test_frames_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "color").mkdir()
    names = [f"{n}.png" for n in (1, 2, 9, 10, 11, 100)]
    for name in reversed(names):
        (tmp_path / "color" / name).touch()
    [(_, found)] = shots.sequences_of(tmp_path)
    assert [path.name for path in found] == names


@pytest.mark.parametrize(("is_colour", "value"), [(True, 188), (False, 128)], ids=["colour", "depth"])
def test_linear_light_becomes_srgb_where_it_is_colour(tmp_path: Path, is_colour: bool, value: int) -> None:
    writer = av.CodecContext.create("exr", "w")
    writer.width, writer.height, writer.pix_fmt, writer.time_base = 64, 48, "gbrpf32le", Fraction(1, 24)  # type: ignore[attr-defined]
    frame = av.VideoFrame(64, 48, "gbrpf32le")
    for plane in frame.planes:
        plane.update(np.full(plane.buffer_size // 4, 0.5, np.float32).tobytes())
    (tmp_path / "1.exr").write_bytes(b"".join(bytes(packet) for packet in writer.encode(frame)))  # type: ignore[attr-defined]
    clip_of_frames(tmp_path / "color.mp4", [tmp_path / "1.exr"], 24, is_colour=is_colour)
    with av.open(str(tmp_path / "color.mp4")) as made:
        [picture] = made.decode(video=0)
    assert abs(float(picture.to_ndarray(format="rgb24").mean()) - value) <= 2


def test_frame_that_is_no_picture_is_named(tmp_path: Path) -> None:
    files = frames(tmp_path / "color", ((64, 48),) * 2)
    files[1].write_text("no picture")
    with pytest.raises(VideoError, match=r"0001\.png: is not a readable picture"):
        clip_of_frames(tmp_path / "color.mp4", files, 24)
