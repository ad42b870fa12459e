"""The order of the source: what imports what, and that the loops' code knows nothing of Python."""

import re
import shutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "signal_core").glob("*.pxd"))
LAYERED = [source.stem for source in SOURCES]
MARK = re.compile(r" L([0-4])\.(?=\s|$)")
CIMPORT = re.compile(r"^\s*(?:from\s+signal_core\.(\w+)\s+cimport|cimport\s+signal_core\.(\w+))", re.MULTILINE)
# In C a module's inline function is __pyx_f_11signal_core_<length><module>_<function>.
FUNCTION = re.compile(
    r"^static [^\n;=]*?\b__pyx_f_11signal_core_(\d+)(\w+)\([^;{]*\) *\{\n(.*?)^\}", re.MULTILINE | re.DOTALL
)
PYTHON = re.compile(r"PyGILState_Ensure|__Pyx_WriteUnraisable|PyErr_\w+")


def text_of(name: str) -> str:
    return (ROOT / "signal_core" / f"{name}.pxd").read_text(encoding="utf-8")


def docstring_of(name: str) -> str:
    found = re.match(r'"""(.*?)"""', text_of(name), re.DOTALL)
    assert found, f"{name}.pxd has no docstring"
    return found[1]


def layer_of(name: str) -> int:
    marks = MARK.findall(docstring_of(name))
    assert len(marks) == 1, f"the docstring of {name}.pxd names its layer once, as ' L0.' to ' L4.': {marks}"
    return int(marks[0])


def cimported(name: str) -> set[str]:
    return {first or second for first, second in CIMPORT.findall(text_of(name))}


def test_there_are_sources() -> None:
    """So that the tests below are about something."""
    assert {"limits", "frame", "queue", "route", "loop"} <= set(LAYERED)
    assert cimported("route") > {"conn", "rooms"}


@pytest.mark.parametrize("name", LAYERED)
def test_its_layer_is_named(name: str) -> None:
    layer_of(name)


@pytest.mark.parametrize("name", LAYERED)
def test_it_cimports_from_its_layer_or_below(name: str) -> None:
    above = {other: layer_of(other) for other in cimported(name) if layer_of(other) > layer_of(name)}
    assert not above


def test_the_table_of_layers_is_complete() -> None:
    """That of docs/design.md: each file once, in its layer."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| L([0-4]) \| ([^|]*) \|", text, re.MULTILINE)
    table = [(name, int(layer)) for layer, names in rows for name in re.findall(r"`(\w+)`", names)]
    assert sorted(table) == [(name, layer_of(name)) for name in LAYERED]


def test_there_is_no_cycle() -> None:
    """Raises graphlib.CycleError, which names one."""
    order = list(TopologicalSorter({name: cimported(name) for name in LAYERED}).static_order())
    assert set(order) == set(LAYERED)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The C of engine.pyx: that of the last build where it is not older than the sources, else made here."""
    sources = [*SOURCES, *(ROOT / "signal_core").glob("*.pyx"), *(ROOT / "signal_core").glob("*.pxi")]
    made = ROOT / "build" / "cython-release" / "signal_core" / "engine.c"
    # A build with line tracing has Python's calls in every function, by intent.
    if made.is_file() and made.stat().st_mtime >= max(source.stat().st_mtime for source in sources):
        text = made.read_text(encoding="utf-8")
        if "__Pyx_TraceLine(" not in text:
            return text
    folder = tmp_path_factory.mktemp("cython")
    shutil.copytree(ROOT / "signal_core", folder / "signal_core", ignore=shutil.ignore_patterns("*.so"))
    directives = "cdivision=True,boundscheck=False,wraparound=False,initializedcheck=False"
    command = [sys.executable, "-m", "cython", "-3", "-X", directives, "signal_core/engine.pyx", "-o", "engine.c"]
    subprocess.run(command, cwd=folder, check=True)
    return (folder / "engine.c").read_text(encoding="utf-8")


@pytest.mark.timeout(300)
def test_the_loops_code_has_no_python(generated: str) -> None:
    seen = set()
    guilty = []
    for length, name, body in FUNCTION.findall(generated):
        module = name[: int(length)]
        if module == "engine":
            continue
        seen.add(module)
        if calls := set(PYTHON.findall(body)):
            guilty.append((name, calls))
    assert seen > {"frame", "queue", "route", "loop", "session"}, "the pattern of function names is out of date"
    assert not guilty
