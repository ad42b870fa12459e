"""docs/api.md has every public class, field, argument and exception, and agrees with the docstrings."""

import importlib.util
import inspect
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest

import signal_py
import signal_py.control

DOCS = Path(__file__).parents[2] / "docs"


def generator() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("api_doc", DOCS / "api_doc.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["api_doc"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


API = generator()
CLASSES = {
    f"{module.__name__}.{name}": kind
    for module, names in ((signal_py, API.EMBEDDING), (signal_py.control, API.OPERATING))
    for name, kind in API.found(module, names).items()
}
CALLS = {
    f"{name}.{member}": call
    for name, kind in CLASSES.items()
    for member, call in API.members(kind)
    if inspect.isfunction(call) and not (API.fields(kind) and member == "__init__")
}


def test_the_page_is_up_to_date() -> None:
    assert (DOCS / "api.md").read_text(encoding="utf-8") == API.document(), "run 'make docs'"


def test_every_exported_class_is_documented() -> None:
    exported = {name for name in signal_py.__all__ if inspect.isclass(getattr(signal_py, name))}
    assert len(exported) > 10
    assert {f"signal_py.{name}" for name in exported} <= set(CLASSES)


def classes_in(kind: Any) -> set[type]:
    """The classes of signal_py in an annotation, also within brackets."""
    found = {kind} if inspect.isclass(kind) and kind.__module__.startswith("signal_py.") else set()
    return found.union(*(classes_in(part) for part in get_args(kind)))


@pytest.mark.parametrize("name", sorted({name for name in CALLS if not name.endswith("__init__")}))
def test_every_returned_class_is_documented(name: str) -> None:
    call = CALLS[name]  # whose keywords are types for checkers only
    own = SimpleNamespace(__annotations__={"return": call.__annotations__.get("return")})
    returned = get_type_hints(own, call.__globals__).get("return")
    assert classes_in(returned) <= set(CLASSES.values())


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_field_is_explained(name: str) -> None:
    kind = CLASSES[name]
    explained = API.items(inspect.getdoc(kind) or "")
    assert kind.__doc__ and {field.name for field in API.fields(kind)} <= explained
    for member, each in API.members(kind):
        assert each.__doc__ or (API.fields(kind) and member == "__init__"), member


@pytest.mark.parametrize("name", sorted(CALLS))
def test_every_argument_is_explained(name: str) -> None:
    call = CALLS[name]
    arguments = set(inspect.signature(call).parameters) - {"self"}
    explained = API.items(inspect.getdoc(call) or "")
    assert arguments <= explained
