"""The token rules of every family against the real vLLM on the CPU, with tiny random models: all points as predicted.

One server for each family answers as engine=endpoint. A compact set of points by default, a large one with
HYPOTHESIS_PROFILE=thorough: every Cosmos size, random sizes, texts and clips.
"""

from __future__ import annotations

import io
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from src.media.encode import blank_clip
from src.media.geometry import COSMOS_SIZES, Size
from src.models.families import CLIP_FAMILIES, family_of
from src.models.family import Family, Media
from src.targets.target import schema_of
from src.worker.answer_form import why_invalid
from tests.conftest import config_of
from tests.harness.program import ROOT, plan_of, program, quoted, results_of
from tests.harness.records import ENGINE
from tests.harness.tiny_server import PATIENCE_S, TinyServer, TinyServers

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("own_cache")]  # tmp_path / "cache"
MODELS = ("tiny_qwen2_5_vl", "tiny_qwen3_vl", "tiny_qwen3_5", "tiny_mistral_small")
GUIDED = "tiny_qwen3_vl"  # answers follow a schema
THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
SIZES = [Size(1, 1), Size(31, 33), Size(10, 2000), Size(320, 180), Size(832, 480), Size(704, 1280), Size(2112, 1188)]
TEXTS = [
    ("", "Test prompt"), ("You write prompts.", "A car."), ("", "\n\nStarts with line feeds "), ("\nS", "  1234 words  "),
    ("系统消息", "一辆红色的汽车 e\u0301 👩‍👩‍👧"), ("", ""),
]  # fmt: skip
CLIPS = [(Size(320, 180), 3, 24), (Size(64, 64), 50, 25), (Size(832, 480), 20, 2), (Size(28, 400), 7, 3)]


@pytest.fixture(scope="module", params=MODELS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_servers: TinyServers
) -> Iterator[TinyServer]:
    config, guided = config_of(f"model={request.param}"), request.param == GUIDED
    with tiny_servers.serve(config, tmp_path_factory.mktemp(request.param), guided=guided) as server:
        yield server


@pytest.fixture(scope="module")
def family(server: TinyServer, cache_dir: Path) -> Family:
    return family_of(server.model, ENGINE, str(cache_dir))


def predicted(family: Family, system: str, text: str, size: Size, media: Media) -> int:
    other = family.wrapper_tokens(system) + family.text_tokens(system, text, with_media=media.frames > 0)
    return other + (family.media_tokens(size, media) if media.frames else 0)


def png(size: Size) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (size.width_px, size.height_px)).save(out, "PNG")
    return out.getvalue()


def sizes() -> list[Size]:
    rnd = random.Random(15)
    cosmos = [Size(*size) for sizes in COSMOS_SIZES.values() for size in sizes.values()]
    drawn = [Size(rnd.randint(8, 1500), rnd.randint(8, 1500)) for _ in range(40)]
    return [*SIZES, *cosmos, *drawn] if THOROUGH else SIZES


def test_image_counts_are_those_of_the_server(server: TinyServer, family: Family) -> None:
    wrong = []
    for n, size in enumerate(sizes()):
        system, text = TEXTS[n % len(TEXTS)]
        media = Media(1 + n % 3)
        counted = server.tokens(system, text, [png(size)] * media.frames)
        if counted != (expected := predicted(family, system, text, size, media)):
            wrong.append((str(size), media.frames, system, text, counted, expected))
    assert not wrong


@pytest.mark.parametrize(("system", "text"), TEXTS)
def test_text_counts_are_those_of_the_server(server: TinyServer, family: Family, system: str, text: str) -> None:
    for media in (Media(0), Media(1)):
        counted = server.tokens(system, text, [png(Size(64, 64))] * media.frames)
        assert counted == predicted(family, system, text, Size(64, 64), media)


def test_clip_counts_are_those_of_the_server(server: TinyServer, family: Family) -> None:
    if server.model.family not in CLIP_FAMILIES:
        assert server.tokens("", "x", [blank_clip(Size(64, 64), 4, 2)]) is None
        return
    rnd, wrong = random.Random(16), []
    drawn = [
        (Size(2 * rnd.randint(16, 500), 2 * rnd.randint(16, 500)), rnd.randint(2, 60), rnd.randint(1, 30))
        for _ in range(16)
    ]
    for size, frames, fps in [*CLIPS, *(drawn if THOROUGH else [])]:
        counted = server.tokens("", "Describe the clip.", [blank_clip(size, frames, fps)])
        if counted != (expected := predicted(family, "", "Describe the clip.", size, Media(frames, fps))):
            wrong.append((str(size), frames, fps, counted, expected))
    assert not wrong


def test_refused_shapes_are_refused_by_the_server(server: TinyServer, family: Family) -> None:
    if server.model.family not in CLIP_FAMILIES:
        pytest.skip("Mistral's processors refuse no shape")
    for size, data, media in (
        (Size(1, 201), png(Size(1, 201)), Media(1)),
        (Size(64, 64), blank_clip(Size(64, 64), 1, 2), Media(1, 2.0)),
    ):
        assert family.refusal(size, media)
        assert server.tokens("", "x", [data]) is None


def through(server: TinyServer, run: Path, *overrides: str, code: int = 0) -> list[dict[str, object]]:
    name = server.model.name.replace("-", "_")
    end = program(
        "engine=endpoint", f"engine.base_url={server.url}", f"model={name}", f"hydra.run.dir={quoted(run)}",
        "budget.max_output_tokens=8", f"cache_dir={quoted(run.parent / 'cache')}", *overrides, timeout_s=PATIENCE_S,
    )  # fmt: skip
    assert end.code == code, end.out + end.err
    return results_of(run)


def write_items(folder: Path) -> Path:
    clips = sorted((ROOT / "examples" / "clips").iterdir())[:3]
    items = [{"name": clip.stem, "prompt": "A short prompt", "video_path": str(clip)} for clip in clips]
    items += [{"name": "text", "prompt": "\n\nNo clip here."}]
    (folder / "prompts.json").write_text(json.dumps(items))
    return folder / "prompts.json"


def needs_answers(server: TinyServer) -> None:
    if server.model.family == "qwen3_5":
        pytest.skip(
            "vLLM 0.32 on a CPU cannot answer seeded requests of Qwen3.5, whose prefill is chunked: its engine dies of "
            "'CPU Generator does not use offset'"
        )


def test_run_ends_with_the_planned_tokens(server: TinyServer, family: Family, tmp_path: Path) -> None:
    needs_answers(server)
    ways = ["upsample=best_fit", *(["frames=clip"] if server.model.family in CLIP_FAMILIES else [])]
    if THOROUGH or server.model.family == "qwen3_vl":
        ways += ["model.family=ask", "model.family=unverified"]
    for how in ways:
        rows = through(server, tmp_path / how, f"prompts={quoted(write_items(tmp_path))}", how)
        for row in rows:
            tokens = row["tokens"]
            assert isinstance(tokens, dict) and isinstance(row["flags"], list)
            if how.endswith("unverified"):
                assert "unverified" in row["flags"] and tokens["measured"]
            else:
                assert tokens["predicted"] == tokens["measured"] and "unverified" not in row["flags"]


def test_checkpoint_is_counted_without_weights(server: TinyServer, tmp_path: Path, vllm_python: str) -> None:
    """`vllm launch render` counts what the family predicts, and a second plan starts no server."""
    if server.model.family != "qwen3_vl" and not THOROUGH:
        pytest.skip("one family shows it; HYPOTHESIS_PROFILE=thorough tries all")
    ask = ("model.family=ask", "model.tiny_random=false", f"model.checkpoint={quoted(server.checkpoint)}")
    plans = {}
    for how, given in {"rule": (), "ask": ask, "again": (*ask, "model.max_images=8")}.items():
        end = program(
            "task=plan", "engine=vllm", f"model={server.model.name.replace('-', '_')}", f"prompts={quoted(write_items(tmp_path))}",
            f"worker.python={quoted(vllm_python)}", f"hydra.run.dir={quoted(tmp_path / how)}",
            f"cache_dir={quoted(tmp_path / 'cache')}", *given, timeout_s=20 if how == "again" else PATIENCE_S,
        )  # fmt: skip
        assert end.code == 0, end.out + end.err
        plans[how] = [item["tokens"]["prompt"] for item in plan_of(tmp_path / how)["items"]]
    assert plans["rule"] == plans["ask"] == plans["again"]


def test_limits_are_those_of_the_rule(server: TinyServer, tmp_path: Path) -> None:
    needs_answers(server)
    name = server.model.name.replace("-", "_")
    end = program(
        "--multirun", "task=limits", "engine=endpoint", f"engine.base_url={server.url}", f"model={name}",
        "size=320x180,1280x720,2560x1440", "budget=4k", f"cache_dir={quoted(tmp_path / 'cache')}",
        f"hydra.sweep.dir={quoted(tmp_path / 'sweep')}", timeout_s=PATIENCE_S,
    )  # fmt: skip
    assert end.code == 0, end.out + end.err
    data = json.loads((tmp_path / "sweep" / "matrix.json").read_text())
    assert data["agreement"]["measured"] == data["agreement"]["exact"] == len(data["points"]) == 3


def test_mismatch_names_the_likely_cause(server: TinyServer, tmp_path: Path) -> None:
    needs_answers(server)
    rows = through(server, tmp_path / "run", f"prompts={quoted(write_items(tmp_path))}", "model.family=pixtral")
    with_clips = [row for row in rows if row["video_path"]]
    assert with_clips and all("model.family=ask" in str(row["note"]) for row in with_clips)


@pytest.mark.parametrize("server", [GUIDED], indirect=True)
@pytest.mark.parametrize(
    "target", ["cosmos3", "cosmos3_transfer", "cosmos3_i2v", "wan", "ltx2", "hunyuan15", "cogvideox"]
)
def test_every_target_is_answered_as_planned(server: TinyServer, tmp_path: Path, target: str) -> None:
    clip = str(sorted((ROOT / "examples" / "clips").iterdir())[0])
    items = [{"name": name, "prompt": f"a boat that {name}", "video_path": clip} for name in "abc"]
    (tmp_path / "prompts.json").write_text(json.dumps(items))
    rows = through(
        server, tmp_path / "run", f"prompts={quoted(tmp_path / 'prompts.json')}", f"target={target}", "target.checks=[]",
        "checks.cut_off=false", "budget=4k",
        f"budget.max_output_tokens={900 if target.startswith('cosmos3') else 16}",
    )  # fmt: skip
    for row in rows:
        assert row["state"] == "upsampled", row
        if target.startswith("cosmos3"):
            assert not why_invalid(json.loads(str(row["upsampled_prompt"])), schema_of(target))
    first = [
        row["tokens"] for row in rows if row["attempts"] == 1
    ]  # noise may be a form without a word, which is asked again
    assert first and all(isinstance(t, dict) and t["predicted"] == t["measured"] for t in first)
