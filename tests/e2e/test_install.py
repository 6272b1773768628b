"""The wheel as people install it: one package, and a program that works in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.harness.program import results_of


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the checkout, which has options and defaults of one's own."""
    checkout, out = tmp_path_factory.mktemp("checkout") / "a b", tmp_path_factory.mktemp("wheel")
    checkout.mkdir()
    for name in ("src", "conf", "launchers", "examples", "pyproject.toml", "README.md", "LICENSE"):
        subprocess.run(["cp", "-r", ROOT / name, checkout], check=True)
    for name in ("local/defaults", "host/gpu_box"):
        (checkout / "conf" / f"{name}.yaml").write_text("address: secret\n")
    build = ["-m", "pip", "wheel", "-q", "--no-deps", "--disable-pip-version-check", "-w", str(out)]
    subprocess.run([sys.executable, *build, checkout], check=True, cwd=out)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def upsample(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script in an environment of its own, which sees the packages of this one."""
    root = tmp_path_factory.mktemp("environment") / "env"
    venv.create(root, symlinks=True)
    site = next((root / "lib").glob("python3*/site-packages"))
    (site / "packages.pth").write_text(next(path for path in sys.path if path.endswith("site-packages")) + "\n")
    install = [
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--disable-pip-version-check",
        "--prefix",
        str(root),
    ]
    subprocess.run([sys.executable, *install, "--ignore-installed", wheel], check=True)
    script = root / "bin" / "upsample"
    lines = script.read_text().splitlines()
    script.write_text("\n".join([f"#!{root}/bin/python", *lines[1:]]) + "\n")
    return script


def run(script: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [script, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_wheel_is_one_package_and_whole(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"prompt_upsampler"}
    assert {name for name in names if "/conf/host/" in name or "/conf/local/" in name} == {
        f"prompt_upsampler/conf/host/{kind}.yaml" for kind in ("local", "ssh", "fleet", "slurm", "pool", "ray")
    }
    options = {str(file.relative_to(ROOT)) for file in ROOT.glob("conf/[!hl]*/**/*.yaml")}
    code = {str(path.relative_to(ROOT / "src")) for path in ROOT.glob("src/**/*.*") if path.suffix != ".pyc"}
    assert options | code <= {name.removeprefix("prompt_upsampler/") for name in names}


def test_program_works_in_an_empty_folder(upsample: Path, tmp_path: Path) -> None:
    end = run(upsample, tmp_path, "hydra.run.dir=first")
    assert end.returncode == 0 and "8 upsampled" in end.stdout, end.stderr
    assert {row["state"] for row in results_of(tmp_path / "first")} == {"upsampled"}
    planned = run(upsample, tmp_path, "plan", str(ROOT / "examples" / "prompts.json"))
    assert "→ upsample task=plan prompts=" in planned.stderr
    command = planned.stdout.split("run it")[1].split()
    assert command[0] == "upsample" and run(upsample, tmp_path, *command[1:]).returncode == 0


def test_starter_is_complete_and_found(upsample: Path, tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("mine\n")
    end = run(upsample, tmp_path, "init")
    assert end.returncode == 0 and "kept          .gitignore" in end.stdout, end.stderr
    assert (tmp_path / ".gitignore").read_text() == "mine\n"
    end = run(upsample, tmp_path, "hydra.run.dir=run")  # its own defaults name its prompts
    assert "1 upsampled" in end.stdout, end.stderr
    assert end.stderr.startswith(f"options of {tmp_path}/conf are used\n")
    assert "address: gpu.example.com" in run(upsample, tmp_path, "host=gpu_box", "--cfg", "job", "-p", "host").stdout
    assert "gpu_box" in run(upsample, tmp_path, "--help").stdout


def test_notebook_runs_where_it_is_installed(upsample: Path, tmp_path: Path) -> None:
    """Each cell in turn in one process; what fails is named by its number, and the output is that of the last lines."""
    cells = json.loads((ROOT / "docs" / "api.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in cells if cell["cell_type"] == "code"] == [[]] * len(sources)
    program = "import sys\nnames = {}\nfor n, cell in enumerate(sys.argv[1:]): exec(compile(cell, f'cell {n}', 'exec'), names)"
    end = run(upsample.parent / "python", tmp_path, "-c", program, *sources)
    assert end.returncode == 0 and end.stderr == "", end.stderr
    assert end.stdout.count(" upsampled ") == 8 and "did you mean upsample=best_fit?" in end.stdout
