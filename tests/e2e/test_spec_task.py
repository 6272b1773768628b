"""`task=spec` as a person runs it: specs made, lists checked, and both at once with the upsampling of what was made."""

from __future__ import annotations

import glob
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from src.choices import Export, SpecOutput
from src.errors import UpsamplerError
from src.run_folder import RunPaths
from src.tasks import Invocation, upsample
from src.tasks import spec as task
from tests.conftest import Configure
from tests.harness.program import Ended, program, quoted

AWKWARD = "läuft 雨 (1), x=y's $1"
Call = Callable[..., Ended]


@pytest.fixture
def call(tmp_path: Path, configure: Configure) -> Call:
    """A function that runs the task in this process, in the run folder `run` below tmp_path; fields as keywords."""

    def called(
        prompts: Path | str = "examples/prompts.json",
        *,
        then: bool = False,
        in_place: bool = False,
        exports: tuple[Export, ...] = (),
        resume: bool = False,
        **fields: Any,
    ) -> Ended:
        config = configure("task=spec")
        config.prompts, config.then, config.output.report = str(prompts), then, False
        config.output.exports = list(exports)
        config.output.specs = SpecOutput.in_place if in_place else SpecOutput.beside
        config.resume = str(tmp_path / "run") if resume else None
        for name, value in fields.items():
            setattr(config.spec, name, str(value) if isinstance(value, Path) else value)
        out, err = io.StringIO(), io.StringIO()
        (tmp_path / "run").mkdir(exist_ok=True)
        paths = RunPaths(tmp_path / "run")
        invocation = Invocation(config, paths, "the command", Console(file=out, width=120), Console(file=err))
        try:
            code = upsample.run(invocation) if resume else task.run(invocation)
        except UpsamplerError as e:
            return Ended(int(e.exit_code), out.getvalue(), str(e))
        return Ended(int(code), out.getvalue(), err.getvalue())

    return called


@pytest.fixture
def folder(tmp_path: Path, clips: Path) -> Path:
    """Two clips, one with its prompt beside it, in a folder that shells and Hydra stumble over."""
    made = tmp_path / AWKWARD
    made.mkdir()
    for name in ("wide", "square"):
        shutil.copy(clips / f"{name}.mp4", made)
    (made / "wide.txt").write_text("A boat,\nat dusk. 雨\n")
    return made


def spec(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def results(tmp_path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    return rows


def test_clips_become_specs_and_a_table(call: Call, tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "inputs" / AWKWARD
    end = call(folder, out=out)
    assert end.code == 0, end.err
    assert sorted(p.name for p in out.iterdir()) == ["square.json", "wide.json"]
    wide, square = spec(out / "wide.json"), spec(out / "square.json")
    assert (wide["name"], wide["prompt"], square["prompt"]) == ("wide", "A boat,\nat dusk. 雨", "")
    assert (out / wide["video_path"]).samefile(folder / "wide.mp4")
    assert [line.split()[0] for line in end.out.splitlines()] == ["name", "square", "wide", "2"]
    assert "320x180" in end.out and "96x96" in end.out and "A boat, at dusk. 雨" in end.out


def test_glob_and_prompt_become_one_list(call: Call, tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "list.json"
    end = call(f"{glob.escape(str(folder))}/*.mp4", prompt="A car, red", out=out)
    assert end.code == 0, end.err
    items = json.loads(out.read_text())
    assert [(item["name"], item["prompt"]) for item in items] == [("square", "A car, red"), ("wide", "A car, red")]


def test_existing_specs_are_kept_unless_asked(call: Call, tmp_path: Path, folder: Path) -> None:
    assert call(folder, out=tmp_path / "out").code == 0
    (tmp_path / "out" / "wide.json").write_text("mine")
    (tmp_path / "out" / "square.json").unlink()
    end = call(folder, out=tmp_path / "out")
    assert end.code == 2
    assert "wide.json would be overwritten; nothing was written" in end.err
    assert (tmp_path / "out" / "wide.json").read_text() == "mine"
    assert not (tmp_path / "out" / "square.json").exists()
    assert call(folder, out=tmp_path / "out", overwrite=True).code == 0
    assert spec(tmp_path / "out" / "wide.json")["name"] == "wide"


def test_options_become_one_spec(call: Call, tmp_path: Path, clips: Path) -> None:
    end = call(video=clips / "wide.mp4", name="über/Boot", prompt="A boat: red", out=tmp_path / "out")
    assert end.code == 0, end.err
    (file,) = (tmp_path / "out").iterdir()
    assert (spec(file)["name"], spec(file)["prompt"]) == ("über/Boot", "A boat: red")
    assert (file.parent / spec(file)["video_path"]).samefile(clips / "wide.mp4")


def test_list_is_shown_and_not_written(call: Call, tmp_path: Path, folder: Path) -> None:
    (folder / "list.csv").write_text("name,prompt,video_path\na,A boat,wide.mp4\nb,No clip,\n")
    before = sorted(folder.iterdir())
    end = call(folder / "list.csv")
    assert end.code == 0, end.err
    assert [line.split()[0] for line in end.out.splitlines()] == ["name", "a", "b", "2"]
    assert sorted(folder.iterdir()) == before
    assert not (tmp_path / "run" / "prompts").exists()


def test_all_problems_of_list_are_listed(call: Call, folder: Path, clips: Path) -> None:
    shutil.copy(clips / "text.mp4", folder)
    items: list[Any] = [{"prompt": n} for n in range(60)]
    items += [
        {"name": "good", "prompt": "p"},
        {"name": "lost", "video_path": "gone.mp4"},
        {"video_path": "text.mp4"},
        5,
    ]
    (folder / "list.json").write_text(json.dumps(items))
    end = call(folder / "list.json")
    assert end.code == 2
    assert end.out.count("is a number, not text") == 60
    assert "lost: " in end.out and "gone.mp4: there is no such file" in end.out
    assert "text.mp4: " in end.out
    assert "63 problems; nothing was written" in end.out
    assert "Traceback" not in end.err


def test_unusable_clip_stops_before_writing(call: Call, tmp_path: Path, folder: Path, clips: Path) -> None:
    shutil.copy(clips / "text.mp4", folder)
    end = call(folder, out=tmp_path / "out", then=True)
    assert end.code == 2
    assert "1 problem; nothing was written" in end.out
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "run" / "plan.json").exists()


def test_then_upsamples_only_the_new_specs(tmp_path: Path, folder: Path, cache_dir: Path, small: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "other.json").write_text('{"prompt": "not of this run"}')
    done = program(
        "task=spec", f"prompts={quoted(folder)}", f"spec.out={out}", "then=true", "output.exports=[openai,cosmos3]",
        f"hydra.run.dir={tmp_path / 'run'}", f"cache_dir={quoted(cache_dir)}", f"model.tokenizer={quoted(small)}",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [row["name"] for row in results(tmp_path)] == ["square", "wide"]
    assert {row["state"] for row in results(tmp_path)} == {"upsampled"}
    assert "2 upsampled, 0 kept original, 0 failed" in done.out
    assert len((tmp_path / "run" / "openai_batch.jsonl").read_text().splitlines()) == 2
    assert len((tmp_path / "run" / "cosmos3.jsonl").read_text().splitlines()) == 2


def test_specs_lie_in_run_by_default(call: Call, tmp_path: Path, folder: Path) -> None:
    end = call(video=folder / "wide.mp4", then=True)
    assert end.code == 0, end.err
    assert spec(tmp_path / "run" / "prompts" / "wide.json")["prompt"] == "A boat,\nat dusk. 雨"
    assert [row["original_prompt"] for row in results(tmp_path)] == ["A boat,\nat dusk. 雨"]


def test_then_updates_new_specs_in_place(call: Call, tmp_path: Path, folder: Path) -> None:
    end = call(folder, out=tmp_path / "out", then=True, in_place=True)
    assert end.code == 0, end.err
    assert spec(tmp_path / "out" / "wide.json")["upsampled_prompt"].startswith("A boat")


def test_finished_run_can_be_exported(call: Call, tmp_path: Path, folder: Path) -> None:
    assert call(video=folder / "wide.mp4", then=True).code == 0
    before = results(tmp_path)
    assert call(resume=True, exports=(Export.parquet,)).code == 0
    assert (tmp_path / "run" / "results.parquet").read_bytes()[:4] == b"PAR1"
    assert results(tmp_path) == before


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompt": "x"}, "spec.prompt: is for clips"),
        ({"name": "x"}, "spec.prompt: is empty, and there is no video_path either"),
        ({"video": "gone.mp4"}, "gone.mp4: there is no such file"),
        ({"prompts": "nowhere"}, "prompts=nowhere: there is no such file or folder"),
        ({"video": "examples/clips/robot_arm.mp4", "out": "README.md"}, "spec.out=README.md: is a file"),
    ],
)
def test_contradictory_options_are_2_with_reason(call: Call, fields: dict[str, Any], said: str) -> None:
    end = call(**fields)
    assert end.code == 2
    assert said in end.out + end.err


@pytest.mark.parametrize("pattern", ["", "/*"])
def test_clips_with_prompt_files_are_refused(call: Call, folder: Path, pattern: str) -> None:
    (folder / "wide.txt").unlink()
    (folder / "list.json").write_text('[{"prompt": "p"}]')
    end = call(f"{glob.escape(str(folder)) if pattern else folder}{pattern}")
    assert end.code == 2
    assert "holds clips (square.mp4, …) and prompt files (list.json, …)" in end.err


def test_program_lists_all_problems(tmp_path: Path, folder: Path) -> None:
    (folder / "list.json").write_text('[{"prompt": 5}, {"prompt": "a", "video_path": "wide.mp4"}, 7]')
    done = program("task=spec", f"prompts={quoted(folder / 'list.json')}", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.code == 2
    assert "2 problems; nothing was written" in done.out
    assert "Traceback" not in done.err
