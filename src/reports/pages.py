"""Templates of HTML pages that need nothing beside them; the home of jinja2, together with planning.resolve."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from ..line_json import json_line

TEMPLATES = Path(__file__).parent / "templates"


def page_template(name: str) -> Template:
    """A template from templates/, compiled once; every value is escaped, and a missing one is an error."""
    return _environment().get_template(name)


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    env = ImmutableSandboxedEnvironment(
        autoescape=True,
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"script_json": script_json, "script_hash": script_hash}
    return env


def script_json(value: Any) -> Markup:
    """JSON that can stand inside <script>: there is no `<` in it, so neither `</script` nor `<!--`."""
    return Markup(json_line(value).replace("<", "\\u003c"))


def script_hash(text: str) -> str:
    """The hash by which the page's content security policy knows its one script; any other is refused."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
