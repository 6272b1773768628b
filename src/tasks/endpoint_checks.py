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
    """Three checks of one request to each server."""
    urls = (config.engine.base_url, *config.engine.more_urls)

    @cache
    def ask(url: str) -> Facts:
        return _ask(host, config, url)

    def each(check: Callable[[str], str]) -> str:
        return "; ".join(dict.fromkeys(map(check, urls)))

    yield "address", lambda: each(lambda url: _address(host, url, ask(url)))
    yield "key", lambda: each(lambda url: _key(ask(url)))
    yield "model", lambda: each(lambda url: _model(config, ask(url)))


# As the worker does it, from where the worker runs: the key stays there, and goes to no other address.
_MODELS = """
import ipaddress, json, os, ssl, sys, urllib.error, urllib.parse, urllib.request
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
if (file or variable) and (not key or not key.isascii() or not key.isprintable() or " " in key):
    end(no_key=f"{file or variable}: holds no key: one line of visible ASCII characters is needed")
class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None
name = urllib.parse.urlsplit(url).hostname or ""
try:
    is_here = ipaddress.ip_address(name).is_loopback
except ValueError:
    is_here = name == "localhost" or name.endswith(".localhost")
handlers = [Stay()] + [urllib.request.ProxyHandler({})] * is_here
try:
    named = [os.environ[n] for n in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if os.environ.get(n)] or [None]
    where = "capath" if named[0] and os.path.isdir(named[0]) else "cafile"
    handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(**{where: named[0]})))
except OSError as e:
    end(error=f"{named[0]}: {e.strerror}")
headers = {"Authorization": "Bearer " + key} if key else {}
try:
    parts = urllib.parse.urlsplit(url)
    request = urllib.request.Request(parts._replace(path=parts.path.rstrip("/") + "/models").geturl(), headers=headers)
    with urllib.request.build_opener(*handlers).open(request, timeout=20) as reply:
        models = json.loads(reply.read(1 << 24)).get("data", [])
        end(status=reply.status, has_key=bool(key), models=[str(m.get("id")) for m in models])
except urllib.error.HTTPError as e:
    end(status=e.code, has_key=bool(key), models=[])
except (OSError, ValueError, AttributeError, TypeError) as e:
    end(error=str(getattr(e, "reason", e)))
"""


def _ask(host: Host, config: Config, url: str) -> Facts:
    if not url:
        raise InputError("engine.base_url is not set", hint="name the server, as in http://localhost:8000/v1")
    engine, python = config.engine, config.worker.python
    argv = (python, "-c", _MODELS, url, engine.api_key_env, engine.api_key_file)
    answer = output_of(host, argv, f"{python} cannot be run", "worker.python names the interpreter of the worker")
    try:
        return from_line(Facts, answer.splitlines()[-1])
    except (InvalidRecord, IndexError):
        raise HostError(f"{python} printed {answer[:100]!r} in place of JSON", hint="is it Python 3?") from None


def _address(host: Host, url: str, facts: Facts) -> str:
    hint = "is the server running, and is engine.base_url its address as seen from there, including /v1?"
    if facts.error:
        raise HostError(f"{url} cannot be reached from {host.name}: {facts.error}", hint=hint)
    if 300 <= facts.status < 400:
        raise HostError(
            f"{url} sends requests elsewhere (HTTP {facts.status})", hint="name the address where it sends them"
        )
    if facts.status == 404:
        return f"{url} answers, and has no list of models (HTTP 404): does the address end as the server wants it, as in /v1?"
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
