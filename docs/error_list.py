"""Write the list of every error of the package for the errors page, from the code that raises them."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
AREAS = {
    "lightning_gap/callbacks": "Callbacks",
    "lightning_gap/data": "Loaders",
    "lightning_gap/functional": "Functions",
    "lightning_gap/logging": "Figures and tables",
    "lightning_gap/trainer": "The Trainer, checkpoints and processes",
    "recipes": "Recipes, reports and the command line",
}
UNKNOWN = "{...}"
Scope = Mapping[str, ast.expr]  # what a name stands for, as far as the file says


@dataclass(frozen=True)
class Error:
    """One message, ``{...}`` and ``{name}`` where a value stands, and the class that is raised."""

    kind: str
    message: str

    @property
    def anchor(self) -> str:
        """The first words of the message; the values in it have no part in its name."""
        words = re.findall(r"[a-z0-9]+", re.sub(r"\{[^}]*\}", " ", self.message).lower())
        return "-".join(["error", *words[:8]])


def message_of(value: ast.expr, scope: Scope) -> str:
    """The text of a message, with the names of the values in it."""
    match value:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(message_of(part, scope) for part in parts)
        case ast.FormattedValue(value=inner):
            return message_of(inner, scope)
        case ast.Name(id=name):
            known = scope.get(name)
            text = message_of(known, {k: v for k, v in scope.items() if k != name}) if known is not None else UNKNOWN
            return f"{{{name}}}" if text == UNKNOWN else text
        case ast.Attribute(attr=name):
            return "{class}" if name == "__name__" else f"{{{name}}}"
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return message_of(left, scope) + message_of(right, scope)
        case ast.IfExp(body=body, orelse=other):
            return " / ".join(dict.fromkeys((message_of(body, scope), message_of(other, scope))))
        case ast.Call(func=ast.Name(id="refusal"), args=[name, rule, given, *hint]):
            texts = [message_of(part, scope) for part in (name, rule, given, *hint)]
            return f"{texts[0]} {texts[1]}, got {texts[2]}" + "".join(f"; {text}" for text in texts[3:] if text)
        case ast.Call(func=ast.Attribute(value=text, attr="format")):
            return message_of(text, scope)
        case ast.Call(func=ast.Name(id=function)) if f"{function}()" in scope:
            return message_of(scope[f"{function}()"], scope)
        case ast.Call(func=ast.Name(id="shown" | "str" | "repr" | "sorted"), args=[inner, *_]):
            return message_of(inner, scope)
    return UNKNOWN


def names_in(body: list[ast.stmt]) -> dict[str, ast.expr]:
    """What is assigned to a single name in these statements, not in the functions among them."""
    found: dict[str, ast.expr] = {}
    for statement in body:
        for node in [
            statement,
            *(getattr(statement, "body", []) if not isinstance(statement, ast.FunctionDef) else []),
        ]:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found[node.targets[0].id] = node.value
    return found


def raised(node: ast.AST, scope: Scope, made_by: Mapping[str, ast.FunctionDef]) -> Iterator[Error]:
    """The errors below a node, of each `raise` with a message; a function of the file may make the exception."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        scope = {**scope, **names_in(node.body)}
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        kind, arguments = ast.unparse(node.exc.func), node.exc.args
        maker = made_by.get(kind)
        if maker is not None:
            scope = {**scope, **dict(zip([each.arg for each in maker.args.args], arguments, strict=False))}
            made = next(each.value for each in ast.walk(maker) if isinstance(each, ast.Return))
            if isinstance(made, ast.Call):
                kind, arguments = ast.unparse(made.func), made.args
        message = message_of(arguments[0], scope) if arguments else ""
        if kind != "AssertionError" and re.search(
            r"\w", re.sub(r"\{[^}]*\}", "", message)
        ):  # else it passes on what another has said
            yield Error(kind, " ".join(message.split()))
    for child in ast.iter_child_nodes(node):
        yield from raised(child, scope, made_by)


def errors_of(source: str) -> list[Error]:
    """The errors of a file, each once."""
    tree = ast.parse(source)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    returned = {
        f"{name}()": node.body[-1].value
        for name, node in functions.items()
        if isinstance(node.body[-1], ast.Return) and node.body[-1].value is not None
    }
    return list(dict.fromkeys(raised(tree, {**names_in(tree.body), **returned}, functions)))


def argument_of(error: Error) -> str | None:
    """The argument that a message begins with, as in `samples must be` and `unit={unit} changes`."""
    found = re.match(r"([a-z_]{3,})(=| must | needs | has to | is )", error.message)
    return found[1] if found and found[1] not in ("this", "there", "what") else None


def page(root: Path = ROOT) -> str:
    """The list: an index of arguments, then all errors by area and by the file that raises."""
    lines: list[str] = []
    anchors: dict[str, int] = defaultdict(int)
    by_argument: dict[str, list[str]] = defaultdict(list)
    for folder, title in AREAS.items():
        lines += [f"## {title}", ""]
        for file in sorted((root / folder).rglob("*.py")):
            source = file.read_text(encoding="utf-8")
            found = errors_of(source)
            if not found:
                continue
            subject = re.sub(r"/ *", ", ", file.relative_to(root / folder).with_suffix("").as_posix().replace("_", " "))
            summary = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
            lines += [f"### {subject.strip().capitalize()}", "", summary, ""]
            for error in found:
                anchors[error.anchor] += 1
                number = anchors[error.anchor]
                anchor = error.anchor if number == 1 else f"{error.anchor}-{number}"
                quote = "`` " if "`" in error.message else "`"
                shown = f"{quote}{error.message}{quote[::-1]}"
                lines += [f"({anchor})=", f"- {shown} *{error.kind}* [#](#{anchor})", ""]
                if name := argument_of(error):
                    by_argument[name].append(anchor)
    index = [
        f"`{name}` " + " ".join(f"[{number}](#{anchor})" for number, anchor in enumerate(found, start=1))
        for name, found in sorted(by_argument.items())
    ]
    return "\n".join(["## By argument", "", " ·\n".join(index), "", *lines])
