"""Fixtures that several test modules share: configs composed by Hydra, a tokenizer cache, a few small clips."""

from __future__ import annotations

import copy
import gc
import json
import os
import signal
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import cast

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import settings
from omegaconf import DictConfig, OmegaConf

from src.config import Config
from src.models.tokenizer import tokenizer_file
from src.resolvers import register
from tests.harness.clips import make_clip, make_sound

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = "tekken_240911.json"  # of Pixtral-12B, inside the mistral-common wheel
Configure = Callable[..., Config]
pytest_plugins = ("tests.harness.cpu_time", "tests.harness.scheduler")

os.environ.pop("COLUMNS", None)  # pytest-xdist sets it; messages break between words only on a terminal
register()
settings.register_profile("ci", max_examples=30, deadline=None, database=None, derandomize=True)
settings.register_profile("thorough", max_examples=3000, deadline=None, database=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@lru_cache(maxsize=256)
def composed(*overrides: str) -> DictConfig:
    """conf/ with these overrides, as `python -m src.run` composes it, but without the user's own conf/local."""
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        return compose("config", ["~local", *overrides])


def config_of(*overrides: str) -> Config:
    """The config that these overrides make."""
    return cast(Config, OmegaConf.to_object(composed(*overrides)))


def pytest_configure(config: pytest.Config) -> None:
    """Programs that tests start inherit whether Ctrl-C is ignored, as a shell does in what it runs in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What was imported and collected stays: the collector of cycles need not look at it again and again."""
    gc.collect()
    gc.freeze()


def shared_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder that all processes of one test run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen-") else base) / name
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the whole session; its tokenizers are built from their files once for all processes."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "tokenizer").symlink_to(shared_folder(tmp_path_factory, "tokenizer"))
    return cache


def cache_with_tokenizers(cache: Path, other: Path) -> Path:
    """A new cache folder that holds nothing but the tokenizers of another one."""
    cache.mkdir()
    (cache / "tokenizer").symlink_to(other / "tokenizer")
    return cache


def small_tokenizer(path: Path, words: int = 1000) -> str:
    """Write a tokenizer file that loads at once: the bytes and the first few merges of Pixtral's own."""
    data = json.loads(tokenizer_file(TOKENIZER).read_text())
    data["config"]["default_vocab_size"] = data["config"]["default_num_special_tokens"] + words
    data["vocab"] = data["vocab"][:words]
    path.write_text(json.dumps(data))
    return str(path)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small tokenizer file, for tests that resolve often and do not check text tokens."""
    return small_tokenizer(tmp_path_factory.mktemp("small") / "own.json")


@lru_cache(maxsize=1024)
def _configured(overrides: tuple[str, ...], folder: str) -> Config:
    fields = [o for o in overrides if "." in o.split("=")[0]]  # merged by OmegaConf alone: composing takes 0.1 s
    groups = composed(*[o for o in overrides if o not in fields])
    return cast(Config, OmegaConf.to_object(OmegaConf.merge(groups, OmegaConf.from_dotlist(fields))))


@pytest.fixture
def configure(cache_dir: Path, small: str) -> Configure:
    """A function from overrides to a fresh Config, with its cache in a temporary folder and a small tokenizer.

    exact=True leaves Pixtral's own tokenizer, which takes a quarter of a second to load.
    """

    def configured(*overrides: str, exact: bool = False) -> Config:
        config = copy.deepcopy(_configured(overrides, os.getcwd()))
        config.cache_dir = str(cache_dir)
        if not exact:
            config.model.tokenizer = small
        return config

    return configured


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small clips: wide, other, hd, portrait, square, short (.mp4), and two without a usable video."""
    folder = tmp_path_factory.mktemp("clips")
    for name, size in {"wide": (320, 180), "portrait": (180, 320), "square": (96, 96)}.items():
        make_clip(folder / f"{name}.mp4", size=size, fps=12, seconds=1)
    make_clip(folder / "hd.mp4", size=(1280, 720), fps=4, seconds=1)
    make_clip(folder / "other.mp4", size=(320, 180), fps=12, seconds=1.5)
    make_clip(folder / "short.mp4", size=(160, 90), fps=12, seconds=1 / 12)
    make_sound(folder / "sound.m4a")
    (folder / "text.mp4").write_text("ffconcat version 1.0\nfile /etc/passwd\n")
    return folder
