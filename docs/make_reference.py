"""The page `docs/reference.md`, made from src/config.py and conf/: `python -m docs.make_reference` writes it anew.

Standard library only: the schema is read as source, so that the one comment beside a field becomes its description,
and nothing is imported that would have to be installed first.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference.md"
NOT_ABOUT_RUNS = ("hydra", "local")  # folders of conf/ that are no group of ours: Hydra's own, and the user's
HEAD = """\
<!-- Made by `python -m docs.make_reference` from src/config.py and conf/. Do not edit it here. -->

# Reference

Every config group with its options, and every field with its type and default. An option is chosen with
`group=option`, a field with `group.field=value`. `python -m src.run --cfg job` shows the config as it is composed from
them. A default of "by option" is set by the chosen option of the group.
"""


@dataclass(frozen=True)
class Field:
    """One field of a config class, as its source has it."""

    name: str
    type: str
    default: str
    comment: str


@dataclass(frozen=True)
class Block:
    """One config class: the text of its docstring, and its fields in order."""

    text: str
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Option:
    """One file of a config group."""

    name: str
    text: str
    default: bool


def blocks(source: str) -> dict[str, Block]:
    """The config classes of a schema by name; enumerations appear as the types of fields."""
    comments = dict(_comments(source))
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    enums = {c.name: _members(c) for c in classes if any(ast.unparse(base) == "Enum" for base in c.bases)}
    return {
        c.name: Block(
            ast.get_docstring(c) or "",
            tuple(
                Field(n.target.id, _type(n.annotation, enums), _default(n.value), _beside(n, comments))
                for n in c.body
                if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
            ),
        )
        for c in classes
        if c.name not in enums
    }


def groups(conf: Path) -> dict[str, tuple[Option, ...]]:
    """The config groups by name, with the options that git knows: a host of the user's own is not one of them."""
    chosen = dict(re.findall(r"^  - (\w+): (\w+)", (conf / "config.yaml").read_text(encoding="utf-8"), re.MULTILINE))
    own = re.findall(
        r"^!conf/(\w+)/(\w+)\.yaml$", (conf.parent / ".gitignore").read_text(encoding="utf-8"), re.MULTILINE
    )
    limited = {group for group, _ in own}
    return {
        folder.name: tuple(
            Option(file.stem, _first_comment(file), chosen.get(folder.name) == file.stem)
            for file in sorted(folder.glob("*.yaml"), key=_in_order)
            if folder.name not in limited or (folder.name, file.stem) in own
        )
        for folder in sorted(conf.iterdir())
        if folder.is_dir() and folder.name not in NOT_ABOUT_RUNS and any(folder.glob("*.yaml"))
    }


def page() -> str:
    """The whole page."""
    schema = blocks((ROOT / "src" / "config.py").read_text(encoding="utf-8"))
    top = schema["Config"]
    nodes = {field.name: schema[field.type] for field in top.fields if field.type in schema}
    plain = Block("", tuple(field for field in top.fields if field.name not in nodes))
    options = groups(ROOT / "conf")
    parts = [HEAD, "## Config groups\n"]
    for name in [n for n in nodes if n in options] + [n for n in options if n not in nodes]:
        parts += _section(name, nodes.get(name, Block("", ())), options[name])
    parts += ["## Other fields\n", _table("", plain.fields)]
    for name in [n for n in nodes if n not in options]:
        parts += _section(name, nodes[name], ())
    return "\n".join(parts)


def _section(name: str, block: Block, options: tuple[Option, ...]) -> Iterator[str]:
    yield f"### {name}\n"
    if block.text:
        yield f"{block.text}\n"
    if options:
        rows = "".join(f"| `{name}={o.name}`{' (default)' if o.default else ''} | {_cell(o.text)} |\n" for o in options)
        yield f"| option | what it is |\n|---|---|\n{rows}"
    if block.fields:
        yield _table(f"{name}.", block.fields)


def _table(prefix: str, fields: tuple[Field, ...]) -> str:
    rows = [f"| `{prefix}{f.name}` | {_cell(f.type)} | {_cell(f.default)} | {_cell(f.comment)} |" for f in fields]
    return "\n".join(["| field | type | default | meaning |", "|---|---|---|---|", *rows, ""])


def _comments(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.removeprefix("#").strip()


def _beside(node: ast.stmt, comments: dict[int, str]) -> str:
    """The comment beside a field; the formatter may have broken its line."""
    return " ".join(comments[line] for line in range(node.lineno, (node.end_lineno or 0) + 1) if line in comments)


def _members(enum: ast.ClassDef) -> str:
    return ", ".join(f"`{ast.literal_eval(n.value)}`" for n in enum.body if isinstance(n, ast.Assign))


def _type(annotation: ast.expr, enums: dict[str, str]) -> str:
    text = ast.unparse(annotation)
    if (of := re.fullmatch(r"list\[(\w+)\]", text)) and of[1] in enums:
        return f"list of {enums[of[1]]}"
    return enums.get(text, text.replace(" | None", " or null"))


def _default(value: ast.expr | None) -> str:
    """A default as it is written on the command line."""
    if isinstance(value, ast.Call):  # field(default_factory=list), or a lambda
        made = value.keywords[0].value
        value = made.body if isinstance(made, ast.Lambda) else ast.parse(f"{ast.unparse(made)}()", mode="eval").body
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


def _in_order(file: Path) -> list[tuple[str, int]]:
    """By name, with numbers in it by their size: 4k before 16k, 480p before 1080p."""
    return [(word, int(n or 0)) for word, n in re.findall(r"(\D*)(\d*)", file.stem)]


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE.relative_to(ROOT))
