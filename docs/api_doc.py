"""docs/api.md, from the docstrings of signal_py: `python docs/api_doc.py > docs/api.md`."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, Generic, get_type_hints

import signal_py
import signal_py.control

HEAD = """\
# Python API

The classes of `signal_py`, which embeds an engine, and of `signal_py.control`, which operates a cluster.
[library.md](library.md) and [control.md](control.md) show how to use them. Times are in seconds, sizes in bytes.
`signal_py.__version__` is the version. `make docs` writes this page from the docstrings.
"""
EMBEDDING = (
    *("Engine", "Message", "Peer", "Presence", "Request", "Headers", "Grant", "Refusal", "Rights"),
    *("RoomPage", "MemberPage", "Member", "Reloaded", "Change"),
    *("EngineError", "ConfigError", "ReloadError", "DeliveryError"),
)
OPERATING = (
    *("Control", "Gathered", "Refused", "Node", "Stats", "Room", "RoomsPage", "Member", "MembersPage"),
    *("Disconnected", "Drained", "ControlError"),
)
ITEM = re.compile(r"(\w+(?:, \w+)*) {2,}(\S.*)")  # of a docstring: names, and what they are
NO_DEFAULT = inspect.Parameter.empty


def found(module: Any, names: tuple[str, ...]) -> dict[str, type]:
    """The classes of these names: a module's own, or what Engine's methods return."""
    pages = [get_type_hints(getattr(signal_py.Engine, name))["return"] for name in ("rooms", "members")]
    member = get_type_hints(pages[1])["members"].__args__[0]
    others = {kind.__name__: kind for kind in (*pages, member)} if module is signal_py else {}
    return {name: others.get(name) or getattr(module, name) for name in names}


def document() -> str:
    """The text of docs/api.md."""
    text = HEAD
    for module, names in ((signal_py, EMBEDDING), (signal_py.control, OPERATING)):
        text += f"\n## {module.__name__}\n"
        text += "".join(_class(kind) for kind in found(module, names).values())
    return text


def items(docstring: str) -> set[str]:
    """The names that a docstring explains."""
    return {name for line in docstring.splitlines() if (match := ITEM.match(line)) for name in match[1].split(", ")}


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class's own, in order. Programs don't make exceptions."""
    made = not issubclass(kind, Exception)
    for name, member in vars(kind).items():
        shown = not name.startswith("_") or (name == "__init__" and made)
        if shown and (inspect.isfunction(member) or isinstance(member, property)):
            yield name, member


def fields(kind: type) -> list[dataclasses.Field[Any]]:
    """The public fields of a dataclass."""
    every = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    return [field for field in every if not field.name.startswith("_")]


def _class(kind: type) -> str:
    bases = ", ".join(base.__name__ for base in kind.__bases__ if base not in (object, Generic))
    title = f"class {kind.__name__}" + (f"({bases})" if bases else "")
    text = f"\n### {kind.__name__}\n\n```python\n{title}"
    shown = [_field(field) for field in fields(kind)] or [
        f"{name}: {annotation}" for name, annotation in inspect.get_annotations(kind).items() if name[0] != "_"
    ]
    if shown:
        text += ":\n" + "\n".join(f"    {line}" for line in shown)
    text += f"\n```\n\n{_prose(inspect.getdoc(kind) or '')}"
    for name, member in members(kind):
        if not (dataclasses.is_dataclass(kind) and name == "__init__"):
            text += _member(kind, name, member)
    return text


def _member(kind: type, name: str, member: Any) -> str:
    if isinstance(member, property):
        assert member.fget is not None
        code = f"{name}: {inspect.signature(member.fget).return_annotation}  # read-only"
        prose = member.__doc__ or ""
    else:
        code, prose = _signature(kind, name, member), member.__doc__ or ""
    heading = kind.__name__ if name == "__init__" else f"{kind.__name__}.{name}"
    text = inspect.cleandoc(prose)
    return f"\n#### {heading}{'' if isinstance(member, property) else '()'}\n\n```python\n{code}\n```\n\n{_prose(text)}"


def _signature(kind: type, name: str, call: Callable[..., Any]) -> str:
    signature = inspect.signature(call)
    parts = []
    starred = False
    for parameter in list(signature.parameters.values())[1:]:
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            starred = True
            parts.append("*")
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        annotation = (
            str(parameter.annotation)
            .replace("Unpack[Options]", "settings")
            .replace("Unpack[ControlOptions]", "settings")
        )
        default = "" if parameter.default is NO_DEFAULT else f" = {_value(parameter.default)}"
        parts.append(f"{stars}{parameter.name}: {annotation}{default}")
    word = "async def" if inspect.iscoroutinefunction(call) else "def"
    shown = kind.__name__ if name == "__init__" else name
    start = shown if name == "__init__" else f"{word} {shown}"
    end = "" if name == "__init__" else f" -> {signature.return_annotation}"
    line = f"{start}({', '.join(parts)}){end}"
    return line if len(line) <= 100 else f"{start}(\n" + "".join(f"    {part},\n" for part in parts) + f"){end}"


def _field(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"{field.name}: {field.type} = {_value(field.default)}"
    if field.default_factory is not dataclasses.MISSING:
        return f"{field.name}: {field.type} = {getattr(field.default_factory, '__name__', '…')}()"
    return f"{field.name}: {field.type}"


def _value(default: object) -> str:
    return f'"{default}"' if isinstance(default, str) else repr(default)


def _prose(docstring: str) -> str:
    """As Markdown: what is aligned as `name  text` becomes a list."""
    out: list[str] = []
    for block in docstring.split("\n\n"):
        lines = block.splitlines()
        if lines and ITEM.match(lines[0]):
            out.append("\n".join(_items(lines)))
        else:
            out.append(block)
    return "\n\n".join(out) + "\n"


def _items(lines: list[str]) -> Iterator[str]:
    for line in lines:
        match = ITEM.match(line)
        if match:
            names = ", ".join(f"`{name}`" for name in match[1].split(", "))
            yield f"* {names}: {match[2]}"
        else:
            yield f"  {line.strip()}"


if __name__ == "__main__":
    print(document(), end="")
