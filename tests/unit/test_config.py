"""The configuration as a person uses it: every option composes, mistakes are refused, help fits a terminal."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import Any, cast

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src import __version__
from src import config as schema
from src.config import Config, TaskName
from src.resolvers import hydra_subdir, run_folder
from tests.conftest import ROOT, Configure, composed

CONF = ROOT / "conf"
OPTIONS = sorted(
    (path.parent.name, path.stem) for path in CONF.glob("*/*.yaml") if path.parent.name not in ("hydra", "local")
)
REFUSED = (HydraException, OmegaConfBaseException, ValueError)


def run(*args: str, cwd: Path, columns: int = 80) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(columns), "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-m", "src.run", *args]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)


def leaves(node: Any, path: str = "") -> dict[str, Any]:
    """All values of a config by their dotted names, without looking at what is missing."""
    if not isinstance(node, DictConfig):
        return {path: node}
    found: dict[str, Any] = {}
    for key in node:
        missing = OmegaConf.is_missing(node, key)
        found |= {f"{path}.{key!s}": "???"} if missing else leaves(node[key], f"{path}.{key!s}")
    return found


# What composes


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda value: str(value))
def test_option_composes_to_a_typed_config_with_every_value_set(group: str, option: str) -> None:
    raw = composed(f"{group}={option}")
    assert [path for path, value in leaves(raw).items() if isinstance(value, str) and value == "???"] == []
    assert isinstance(OmegaConf.to_object(raw), Config)


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda value: str(value))
def test_option_says_in_its_first_line_what_it_is(group: str, option: str) -> None:
    lines = (CONF / group / f"{option}.yaml").read_text().splitlines()
    comments = [line for line in lines if line.startswith("# ") and not line.startswith("# @package")]
    assert comments
    assert comments[0].endswith((".", "/v1"))


def test_every_group_has_a_default_that_exists() -> None:
    defaults = {
        group: option
        for entry in OmegaConf.load(CONF / "config.yaml").defaults
        if isinstance(entry, DictConfig)
        for group, option in entry.items()
    }
    assert defaults.pop("experiment") is None  # a sweep is asked for by name
    for group in {group for group, _ in OPTIONS} - {"experiment"}:
        assert (group, defaults[group]) in OPTIONS


def test_defaults_are_what_the_design_promises() -> None:
    config = cast(Config, OmegaConf.to_object(composed()))
    assert config.task.name.value == "upsample"
    assert (config.upsample.name, config.upsample.rule.value, config.upsample.width_px) == (
        "safe_320",
        "fixed_width",
        320,
    )
    assert (config.frames.rule.value, config.frames.count, config.frames.fps) == ("head", 2, 2.0)
    assert (config.budget.max_model_len, config.budget.max_output_tokens) == (4096, 300)
    assert (config.engine.name.value, config.sampling.temperature) == ("offline", 0.6)
    assert (config.host.name, config.image.name, config.template.system) == ("local", "none", "")


@pytest.mark.parametrize(("option", "tokens"), [("4k", 4096), ("8k", 8192), ("16k", 16384), ("32k", 32768)])
def test_budget_is_named_by_its_tokens(configure: Configure, option: str, tokens: int) -> None:
    assert configure(f"budget={option}").budget.max_model_len == tokens


@pytest.mark.parametrize("option", [o for g, o in OPTIONS if g == "frames"])
def test_frames_are_named_by_rule_and_count(configure: Configure, option: str) -> None:
    frames = configure(f"frames={option}").frames
    assert f"{frames.rule.value}_{frames.count}" == option


@pytest.mark.parametrize("option", [o for g, o in OPTIONS if g == "resolution"])
def test_resolution_is_named_by_its_category(configure: Configure, option: str) -> None:
    assert configure(f"resolution={option}").resolution.name + "p" == option


NAMED = ("upsample", "engine", "task", "template", "image", "host")


@pytest.mark.parametrize(("group", "option"), [(g, o) for g, o in OPTIONS if g in NAMED])
def test_option_carries_its_own_name(configure: Configure, group: str, option: str) -> None:
    name = getattr(configure(f"{group}={option}"), group).name
    assert (name.value if isinstance(name, Enum) else name) == option


def test_enum_values_are_their_names() -> None:
    enums = [v for v in vars(schema).values() if isinstance(v, type) and issubclass(v, Enum) and v is not Enum]
    assert len(enums) >= 8
    for enum in enums:
        assert all(member.name == member.value for member in enum)


# What wins over what


@pytest.mark.parametrize("recipe", [o for g, o in OPTIONS if g == "upsample"])
def test_recipe_brings_its_own_frames(recipe: str) -> None:
    named = re.findall(r"override /frames: (\w+)", (CONF / "upsample" / f"{recipe}.yaml").read_text())
    assert len(named) == 1
    frames = composed(f"upsample={recipe}").frames
    assert f"{frames.rule.value}_{frames.count}" == named[0]


@pytest.mark.parametrize("recipe", [o for g, o in OPTIONS if g == "upsample"])
def test_frames_on_the_command_line_win_over_the_recipes(recipe: str) -> None:
    for overrides in ((f"upsample={recipe}", "frames=ends_4"), ("frames=ends_4", f"upsample={recipe}")):
        frames = composed(*overrides).frames
        assert (frames.rule.value, frames.count) == ("ends", 4)


def test_field_on_the_command_line_wins_over_its_option() -> None:
    config = composed("budget=8k", "budget.max_model_len=5000", "upsample=best_fit", "upsample.rule=native")
    assert (config.budget.max_model_len, config.upsample.rule.value) == (5000, "native")


def test_users_own_defaults_win_over_ours_and_lose_to_the_command_line(tmp_path: Path) -> None:
    conf = shutil.copytree(CONF, tmp_path / "conf", ignore=shutil.ignore_patterns("defaults.yaml"))
    (conf / "local" / "defaults.yaml").write_text("# @package _global_\nsampling: {seed: 7}\nhints: {workers: 1}\n")
    with initialize_config_dir(version_base="1.3", config_dir=str(conf)):
        config = compose("config", ["hints.workers=3"])
    assert (config.sampling.seed, config.hints.workers) == (7, 3)


# What is refused


@pytest.mark.parametrize(
    "override",
    [
        "task=nosuch",
        "upsample=safe_321",
        "nosuch=1",
        "upsample.nosuch=1",
        "upsample.rule=nosuch",
        "upsample.width_px=wide",
        "upsample.width_px=320.5",
        "upsample.width_px=null",
        "upsample.shrink=perhaps",
        "frames.count=two",
        "frames.fps=fast",
        "frames.rule=middle",
        "budget.max_model_len=4k",
        "sampling.temperature=hot",
        "sampling.seed=1.5",
        "engine=null",
        "engine.name=vlllm",
        "video.on_bad_video=ignore",
        "output.specs=everywhere",
        "console.level=loud",
        "console.progress=maybe",
        "console=null",
        "model.extra_args=--enforce-eager",
        "prompts=null",
        "prompts=a,b.json",
        "resolution=720",
    ],
)
def test_wrong_name_or_type_is_refused(override: str) -> None:
    with pytest.raises(REFUSED):
        OmegaConf.to_object(composed(override))


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("prompts='in puts/a, b.json'", "in puts/a, b.json"),
        ("aspect=16:9", "16:9"),
        ("aspect=4:3", "4:3"),
        ("aspect=1:1", "1:1"),
        ("aspect='9:16'", "9:16"),
        ("aspect=null", None),
        ("cache_dir=/tmp/x", "/tmp/x"),
    ],
)
def test_text_on_the_command_line_stays_the_text_it_was(override: str, value: str | None) -> None:
    assert composed(override)[override.split("=")[0]] == value


@pytest.mark.parametrize("name", ["256", "480", "512", "720", "1080"])
def test_resolution_name_is_text_though_it_looks_like_a_number(name: str) -> None:
    config = cast(Config, OmegaConf.to_object(composed(f"resolution.name={name}")))
    assert config.resolution.name == name


@pytest.mark.parametrize("override", ["+engine.nosuch=1", "+upsample.nosuch=1"])
def test_field_that_is_added_to_the_schema_is_refused(tmp_path: Path, override: str) -> None:
    (tmp_path / "prompts.json").write_text('[{"prompt": "x"}]')
    done = run("task=plan", "prompts=prompts.json", override, cwd=tmp_path)
    assert done.returncode == 2
    assert "nosuch" in done.stderr


# Run folders


def test_run_folder_is_never_one_that_exists(tmp_path: Path) -> None:
    made = [Path(run_folder(None, None, TaskName.upsample, f"{tmp_path}/run")) for _ in range(3)]
    assert [folder.name for folder in made] == ["run", "run-2", "run-3"]
    assert all(folder.is_dir() for folder in made)


def test_runs_that_start_at_the_same_moment_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: run_folder(None, None, TaskName.upsample, f"{tmp_path}/day/run"), range(64)))
    assert len(set(made)) == 64


def test_run_folder_follows_the_clock(tmp_path: Path) -> None:
    assert re.fullmatch(
        r".*/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d", run_folder(None, None, TaskName.upsample, f"{tmp_path}/%Y-%m-%d/%H-%M-%S")
    )


def test_run_folder_to_resume_is_taken_as_it_is(tmp_path: Path) -> None:
    assert run_folder(str(tmp_path), None, TaskName.upsample, "pattern") == str(tmp_path)
    assert run_folder(None, str(tmp_path), TaskName.attach, "pattern") == str(tmp_path)
    assert run_folder(None, str(tmp_path), TaskName.review, "pattern") == str(tmp_path)


def test_rejected_items_are_asked_again_in_a_new_folder(tmp_path: Path) -> None:
    assert run_folder(None, str(tmp_path), TaskName.review, f"{tmp_path}/new", True) == f"{tmp_path}/new"
    assert hydra_subdir(None, str(tmp_path), TaskName.review, True) == ".hydra"


def test_resumed_run_leaves_hydras_record_of_the_first_start() -> None:
    assert hydra_subdir(None, None, TaskName.upsample) == ".hydra"
    assert (hydra_subdir("outputs/x", None, TaskName.upsample) or "").startswith(".hydra/resumed-")
    assert (hydra_subdir(None, "outputs/x", TaskName.attach) or "").startswith(".hydra/resumed-")


def test_tasks_that_make_no_run_leave_none_behind(tmp_path: Path) -> None:
    for task in (TaskName.status, TaskName.cancel, TaskName.clean, TaskName.trust, TaskName.doctor):
        assert run_folder(None, str(tmp_path), task, "pattern") == "outputs/.tasks"
        assert hydra_subdir(None, str(tmp_path), task) is None


# As a program


def test_cfg_job_prints_the_whole_config_and_ends_with_0(tmp_path: Path) -> None:
    done = run("--cfg", "job", "upsample=best_fit", "budget=8k", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    shown = OmegaConf.create(done.stdout)
    assert (shown.upsample.rule, shown.budget.max_model_len) == ("best_fit", 8192)
    assert set(Config.__dataclass_fields__) == set(shown)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def help_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("help")
    done = run("--help", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(folder.iterdir()) == []
    return done.stdout.rstrip()


def test_help_fits_40_lines_and_names_every_option(help_text: str) -> None:
    rows = sum(max(1, -(-len(line) // 100)) for line in help_text.splitlines())  # a terminal breaks what is longer
    assert rows <= 40
    for group, option in OPTIONS:
        assert re.search(rf"^{group}:.*\b{re.escape(option)}\b", help_text, re.MULTILINE), (group, option)
    assert "schema" not in help_text


def test_help_fits_80_columns(help_text: str) -> None:
    ours = [line for line in help_text.splitlines() if not re.match(r"\w+: ", line)]  # Hydra lists a group on one line
    assert [line for line in ours if len(line) > 80] == []


def test_help_and_cfg_import_nothing_heavy() -> None:
    heavy = ["av", "mistral_common", "tiktoken", "numpy", "PIL", "rich", "jinja2", "structlog", "sqlite3", "asyncio"]
    code = f"import sys, src.run; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("override", ["task=nosuch", "frames.count=two", "nosuch=1", "prompts=a,b"])
def test_config_that_hydra_refuses_ends_with_2_and_leaves_nothing(tmp_path: Path, override: str) -> None:
    done = run(override, cwd=tmp_path)
    assert done.returncode == 2
    assert override.split("=")[0].split(".")[-1] in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("budgt=4k", "did you mean budget?"),
        ("sampling.temprature=1", "did you mean sampling.temperature?"),
        ("engine.item_delay=3", "did you mean engine.item_delay_s?"),
        ("frames.count=abc", "could not be converted to Integer"),
        ("review.all=maybe", "expected one of [accepted, rejected]"),
        ("output.exports=[csv]", "expected one of [parquet, dataset, openai, cosmos3]"),
        ("upsample=safe", "safe_320"),
    ],
)
def test_what_is_refused_says_what_was_meant_or_what_there_is(tmp_path: Path, override: str, said: str) -> None:
    done = run(override, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "hydra.cc" not in done.stderr and "use +" not in done.stderr


def test_version_is_said(tmp_path: Path) -> None:
    assert run("--version", cwd=tmp_path).stdout == f"prompt upsampler {__version__}\n"


@pytest.mark.parametrize("override", ["resolution=720", "engine=null"])
def test_option_that_is_no_text_is_refused_without_a_traceback(tmp_path: Path, override: str) -> None:
    done = run(override, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("override", ["prompts=nowhere.json", "frames.count=9"])
def test_input_that_cannot_be_used_ends_with_2_and_says_what_to_do(tmp_path: Path, override: str) -> None:
    done = run("task=plan", override, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert override.split("=")[1] in done.stderr
    assert "Traceback" not in done.stderr


def test_resuming_a_folder_that_is_not_there_makes_no_folder(tmp_path: Path) -> None:
    assert run("resume=outputs/typo", cwd=tmp_path).returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_plan_of_a_run_to_resume_is_not_written_over(tmp_path: Path, small: str) -> None:
    (tmp_path / "prompts.json").write_text('[{"prompt": "x"}]')
    plan = [f"model.tokenizer={small}", "task=plan", "prompts=prompts.json"]
    assert run(*plan, "hydra.run.dir=first", cwd=tmp_path).returncode == 0
    before = json.loads((tmp_path / "first" / "plan.json").read_text())
    run(*plan, "sampling.seed=5", "resume=first", cwd=tmp_path)
    assert json.loads((tmp_path / "first" / "plan.json").read_text()) == before
