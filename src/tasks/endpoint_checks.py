"""What task=doctor checks of engine=endpoint: its address, its key and the name of its model, as the worker will meet them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from ..config import Config
from ..errors import AuthError, HostError, InputError, LinkLost
from ..hosts.host import Host
from ..worker.records import InvalidRecord, from_line

Check = tuple[str, Callable[[], str]]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the server says of its models: `no_key` or `error`, or `status`, `has_key` and `models`."""

    no_key: str = ""
    error: str = ""
    status: int = 0
    has_key: bool = False
    models: tuple[str, ...] = ()


def output_of(host: Host, argv: tuple[str, ...], what: str, hint: str = "") -> str:
    """The output of a command. what: the sentence that its error output completes when it fails."""
    try:
        done = host.run(argv)
    except LinkLost:
        raise
    except HostError as e:
        raise HostError(f"{what}: {e.message}", hint=hint or e.hint) from None
    if done.code:
        raise HostError(f"{what}: {done.message or f'exit code {done.code}'}", hint=hint)
    return done.out.decode("utf-8", "replace").strip()


def endpoint_checks(host: Host, config: Config) -> Iterator[Check]:
    """Three checks of one request."""

    @cache
    def ask() -> Facts:
        return _ask(host, config)

    yield "address", lambda: _address(host, config, ask())
    yield "key", lambda: _key(ask())
    yield "model", lambda: _model(config, ask())


# As the worker does it, from where the worker runs: the key stays there.
_MODELS = """
import json, os, sys, urllib.error, urllib.request
url, variable, file = sys.argv[1:]
def end(**facts):
    print(json.dumps(facts))
    sys.exit()
try:
    file = os.path.expanduser(file)
    if file and os.stat(file).st_mode & 0o077:
        end(no_key=f"{file} (engine.api_key_file) can be read by others; chmod 600 it")
    key = open(file).read(65536).strip() if file else os.environ.get(variable, "") if variable else ""
except OSError as e:
    end(no_key=f"{file} (engine.api_key_file) cannot be read: {e.strerror}")
if variable and not file and not key:
    end(no_key=f"the environment variable {variable} (engine.api_key_env) is not set")
headers = {"Authorization": "Bearer " + key} if key else {}
try:
    request = urllib.request.Request(url.rstrip("/") + "/models", headers=headers)
    with urllib.request.urlopen(request, timeout=20) as reply:
        models = json.loads(reply.read(1 << 24)).get("data", [])
        end(status=reply.status, has_key=bool(key), models=[str(m.get("id")) for m in models])
except urllib.error.HTTPError as e:
    end(status=e.code, has_key=bool(key), models=[])
except (OSError, ValueError, AttributeError, TypeError) as e:
    end(error=str(getattr(e, "reason", e)))
"""


def _ask(host: Host, config: Config) -> Facts:
    if not config.engine.base_url:
        raise InputError("engine.base_url is not set", hint="name the server, as in http://localhost:8000/v1")
    engine, python = config.engine, config.worker.python
    argv = (python, "-c", _MODELS, engine.base_url, engine.api_key_env, engine.api_key_file)
    answer = output_of(host, argv, f"{python} cannot be run", "worker.python names the interpreter of the worker")
    try:
        return from_line(Facts, answer.splitlines()[-1])
    except (InvalidRecord, IndexError):
        raise HostError(f"{python} printed {answer[:100]!r} in place of JSON", hint="is it Python 3?") from None


def _address(host: Host, config: Config, facts: Facts) -> str:
    url = config.engine.base_url
    if facts.error:
        hint = "is the server running, and is engine.base_url its address as seen from there, including /v1?"
        raise HostError(f"{url} cannot be reached from {host.name}: {facts.error}", hint=hint)
    return f"{url} is not asked without its key" if facts.no_key else f"{url} answers"


def _key(facts: Facts) -> str:
    hint = "engine.api_key_env names a variable, engine.api_key_file a file, where the worker runs"
    if facts.no_key:
        raise AuthError(facts.no_key, hint=hint)
    if facts.status in (401, 403):
        raise AuthError(f"the server refuses {'the key' if facts.has_key else 'requests without a key'}", hint=hint)
    return "is accepted" if facts.has_key else "none is set, and none is needed"


def _model(config: Config, facts: Facts) -> str:
    name, served = config.model.name, facts.models
    if facts.status != 200 or not served:
        return f"{name}: whether the server has it is not known; probe=true sends a prompt"
    if name not in served:
        raise HostError(f"the server serves {', '.join(served)}, not {name}", hint=f"model.name={served[0]}")
    return f"{name} is served"
