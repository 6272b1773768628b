"""--help: tasks, config groups and fields, explained by the comments of conf/ and config.py, and the words of choices.py.

Standard library only: the schema is parsed as source, so the comment next to a field is its description.
"""

from __future__ import annotations

import ast
import io
import re
import textwrap
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from . import choices
from .files import bundled
from .shortcuts import WORDS
from .text import PROGRAM, natural_key

HIDDEN = ("hydra", "local")  # folders of conf/ that are no config groups: Hydra's own, and the user's defaults
EXAMPLES = (
    ("", "the bundled examples, no model needed"),
    ("prompts=FILE upsample=best_fit", "your prompts, and frames as large as fit"),
    ("task=spec prompts=CLIPS", "make prompt specs from clips"),
    ("resume=outputs/DATE/TIME", "resume whatever is in that folder"),
    ("task=compare runs=[A,B]", "two runs side by side"),
    ("--multirun upsample=safe_320,native", "sweep over values"),
)


def help_text(arguments: Sequence[str], more: Iterable[Path] = (), width: int = 100) -> str:
    """The text for a command line with --help. `--help task=review` and `--help model` explain an option and a group. more:
    folders with config files beside conf/."""
    conf = (bundled("conf"), *more)
    for topic in (word for word in arguments if not word.startswith("-")):
        group, _, name = topic.partition("=")
        if found := [option for option in _options(conf, group) if name in ("", option.name)]:
            return "\n".join(_explained(group, name, found, conf, width))
    return "\n".join(_overview(conf, width))


def _overview(conf: Sequence[Path], width: int) -> Iterator[str]:
    yield "Long, faithful prompts from short prompts and videos, planned to the token.\n"
    yield f"Usage:  {PROGRAM} [group=option] [field=value] ...\n"
    yield from _listed([(f"{PROGRAM} {words}".rstrip(), text) for words, text in EXAMPLES], width)
    yield "\nShort commands, rewritten to the overrides that they stand for:\n"
    yield from _listed([(f"{PROGRAM} {word} {rest}".rstrip(), text) for word, (rest, text, _) in WORDS.items()], width)
    names = sorted({f.name for folder in conf for f in folder.iterdir() if f.is_dir() and any(f.glob("*.yaml"))})
    for group in ("task", *(name for name in names if name not in (*HIDDEN, "task"))):
        yield f"\n{group}=  (* is the default)"
        yield from _listed([_line_of(option) for option in _options(conf, group)], width)
    yield f"\nOne task, group or option:  {PROGRAM} --help task=review\nThe whole config:           {PROGRAM} --cfg job"


def _explained(group: str, name: str, options: list[Option], conf: Sequence[Path], width: int) -> Iterator[str]:
    """A group or one option of it, with the fields that belong to it."""
    yield f"{group}={name}"
    yield from _listed([_line_of(option) for option in options], width)
    known = schema()
    nodes = {field.name: field.type for field in known["Config"].fields}
    named = [field for field in known["Config"].fields if name and re.search(rf"task=[^.]*\b{name}\b", field.comment)]
    block = known.get(nodes.get(name if group == "task" else group, ""))
    if group != "task" and name:
        file = next(folder / group / f"{name}.yaml" for folder in conf if (folder / group / f"{name}.yaml").is_file())
        yield "\n" + textwrap.indent(file.read_text(encoding="utf-8").rstrip(), "  ")
    fields = [("", field) for field in named if group == "task"]
    fields += (
        [(f"{name if group == 'task' else group}.", field) for field in block.fields] if block and group != name else []
    )
    if fields:
        yield "\nFields:"
        yield from _listed(
            [(f"{prefix}{f.name}", f"{f.comment} ({f.default})".replace("`", "").strip()) for prefix, f in fields],
            width,
        )


def _options(conf: Sequence[Path], group: str) -> list[Option]:
    return [option for folder in conf if group not in HIDDEN for option in options_of(folder / group)]


def _line_of(option: Option) -> tuple[str, str]:
    return f"{option.name}{' *' if option.default else ''}", option.text


def _listed(rows: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    """Lines of two columns; the second is broken between words."""
    first = min(max((len(name) for name, _ in rows), default=0), 56)
    for name, text in rows:
        wrapped = textwrap.wrap(text, max(20, width - first - 4)) or [""]
        yield f"  {name:<{first}}  {wrapped[0]}".rstrip()
        yield from (f"  {'':<{first}}  {line}" for line in wrapped[1:])


@dataclass(frozen=True)
class Field:
    """One field of a config class, as in its source."""

    name: str
    type: str
    default: str
    comment: str


@dataclass(frozen=True)
class Block:
    """One config class: its docstring and its fields in order."""

    text: str
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Option:
    """One file of a config group."""

    name: str
    text: str
    default: bool


def blocks(source: str) -> dict[str, Block]:
    """The config classes of a schema by name; enumerations become the types of fields."""
    comments = dict(_comments(source))
    kinds = [kind for kind in vars(choices).values() if isinstance(kind, type) and issubclass(kind, StrEnum)]
    enums = {kind.__name__: ", ".join(f"`{word}`" for word in kind) for kind in kinds}
    return {
        c.name: Block(
            ast.get_docstring(c) or "",
            tuple(
                Field(n.target.id, _type(n.annotation, enums), _default(n.value), _comment_of(n, comments))
                for n in c.body
                if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
            ),
        )
        for c in ast.parse(source).body
        if isinstance(c, ast.ClassDef)
    }


def options_of(folder: Path) -> tuple[Option, ...]:
    """The options of a config group, in natural order."""
    defaults = folder.parent / "config.yaml"
    text = defaults.read_text(encoding="utf-8") if defaults.is_file() else ""  # not in a folder of one's own
    chosen = dict(re.findall(r"^  - (\w+): (\w+)", text, re.MULTILINE))
    return tuple(
        Option(file.stem, _first_comment(file), chosen.get(folder.name) == file.stem)
        for file in sorted(folder.glob("*.yaml"), key=lambda file: natural_key(file.stem))
    )


def schema() -> dict[str, Block]:
    """The config classes of this program."""
    return blocks(Path(__file__).with_name("config.py").read_text(encoding="utf-8"))


def _comments(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            is_alone = not token.line[: token.start[1]].strip()  # it is about the line below it
            yield token.start[0] + is_alone, token.string.removeprefix("#").strip()


def _comment_of(node: ast.stmt, comments: dict[int, str]) -> str:
    """The comment next to a field, or above it."""
    return " ".join(comments[line] for line in range(node.lineno, (node.end_lineno or 0) + 1) if line in comments)


def _type(annotation: ast.expr, enums: dict[str, str]) -> str:
    text = ast.unparse(annotation)
    if (of := re.fullmatch(r"list\[(\w+)\]", text)) and of[1] in enums:
        return f"list of {enums[of[1]]}"
    return enums.get(text, text.replace(" | None", " or null"))


def _default(value: ast.expr | None) -> str:
    """A default as on the command line."""
    if isinstance(value, ast.Call):  # field(default_factory=list), or a lambda
        factory = value.keywords[0].value
        call = f"{ast.unparse(factory)}()"
        value = factory.body if isinstance(factory, ast.Lambda) else ast.parse(call, mode="eval").body
    match value:
        case None | ast.Name(id="MISSING"):
            return "by option"
        case ast.Attribute():  # a member of an enumeration
            return f"`{value.attr}`"
        case ast.Call(func=ast.Name(id="dict")):
            return "`{}`"
        case ast.Call(func=ast.Name(id="list")):
            return "`[]`"
        case ast.List():
            return f"`[{', '.join(str(ast.literal_eval(e)) for e in value.elts)}]`"
        case ast.Constant(value=bool() | None):
            return f"`{'null' if value.value is None else str(value.value).lower()}`"
        case ast.Constant(value=str() as text):
            return f"`{text}`" if text else "empty"
        case ast.BinOp(op=ast.Mult()):
            return f"`{ast.literal_eval(value.left) * ast.literal_eval(value.right)}`"
        case _:
            return f"`{ast.unparse(value)}`"


def _first_comment(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").splitlines()
    return next((line[2:] for line in lines if line.startswith("# ") and not line.startswith("# @package")), "")
