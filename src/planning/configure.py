"""Config groups become frozen settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, TypeVar

from ..choices import AnswerKind, EngineName, FrameRule, HostKind, Language, TaskName
from ..config import Config, HostConf, ModelConf
from ..errors import InputError
from ..models.families import with_cap, with_checkpoint
from ..prompts.fields import Reading
from ..targets.target import Messages, Target, messages_in, target_of
from ..worker.job_settings import EngineSettings, ModelSettings
from ..worker.protocol import AUTO
from ..worker.records import InvalidRecord, from_json, to_json
from . import observed_limits
from .settings import HostSettings, ImageSettings, Settings, digest

T = TypeVar("T")
NOT_MACHINES = (HostKind.fleet.value, HostKind.ray.value)


def checked(kind: type[T], group: str, values: Mapping[str, Any]) -> T:
    """A config group as a plan value, held to the same checks as one that is read from a file."""
    try:
        return from_json(kind, dict(values), group)
    except InvalidRecord as e:
        raise InputError(f"the config cannot be used:\n  - {e}") from None


def host_settings(host: HostConf) -> HostSettings:
    """The host group, or a member of a fleet, as a plan value; InputError when it names no machine."""
    if host.kind is HostKind.ssh and not host.address:
        raise InputError(
            "host.address: host=ssh needs a name from ~/.ssh/config, or the name or address of a machine",
            hint="host.address=NAME, or a file conf/host/NAME.yaml of your own (docs/remote.md)",
        )
    return checked(HostSettings, "host", vars(host) | {"kind": host.kind.value})


def members_of(config: Config) -> tuple[HostSettings, ...]:
    """The machines of a fleet; none for one machine. InputError for a fleet that cannot be."""
    if config.host.kind is not HostKind.fleet:
        return ()
    members = tuple(host_settings(member) for member in config.fleet)
    names = [member.name for member in members]
    if not members or len(set(names)) < len(names) or any(member.kind in NOT_MACHINES for member in members):
        raise InputError(
            "host.members: host=fleet needs machines, each once, no other fleet and no Ray",
            hint="host=[gpu_a,gpu_b], with names of files in conf/host/ or addresses (docs/scale.md)",
        )
    return members


def one_machine(config: Config, what: str) -> HostSettings:
    """The host group where it must be one machine."""
    if config.host.kind.value in NOT_MACHINES:
        raise InputError(
            f"host={config.host.name}: {what} one machine, not on a {config.host.kind.value}",
            hint="name one member: host=NAME",
        )
    return host_settings(config.host)


def machines_of(config: Config) -> tuple[HostSettings, ...]:
    """Each machine that the host group names."""
    return members_of(config) or (host_settings(config.host),)


def image_settings(config: Config) -> ImageSettings:
    """The image group as a plan value."""
    return checked(ImageSettings, "image", vars(config.image))


def model_settings(model: ModelConf, form: AnswerKind = AnswerKind.text) -> ModelSettings:
    """The model group as a plan value, with what the files of a readable checkpoint say; its examples where a text is wanted."""
    values = {key: value for key, value in vars(model).items() if key != "system"} | {"family": model.family.value}
    if form is not AnswerKind.text:
        values["examples"] = []
    return with_checkpoint(checked(ModelSettings, "model", values))


def target_settings(config: Config) -> Target:
    """The target group as a plan value."""
    conf = config.target
    words = {"form": conf.form.value, "language": _language(conf.language)}
    target = target_of(vars(conf) | words | {"language_with_frames": _language(conf.language_with_frames)})
    _, messages = messages_of(config)
    return replace(target, messages=digest(*astuple(messages))) if target.hash else target


def _language(language: Language) -> str:
    return "" if language is Language.any else language.value


def messages_of(config: Config) -> tuple[str, Messages]:
    """Where the messages come from, in a word, and their templates: those of template=, where one was chosen, else the target's,
    in whose place a model may have some for a text. Raises InputError for template= and target.template together."""
    template, target = config.template, config.target
    if template.system or template.user.strip() != "{{ prompt }}":
        if target.template:
            raise InputError(f"target.template and template={template.name} both name messages", hint="leave one out")
        return template.name, Messages(template.system, template.user)
    if target.template:
        return target.template, messages_in(target.template)
    if config.model.system and target.form is AnswerKind.text:  # asked in the one way that it understands
        return config.model.name, Messages(config.model.system, template.user)
    name = target.name if target.system or target.user else template.name
    return name, Messages(target.system, target.user or template.user, target.user_empty)


def in_flight(config: Config) -> int:
    """engine.in_flight as a number. Raises ValueError when it is none."""
    given = config.engine.in_flight
    return AUTO if given == "auto" else int(given)


def reading(config: Config) -> Reading:
    """How prompt files are read. Specs of NVIDIA's examples name clips below its checkout, which may be the working folder."""
    roots = (config.video.root,) if config.video.root else ()
    checkouts = (config.inference.repository, ".") if config.inference.repository else (".",)
    return Reading(config.columns.video, config.columns.prompt, roots, checkouts, config.prompts)


def _counted_or_not(settings: Settings) -> Settings:
    """The settings, with the family `unverified` where no llama.cpp of this machine can count for the host."""
    from ..models.gguf import can_count  # with HTTP, which others do without

    if can_count(settings.model, is_here=settings.host.kind == HostKind.local.value):
        return settings
    return replace(settings, model=replace(settings.model, family="unverified"))


def plan_settings(config: Config) -> Settings:
    """What all items of a run share, with the limit that was observed of this engine."""
    engine = vars(config.engine)
    settings = Settings(
        recipe=config.upsample.name,
        engine=checked(
            EngineSettings, "engine", engine | {"name": config.engine.name.value, "in_flight": in_flight(config)}
        ),
        model=model_settings(config.model, config.target.form),
        template=messages_of(config)[0],
        max_model_len=config.budget.max_model_len,
        max_output_tokens=config.budget.max_output_tokens,
        text_margin=config.budget.text_margin,
        temperature=config.sampling.temperature,
        seed=config.sampling.seed,
        check_cut_off=config.checks.cut_off,
        check_script=config.checks.script,
        python=config.worker.python,
        host=host_settings(config.host),
        members=members_of(config),
        image=image_settings(config),
        reuse=config.reuse,
        cache_dir=config.cache_dir,
        hint_video=config.hints.video,
        render_workers=config.hints.workers,
        on_bad_video=config.video.on_bad_video.value,
        spec_output=config.output.specs.value,
        paths=config.output.paths.value,
        report=config.output.report,
        embed_mb=config.output.embed_mb,
        shrink=config.upsample.shrink,
        min_side_px=config.upsample.min_side_px,
        max_render_s=config.video.max_render_s,
        max_pixels=config.video.max_pixels,
        target=target_settings(config),
        exports=tuple(dict.fromkeys(export.value for export in config.output.exports)),
    )
    settings = checked(Settings, "", to_json(settings))
    if settings.model.text_only and settings.engine.name == EngineName.offline.value:  # which sees them
        settings = replace(settings, model=replace(settings.model, text_only=False, family="unverified"))
    if settings.model.family == "ask" and settings.model.gguf and settings.engine.name != EngineName.endpoint.value:
        settings = _counted_or_not(settings)
    if config.frames.rule is FrameRule.clip:
        settings = replace(settings, model=with_cap(settings.model, settings.engine, settings.cache_dir))
    if config.task.name is TaskName.limits:  # it measures them
        return settings
    known = observed_limits.read(observed_limits.limits_file(Path(config.cache_dir)))
    limit = known.get(observed_limits.key_of(settings))
    return replace(settings, effective_len=(limit and limit.effective_len) or 0)
