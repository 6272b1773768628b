"""The command line before Hydra: what can be resumed, resumed sweeps, inherited overrides, typos."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf

from src import seals
from src.config import Config
from src.overrides import (
    as_texts,
    did_you_mean,
    flags_first,
    leaves_of,
    may_set_mode,
    quoted,
    resumed_sweep,
    secret_among,
    split_override,
    unknown_fields,
    why_not_readable,
    why_not_resumable,
    with_inherited,
    with_lists,
    with_run_folders,
)
from src.text import hydra_quoted
from tests.conftest import ROOT, composed

MULTIRUN = Path(__file__).with_name(
    "multirun.yaml"
)  # as Hydra 1.3.8 writes it, without help texts and most of the config


@pytest.fixture(params=["sweep", "läuft, 雨 (1)"])
def sweep(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder of a sweep over two seeds."""
    folder: Path = tmp_path / request.param
    folder.mkdir()
    shutil.copy(MULTIRUN, folder / "multirun.yaml")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "plan.json").touch()
    return folder


# What can be resumed


def test_review_from_is_a_spelling() -> None:
    assert with_run_folders(["review.from=a/from.json"]) == ["review.verdicts=a/from.json"]


def test_run_and_sweep_folders_can_be_resumed(run: Path, sweep: Path) -> None:
    assert why_not_resumable([f"resume={run}"]) is None
    assert why_not_resumable([f"resume={hydra_quoted(str(sweep))}", "sampling.seed=3"]) is None


def test_sweep_folder_is_no_run(sweep: Path) -> None:
    reason = why_not_resumable([f"run={sweep}"])
    assert reason and reason.startswith(f"run={sweep}: the folder has no plan.json")


def test_missing_folder_cannot_be_resumed(tmp_path: Path) -> None:
    for key in ("resume", "run"):
        assert why_not_resumable([f"{key}={tmp_path}/x"]) == f"{key}={tmp_path}/x: there is no such folder"


def test_folder_without_plan_cannot_be_resumed(tmp_path: Path) -> None:
    reason = why_not_resumable([f"resume={tmp_path}"])
    assert reason and "the folder has no plan.json, so no run was started in it" in reason


@pytest.mark.parametrize("arguments", [[], ["resume=null"], ["resume="], ["prompts=nowhere", "task=plan"]])
def test_command_line_without_folder_is_fine(arguments: list[str]) -> None:
    assert why_not_resumable(arguments) is None


# Resumed sweeps


def test_resumed_sweep_repeats_its_command_line(sweep: Path) -> None:
    assert resumed_sweep([f"resume={hydra_quoted(str(sweep))}"]) == [
        "--multirun",
        "hydra/launcher=basic",
        "task=plan",
        "prompts=prompts.json",
        "sampling.seed=1,2",
        'template.user="{{ prompt }}, please"',
        f"hydra.sweep.dir={hydra_quoted(str(sweep))}",
    ]


def test_new_overrides_replace_saved_ones(sweep: Path) -> None:
    arguments = resumed_sweep(["sampling.seed=1,2,3", f"resume={hydra_quoted(str(sweep))}", "+hydra.launcher.n_jobs=2"])
    assert [a for a in arguments if "seed" in a] == ["sampling.seed=1,2,3"]
    assert "+hydra.launcher.n_jobs=2" in arguments
    assert not any(split_override(a)[0] == "resume" for a in arguments)


def test_resumed_sweep_is_valid_for_hydra(sweep: Path) -> None:
    """It stays in its folder."""
    flag, *words = resumed_sweep([f"resume={hydra_quoted(str(sweep))}"])
    parsed = {o.key_or_group: o for o in OverridesParser.create().parse_overrides(words)}
    assert flag == "--multirun"
    assert str(parsed["hydra.sweep.dir"].value()) == str(sweep)
    assert parsed["sampling.seed"].is_sweep_override()


def test_other_command_lines_are_not_changed(sweep: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments in (
        [], ["task=plan"], [f"resume={run}"], [f"run={sweep}"], [f"resume={tmp_path}/empty"], [f"resume={tmp_path}/x"],
    ):  # fmt: skip
        assert resumed_sweep(arguments) == arguments


def test_folder_with_plan_is_no_sweep(sweep: Path) -> None:
    """A folder with a plan is resumed as a run, whatever else is in it."""
    (sweep / "plan.json").touch()
    assert resumed_sweep([f"resume={sweep}"]) == [f"resume={sweep}"]


# Quotes


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("host.gpus=device=0", "device=0"),
        ("prompts=a, b (1).json", "a, b (1).json"),
        ('text=say "x", {y}: z=', 'say "x", {y}: z='),
        ("image.env=[NAME=VALUE, OTHER]", ["NAME=VALUE", "OTHER"]),
    ],
)
def test_reserved_characters_are_quoted(argument: str, value: str | list[str]) -> None:
    [word] = quoted([argument])
    [override] = OverridesParser.create().parse_overrides([word])
    found = override.value()
    assert ([str(part) for part in found] if isinstance(found, list) else str(found)) == value


@pytest.mark.parametrize(
    "argument",
    ["task=plan", "--multirun", "sampling.seed=1,2", "prompts='a b'", "runs=[a,b]", "aspect=16:9", "x", "a="],
)
def test_readable_arguments_are_not_changed(argument: str) -> None:
    assert quoted([argument]) == [argument]


# Reruns of reviews


def test_rerun_inherits_how_a_run_was_made(tmp_path: Path) -> None:
    """It does not inherit what the run was about."""
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text(
        "- prompts=mine.json\n- engine=vllm\n- sampling.seed=1\n- +task=upsample\n- 'template.user=\"{{ prompt }}, please\"'\n"
    )
    arguments = ["task=review", f"run='{tmp_path}'", "review.rerun=true", "sampling.seed=7"]
    assert with_inherited(arguments) == [*arguments, "engine=vllm", 'template.user="{{ prompt }}, please"']
    assert with_inherited(arguments[:2]) == arguments[:2]


def test_rerun_of_unknown_run_inherits_nothing() -> None:
    arguments = ["task=review", "run=nowhere", "review.rerun=true"]
    assert with_inherited(arguments) == arguments


# Typos


@pytest.mark.parametrize("override", ["+engine.nosuch=1", "+upsample.nosuch=1", "+nosuch=1"])
def test_added_fields_are_unknown(override: str) -> None:
    name = override[1:].split("=")[0]
    assert unknown_fields(composed(override), Config) == [name]
    assert unknown_fields(composed(), Config) == []


@pytest.mark.parametrize(
    ("override", "advice"),
    [
        ("sampling.temprature=1", "did you mean sampling.temperature?"),
        ("budgt=4k", "did you mean budget?"),
        ("zzz=1", ""),
    ],
)
def test_similar_names_are_suggested(override: str, advice: str) -> None:
    with pytest.raises(HydraException) as caught:
        composed(override)
    assert did_you_mean(str(caught.value)) == advice


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("prompts=a.json", ("prompts", "a.json")),
        ("+a.b=1", ("a.b", "1")),
        ("~local", ("local", "")),
        ("run='a b'", ("run", "a b")),
        ('run="a \\"b\\""', ("run", 'a "b"')),
        ("text=a=b", ("text", "a=b")),
    ],
)
def test_override_is_split_without_quotes(argument: str, expected: tuple[str, str]) -> None:
    assert split_override(argument) == expected


@pytest.mark.parametrize(
    "argument",
    [
        "engine.base_url=http://user:sk-planted@host/v1", "'prompts=https://sk-planted@host/x'", "+engine.api_key=sk-planted",
        "engine.api_key_env=sk-planted", "host.password_env=sk-planted", "image.env=[A=1,HF_TOKEN=sk-planted]",
        "host=[root:sk-planted@gpu1,gpu2]", "host.address=me:sk-planted@gpu1", "model.extra_args=[--hf-token=sk-planted]",
        "host.sbatch=['--export=ALL,HF_TOKEN=sk-planted']", "host.sbatch=[--comment=token=sk-planted]",
        "notify.url=http://h/x?a=1&token=sk-planted", "engine.base_url=http://h/v1#key=sk-planted",
        "model.extra_args=[--api-key,sk-planted]", "+host.password=sk-planted", "notify.url_env=http://h/sk-planted",
    ],
)  # fmt: skip
def test_secret_on_the_command_line_is_not_repeated(argument: str) -> None:
    reason = secret_among([split_override(argument)])
    assert reason and "sk-planted" not in reason


@pytest.mark.parametrize(
    "argument",
    ["engine.base_url=http://host:8000/v1", "engine.api_key_env=MY_KEY", "engine.api_key_file=~/k", "image.env=[HF_TOKEN]",
     "host=[me@gpu1:22,'[::1]:22']", "host.address=me@fe80::1", "host.sbatch=[--gpus=1,--time=4:00:00,--export=NONE]",
     "model.extra_args=[--tokenizer=x,--max-num-batched-tokens=2048]", "host.docker=[docker,--tlskey=k.pem,-H,tcp://h:1]",
     "image.env=[HF_TOKEN,HF_HUB_OFFLINE=1]", "prompts=a@b.json", "budget.max_output_tokens=7", "model.tokenizer=x"],
)  # fmt: skip
def test_command_line_without_a_secret_passes(argument: str) -> None:
    assert secret_among([split_override(argument)]) is None


@pytest.mark.parametrize("names", ["HF_TOKEN", "MY_API_KEY", "password"])
@pytest.mark.parametrize("quote", ['"', "'", '\\"'])
def test_secret_in_a_runtime_environment_is_found(names: str, quote: str) -> None:
    value = '{"env_vars": {"X": "1", "NAME": "sk-planted"}}'.replace("NAME", names).replace('"', quote)
    reason = secret_among([("host.runtime_env", value)])
    assert reason and "sk-planted" not in reason
    assert secret_among([("host.runtime_env", value.replace("sk-planted", "").replace(names, f"{names}_FILE"))]) is None


@pytest.mark.parametrize(
    "given",
    [
        ("model.extra_args", """[--override-generation-config,'{"eos_token": "</s>"}']"""),
        ("model.extra_args", """[--hf-overrides,'{"pad_token": "<pad>"}']"""),
        ("inference.extra_args", "[--hint_key,edge]"),
        ("host.runtime_env", '{"pip": ["x"], "env_vars": {"HF_HUB_OFFLINE": "1"}}'),
    ],
)
def test_words_of_models_are_no_secrets(given: tuple[str, str]) -> None:
    assert secret_among([given]) is None


def test_quoted_runs_are_found_like_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b").mkdir()
    assert with_run_folders(['runs=["a b","001"]']) == ['runs=["a b","001"]']
    (tmp_path / "outputs" / "n" / "x").mkdir(parents=True)
    (tmp_path / "outputs" / "n" / "plan.json").write_text("{}")
    [found] = with_run_folders(['runs=["a b",n]'])
    assert found == 'runs=["a b","outputs/n"]'


def test_defaults_hold_no_secret() -> None:
    assert secret_among(leaves_of(OmegaConf.to_container(composed()))) is None


@pytest.mark.parametrize("name", ["log.jsonl", "specs", "hints/a", "job/a/worker.pyz", "job/queue/frames/a.png"])
def test_run_folder_with_a_link_is_refused(run: Path, name: str) -> None:
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).symlink_to("/tmp/elsewhere")
    assert name in (why_not_resumable([f"resume={run}"]) or "")


@pytest.mark.parametrize("named", ["worker.python=/tmp/x", "host.docker=[/tmp/x]", "hydra.callbacks.x=y"])
def test_foreign_sweep_runs_nothing_it_names(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    record = sweep / "multirun.yaml"
    record.write_text(record.read_text().replace("task=plan", named))
    with pytest.raises(ValueError, match="another user") as error:
        resumed_sweep([f"resume={sweep}"])
    assert named in str(error.value)
    seals.seal(record)
    assert named in resumed_sweep([f"resume={sweep}"])


@pytest.mark.parametrize("value", ["inputs/day-*final.json", "a/{x,*y}.json", "[*.json]", "a: *b", "'*x'"])
def test_pattern_in_a_sweep_is_no_alias(sweep: Path, value: str) -> None:
    record = sweep / "multirun.yaml"
    text = json.dumps(f"prompts={value}")
    record.write_text(record.read_text().replace("- task=plan", f"- task=plan\n    - {text}"))
    seals.seal(record)
    assert f"prompts={value}" in resumed_sweep([f"resume={sweep}"])


def test_lock_of_an_editor_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / ".#defaults.yaml").symlink_to("me@here.1234:1")
    assert why_not_readable([], tmp_path) is None


def test_config_that_stands_for_millions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "few.yaml").write_text("a: &a [1]\nb: *a\nc: '* not one'\n")
    assert why_not_readable([f"--config-dir={tmp_path}"], tmp_path / "nosuch") is None
    levels = (f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}]\n" for n in range(1, 30))
    (tmp_path / "bomb.yaml").write_text("l0: &l0 [x]\n" + "".join(levels))
    for given in (["--config-dir", str(tmp_path)], ["-cd", str(tmp_path)], [f"--config-dir={tmp_path}"]):
        assert "bomb.yaml" in (why_not_readable(given, tmp_path / "nosuch") or "")


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("resume=latest", 'resume="outputs/day/b"'),
        ("run=nightly", 'run="outputs/day/a"'),
        ("run=day/a", 'run="outputs/day/a"'),
        ("run=unknown", "run=unknown"),
        ("run=null", "run=null"),
        ("run=outputs/day/a", "run=outputs/day/a"),
        ("runs=[latest,nightly]", 'runs=["outputs/day/b","outputs/day/a"]'),
        ("runs=[outputs/day/a,outputs/day/b]", "runs=[outputs/day/a,outputs/day/b]"),
        ('runs=["a, b",c]', 'runs=["a, b",c]'),
        ("name=latest", "name=latest"),
    ],
)
def test_names_of_runs_become_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(("a", "b")):
        run = tmp_path / "outputs" / "day" / name
        run.mkdir(parents=True)
        (run / "plan.json").touch()
        os.utime(run / "plan.json", (1000 + age, 1000 + age))
    (tmp_path / "outputs/day/a/run.json").write_text('{"name": "nightly"}')
    assert with_run_folders([argument, "task=status"]) == [expected, "task=status"]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("run=latest", "there is no run in outputs/ yet"),
        ("resume=nightly", "no run of that name"),
        ("run=a/b", "no such folder"),
    ],
)
def test_missing_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in (why_not_resumable(with_run_folders([argument])) or "")


@pytest.mark.parametrize("flag", ["--multirun", "-m"])
def test_multirun_may_stand_between_overrides(flag: str) -> None:
    given = ["budget=4k,8k", flag, "upsample=max_320"]
    assert flags_first(given) == [flag, "budget=4k,8k", "upsample=max_320"]
    assert flags_first(["budget=4k"]) == ["budget=4k"]


@pytest.mark.parametrize("arguments", [[], ["-cd"], ["seed=1", "--config-dir", "nowhere"]])
def test_command_line_without_aliases_is_readable(arguments: list[str], tmp_path: Path) -> None:
    assert why_not_readable(arguments, tmp_path) is None


def test_lists_of_hosts_and_servers_are_fields() -> None:
    given = ["host=[gpu_a,me@10.0.0.8]", "engine.base_url=[http://a:1/v1, http://b:2/v1]", "host.root=/x", "seed=[1]"]
    assert with_lists(given) == [
        "host=fleet", "host.members=[gpu_a,me@10.0.0.8]",
        "engine.base_url=http://a:1/v1", "engine.more_urls=[ http://b:2/v1]", "host.root=/x", "seed=[1]",
    ]  # fmt: skip


def test_list_keeps_objects_whole() -> None:
    given = 'model.extra_args=[--mm-processor-kwargs,{"min_pixels":3136,"max_pixels":602112}]'
    (readable,) = quoted([given])
    value = OverridesParser.create().parse_override(readable).value()
    assert isinstance(value, list)
    assert [str(part) for part in value] == ["--mm-processor-kwargs", '{"min_pixels":3136,"max_pixels":602112}']


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["task=plan", "hydra.run.dir=x", "upsample=best_fit"], False), (["+experiment=token_limits"], True),
        (["experiment=nosuch"], True), (["hydra.mode=MULTIRUN"], True), (["hydra/launcher=slurm"], True),
        (["--config-dir=x"], True),
        (["--config-name=experiment/token_limits"], True), (["-cn", "x"], True),
        (["hydra.searchpath=[x]"], True), (["--multirun", "seed=1,2"], False),
    ],
)  # fmt: skip
def test_mode_is_looked_up_where_it_may_be_set(arguments: list[str], expected: bool) -> None:
    assert may_set_mode(arguments, ROOT / "conf") is expected


@pytest.mark.parametrize(("place", "expected"), [("local", True), (".", True), ("frames", False)])
def test_mode_of_own_files_counts(tmp_path: Path, place: str, expected: bool) -> None:
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "own.yaml").write_text("hydra:\n  mode: MULTIRUN\n")
    assert may_set_mode(["upsample=best_fit"], tmp_path) is expected
    assert may_set_mode(["frames=own"], tmp_path)


def test_editors_lock_is_no_config_file(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / ".#own.yaml").symlink_to("nowhere")
    (tmp_path / "odd.yaml").mkdir()
    assert not may_set_mode(["upsample=best_fit"], tmp_path)


@pytest.mark.parametrize("text", ["defaults: [/experiment/mine]", "defaults:\n- override /experiment: mine\n"])
def test_mode_of_a_file_that_another_one_names_counts(tmp_path: Path, text: str) -> None:
    for folder in ("local", "experiment"):
        (tmp_path / folder).mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("hydra:\n  mode: MULTIRUN\n")
    (tmp_path / "config.yaml").write_text("defaults:\n- experiment: null\n")
    assert not may_set_mode(["upsample=best_fit"], tmp_path)
    (tmp_path / "local" / "defaults.yaml").write_text(text)
    assert may_set_mode(["upsample=best_fit"], tmp_path)


def sweep_with_own_files(folder: Path) -> Path:
    """As Hydra writes it down; the folder of the config files is there."""
    overrides = {"hydra": ["hydra.sweep.subdir=${budget.max_model_len}_x"], "task": ["name=b${budget.max_model_len}"]}
    (folder / "mine").mkdir()
    sources = [
        {"path": str(folder / "mine"), "schema": "file", "provider": "command-line"},
        {"path": "x", "provider": "main"},
    ]
    record = {"hydra": {"overrides": overrides, "runtime": {"config_sources": sources}}}
    (folder / "multirun.yaml").write_text(json.dumps(record))
    return folder / "multirun.yaml"


def test_resumed_sweep_keeps_interpolations_and_files(tmp_path: Path) -> None:
    seals.seal(sweep_with_own_files(tmp_path))
    command = resumed_sweep(flags_first(["sampling.seed=3", f"resume={tmp_path}", "--multirun"]))
    parsed = get_args_parser().parse_args(command)
    assert parsed.config_dir == str(tmp_path / "mine") and parsed.multirun
    assert {"hydra.sweep.subdir=${budget.max_model_len}_x", "name=b${budget.max_model_len}", "sampling.seed=3"} <= {
        *parsed.overrides
    }


def test_config_files_of_a_foreign_sweep_are_not_read(tmp_path: Path) -> None:
    """They could name programs, whatever the overrides say."""
    sweep_with_own_files(tmp_path)
    with pytest.raises(ValueError, match="another user"):
        resumed_sweep([f"resume={tmp_path}"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["task=plan", "--config-dir", "mine", "host=a"], ["a=b", "--cfg", "job", "c=d"], ["a=b", "-m", "c=d"],
        ["a=b", "--config-dir=mine", "c=d"],
    ],
)  # fmt: skip
def test_flags_between_overrides_are_understood(arguments: list[str]) -> None:
    parsed = get_args_parser().parse_args(flags_first(arguments))
    assert parsed.overrides == [argument for argument in arguments if "=" in argument and argument[0] != "-"]


@pytest.mark.parametrize("text", ["", "[]", "hydra: {}"])
def test_damaged_record_of_a_sweep_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "multirun.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"multirun\.yaml: is damaged"):
        resumed_sweep([f"resume={tmp_path}"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("name=2026_02", 'name="2026_02"'), ("prompts=1e5", 'prompts="1e5"'), ("resume=null", "resume=null"),
        ("name=boat", "name=boat"), ("seed=7", "seed=7"), ("run=2026-01/1", "run=2026-01/1"),
    ],
)  # fmt: skip
def test_texts_that_look_like_numbers_stay(given: str, expected: str) -> None:
    assert as_texts([given]) == [expected]
    value = OverridesParser.create().parse_override(expected).value()
    assert value is None or given.partition("=")[0] == "seed" or isinstance(value, QuotedString | str)
