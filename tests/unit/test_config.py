"""The schema and conf/: every option composes, defaults, precedence, and values that Hydra rejects."""

from __future__ import annotations

import copy
import re
import shutil
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.config import Config
from tests.conftest import ROOT, composed

CONF = ROOT / "conf"
OWN_HOSTS = set(CONF.glob("host/*.yaml")) - {
    CONF / "host" / "local.yaml",
    CONF / "host" / "ssh.yaml",
}  # Git ignores them
OPTIONS = sorted(
    (path.parent.name, path.stem)
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in ("hydra", "local") and path not in OWN_HOSTS
)
REJECTED = (HydraException, OmegaConfBaseException, ValueError)


def options(group: str) -> list[str]:
    return [option for g, option in OPTIONS if g == group]


def combinations() -> dict[tuple[str, str], tuple[str, ...]]:
    """For each option, overrides that choose it, together with options of other groups: composing takes a tenth of a second.

    Recipes and frames are never combined, since recipes choose frames; targets, which do too, and experiments are alone.
    """
    groups = sorted({group for group, _ in OPTIONS} - {"experiment", "frames", "target"})
    columns = [[f"{group}={option}" for option in options(group)] for group in groups]
    columns.append([""] * len(options("upsample")) + [f"frames={option}" for option in options("frames")])
    rows = [tuple(filter(None, row)) for row in zip_longest(*columns)]
    rows += [(f"{group}={option}",) for group in ("experiment", "target") for option in options(group)]
    return {cast(tuple[str, str], tuple(word.split("="))): row for row in rows for word in row}


COMBINATIONS = combinations()


def config_with(group: str, option: str) -> Config:
    return cast(Config, OmegaConf.to_object(composed(*COMBINATIONS[group, option])))


def leaves(node: Any, path: str = "") -> dict[str, Any]:
    """All values of a config by their dotted names; ??? for those that are missing."""
    if not isinstance(node, DictConfig):
        return {path: node}
    found: dict[str, Any] = {}
    for key in node:
        missing = OmegaConf.is_missing(node, key)
        found |= {f"{path}.{key!s}": "???"} if missing else leaves(node[key], f"{path}.{key!s}")
    return found


# Options


def test_combinations_have_every_option() -> None:
    assert sorted(COMBINATIONS) == OPTIONS


@pytest.mark.parametrize("overrides", sorted(set(COMBINATIONS.values())), ids=" ".join)
def test_options_compose_to_a_complete_config(overrides: tuple[str, ...]) -> None:
    raw = composed(*overrides)
    assert [path for path, value in leaves(raw).items() if value == "???"] == []
    assert isinstance(OmegaConf.to_object(raw), Config)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_option_is_described_in_its_first_line(group: str, option: str) -> None:
    lines = (CONF / group / f"{option}.yaml").read_text().splitlines()
    comments = [line for line in lines if line.startswith("# ") and not line.startswith("# @package")]
    assert comments
    assert comments[0].endswith((".", "/v1"))


@pytest.mark.parametrize(
    ("group", "option"),
    [
        (g, o)
        for g, o in OPTIONS
        if g in ("upsample", "engine", "task", "target", "template", "image", "host", "inference")
    ],
)
def test_option_has_its_own_name(group: str, option: str) -> None:
    name = getattr(config_with(group, option), group).name
    assert name == option


@pytest.mark.parametrize(("option", "tokens"), [("4k", 4096), ("8k", 8192), ("16k", 16384), ("32k", 32768)])
def test_budget_is_named_by_its_tokens(option: str, tokens: int) -> None:
    assert config_with("budget", option).budget.max_model_len == tokens


@pytest.mark.parametrize("option", options("frames"))
def test_frames_are_named_by_rule_and_count(option: str) -> None:
    frames = config_with("frames", option).frames
    assert option in (f"{frames.rule.value}_{frames.count}", "clip")
    assert (frames.rule.value == "clip") == (option == "clip")


@pytest.mark.parametrize("option", options("resolution"))
def test_resolution_is_named_by_its_category(option: str) -> None:
    assert config_with("resolution", option).resolution.name + "p" == option


def test_every_group_has_an_existing_default() -> None:
    defaults = {
        group: option
        for entry in OmegaConf.load(CONF / "config.yaml").defaults
        if isinstance(entry, DictConfig)
        for group, option in entry.items()
    }
    assert defaults.pop("experiment") is None
    for group in {group for group, _ in OPTIONS} - {"experiment"}:
        assert (group, defaults[group]) in OPTIONS


def test_defaults_are_the_documented_ones() -> None:
    config = cast(Config, OmegaConf.to_object(composed()))
    upsample, frames, budget = config.upsample, config.frames, config.budget
    assert config.task.name.value == "upsample"
    assert (upsample.name, upsample.rule.value, upsample.width_px) == ("safe_320", "fixed_width", 320)
    assert (frames.rule.value, frames.count, frames.fps) == ("head", 2, 2.0)
    assert (budget.max_model_len, budget.max_output_tokens) == (4096, 300)
    assert (config.engine.name.value, config.sampling.temperature) == ("offline", 0.6)
    assert (config.host.name, config.image.name, config.template.system) == ("local", "none", "")


# Precedence


@pytest.mark.parametrize("recipe", options("upsample"))
def test_recipe_chooses_its_own_frames(recipe: str) -> None:
    named = re.findall(r"override /frames: (\w+)", (CONF / "upsample" / f"{recipe}.yaml").read_text())
    frames = config_with("upsample", recipe).frames
    assert [f"{frames.rule.value}_{frames.count}"] == named


@pytest.mark.parametrize("recipe", options("upsample"))
def test_frames_option_wins_over_the_recipe(recipe: str) -> None:
    frames = composed(f"upsample={recipe}", "frames=ends_4").frames
    assert (frames.rule.value, frames.count) == ("ends", 4)


def test_order_of_options_does_not_matter() -> None:
    frames = composed("frames=ends_4", "upsample=best_fit").frames
    assert (frames.rule.value, frames.count) == ("ends", 4)


def test_field_wins_over_its_option() -> None:
    config = composed("budget=8k", "budget.max_model_len=5000", "upsample=best_fit", "upsample.rule=native")
    assert (config.budget.max_model_len, config.upsample.rule.value) == (5000, "native")


def test_own_defaults_win_over_the_options(tmp_path: Path) -> None:
    """They lose to the command line."""
    conf = shutil.copytree(CONF, tmp_path / "conf", ignore=shutil.ignore_patterns("defaults.yaml"))
    (conf / "local" / "defaults.yaml").write_text("# @package _global_\nsampling: {seed: 7}\nhints: {workers: 1}\n")
    with initialize_config_dir(version_base="1.3", config_dir=str(conf)):
        config = compose("config", ["hints.workers=3"])
    assert (config.sampling.seed, config.hints.workers) == (7, 3)


# Values


def with_field(override: str) -> DictConfig:
    """The default config with an override of a field, merged by Hydra; much faster than composing."""
    config = copy.deepcopy(composed())
    ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides([override]), config)
    return config


@pytest.mark.parametrize("override", ["task=nosuch", "upsample=safe_321", "nosuch=1", "engine=null", "resolution=720"])
def test_unknown_option_is_rejected(override: str) -> None:
    with pytest.raises(REJECTED):
        OmegaConf.to_object(composed(override))


@pytest.mark.parametrize(
    "override",
    [
        *["upsample.nosuch=1", "upsample.rule=nosuch", "upsample.shrink=perhaps", "upsample.width_px=wide"],
        *["upsample.width_px=320.5", "upsample.width_px=null", "frames.count=two", "frames.fps=fast"],
        *["frames.rule=middle", "budget.max_model_len=4k", "sampling.temperature=hot", "sampling.seed=1.5"],
        *["engine.name=vlllm", "video.on_bad_video=ignore", "output.specs=everywhere", "console.level=loud"],
        *["console.progress=maybe", "console=null", "model.extra_args=--enforce-eager", "prompts=null"],
    ],
)
def test_wrong_field_or_type_is_rejected(override: str) -> None:
    with pytest.raises(REJECTED):
        OmegaConf.to_object(with_field(override))


def test_unquoted_comma_is_rejected() -> None:
    with pytest.raises(REJECTED):
        composed("prompts=a,b.json")


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
        *((f"resolution.name={name}", name) for name in ("256", "480", "512", "720", "1080")),
    ],
)
def test_text_is_not_read_as_a_number(override: str, value: str | None) -> None:
    config = OmegaConf.to_object(with_field(override))
    for name in override.split("=")[0].split("."):
        config = getattr(config, name)
    assert config == value
