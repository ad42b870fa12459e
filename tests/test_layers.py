"""The structure of the source: imports, names, sizes, and that the loops' code calls nothing of Python."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE, PY = ROOT / "signal_core", ROOT / "signal_py"
# Each folder imports from itself and from those before it. The name "" stands for the files of signal_py itself.
CORE_ORDER = ["base", "wire", "tables", "delivery", "presence", "route", "nats", "client", "loop"]
PY_ORDER = ["base", "config", "auth", "nats", "control", "", "cli"]
# The first of a pair imports nothing from the second, either.
APART = {("client", "nats"), ("auth", "nats"), ("nats", "auth"), ("control", "auth")}
SOURCES = {
    f"{source.parent.name}/{source.stem}": source.read_text(encoding="utf-8")
    for source in sorted(CORE.glob("*/*.pxd"))
    if source.stem != "__init__"
}
MODULES = {source.relative_to(PY): source for source in sorted(PY.rglob("*.py"))}
CIMPORT = re.compile(r"^from signal_core\.([\w.]+) cimport (\([^)]*\)|.+)$", re.MULTILINE)
FUNCTION = re.compile(r"^cdef [^\n(=]*?\b(\w+)\(", re.MULTILINE)
STRUCT = re.compile(r"^cdef (?:packed )?struct (\w+)", re.MULTILINE)
# In C an inline function of folder/file.pxd is __pyx_f_11signal_core_<length><folder>_<length><file>_<function>.
GENERATED = re.compile(
    r"^static [^\n;=]*?\b__pyx_f_11signal_core_(\d+\w+)\([^;{]*\) *\{\n(.*?)^\}", re.MULTILINE | re.DOTALL
)
PYTHON = re.compile(r"PyGILState_Ensure|__Pyx_WriteUnraisable|PyErr_\w+")


def cimports(text: str) -> Iterator[tuple[str, str]]:
    """Each (file, name) that a source cimports from signal_core; the file as folder/file."""
    for module, names in CIMPORT.findall(text):
        for name in re.findall(r"(\w+)(?: as \w+)?", re.sub(r"#.*", "", names)):
            yield module.replace(".", "/"), name


def cimported(name: str) -> set[str]:
    return {other for other, _ in cimports(SOURCES[name])}


def users() -> set[tuple[str, str]]:
    """Each (file, name) that another file cimports."""
    engine = [path.read_text(encoding="utf-8") for path in CORE.rglob("*") if path.suffix in (".pyx", ".pxi")]
    return {use for text in (*SOURCES.values(), *engine) for use in cimports(text)}


def is_above(order: list[str], folder: str, other: str) -> bool:
    return order.index(other) > order.index(folder) or (folder, other) in APART


# -- signal_core --


def test_there_are_sources() -> None:
    """So that the other tests really test sources."""
    assert {"base/limits", "wire/frame", "delivery/conn", "route/route", "loop/loop"} <= set(SOURCES)
    assert cimported("route/route") > {"delivery/conn", "tables/loop_rooms"}
    assert {name.split("/")[0] for name in SOURCES} == set(CORE_ORDER)


@pytest.mark.parametrize("folder", CORE_ORDER)
def test_each_folder_has_a_docstring(folder: str) -> None:
    text = (CORE / folder / "__init__.pxd").read_text(encoding="utf-8")
    assert re.fullmatch(r'"""\w.*?\.\n?"""\n', text, re.DOTALL)


@pytest.mark.parametrize("name", SOURCES)
def test_each_file_has_a_docstring(name: str) -> None:
    assert re.match(r'"""[^\n]+\.', SOURCES[name])


@pytest.mark.parametrize("name", SOURCES)
def test_it_cimports_from_folders_below(name: str) -> None:
    folder = name.split("/")[0]
    assert not {other for other in cimported(name) if is_above(CORE_ORDER, folder, other.split("/")[0])}


def test_there_is_no_cycle() -> None:
    """graphlib.CycleError names one."""
    order = list(TopologicalSorter({name: cimported(name) for name in SOURCES}).static_order())
    assert set(order) == set(SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_a_function_has_the_name_of_its_file_or_struct(name: str) -> None:
    """One that only its file uses begins with an underscore."""
    used = {function for other, function in users() if other == name}
    structs = [re.sub(r"(?<!^)(?=[A-Z])", "_", struct).lower() for struct in STRUCT.findall(SOURCES[name])]
    prefixes = [name.split("/")[1], *structs]
    wrong = []
    for function in FUNCTION.findall(SOURCES[name]):
        own = any(function == prefix or function.startswith(f"{prefix}_") for prefix in prefixes)
        if function.startswith("_") == (function in used) or not (own or function.startswith("_")):
            wrong.append(function)
    assert not wrong


def test_every_verb_is_dispatched() -> None:
    """A verb that head_parse knows has a case where messages are handled."""
    verbs = set(re.findall(r"^    (VERB_\w+) = ", SOURCES["wire/command"], re.MULTILINE)) - {"VERB_NONE"}
    body = re.search(
        r"^cdef [^\n]*\b_session_message\(.*?(?=^cdef )", SOURCES["client/session"], re.MULTILINE | re.DOTALL
    )
    assert body and verbs
    assert set(re.findall(r"head\.verb == (VERB_\w+)", body.group())) == verbs


LITERAL = r'b"(?:[^"\\]|\\.)*"'
LITERAL_AND_SIZE = re.compile(rf"({LITERAL}(?:\s+{LITERAL})*), *(\d+)\b(?! if )")


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.p[xy][dxi]")), ids=lambda path: path.name)
def test_a_literal_and_its_size_agree(path: Path) -> None:
    """A size too small cuts a line of the log or the protocol, one too large sends the bytes after it."""
    pairs = LITERAL_AND_SIZE.findall(path.read_text(encoding="utf-8"))
    assert not [literal for literal, size in pairs if len(ast.literal_eval(f"({literal})")) != int(size)]


def test_the_engine_asserts_every_layout() -> None:
    """An inline function that nobody calls is not compiled, nor are its static assertions."""
    defined = {name for text in SOURCES.values() for name in FUNCTION.findall(text) if name.endswith("_check_layout")}
    called = set(re.findall(r"^    (\w+_check_layout)\(\)$", (CORE / "engine.pyx").read_text(), re.MULTILINE))
    assert defined == called


# -- signal_py --


def folder_of(module: Path) -> str:
    return module.parent.name


def imported(path: Path) -> Iterator[str]:
    """The modules of signal_py that a file imports, anywhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "signal_py":
            for alias in node.names:
                is_module = (ROOT / Path(*node.module.split("."), f"{alias.name}.py")).is_file()
                yield f"{node.module}.{alias.name}" if is_module else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "signal_py")


@pytest.mark.parametrize("folder", [folder for folder in PY_ORDER if folder])
def test_each_package_has_a_docstring(folder: str) -> None:
    assert re.match(r'"""\w.*?\.\n?"""\n', (PY / folder / "__init__.py").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_it_imports_from_folders_below(module: Path) -> None:
    if str(module) in ("__init__.py", "__main__.py"):
        return  # the public names, and the command
    folder = folder_of(module)
    others = {other: (other.split(".")[1:-1] or [""])[0] for other in imported(MODULES[module])}
    packages = {f"signal_py.{name}": name for name in PY_ORDER if name}
    others = {other: packages.get(other, below) for other, below in others.items() if other != "signal_py"}
    assert not {other for other, below in others.items() if is_above(PY_ORDER, folder, below)}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_and_its_functions_are_short(module: Path) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    assert len(text.splitlines()) < 450
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not [node.name for node in functions if (node.end_lineno or 0) - node.lineno + 1 >= 50]


# -- generated C --


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The C code of engine.pyx: from the last build if it is not older than the sources, else made here."""
    sources = [path for path in CORE.rglob("*") if path.suffix in (".pxd", ".pyx", ".pxi")]
    made = ROOT / "build" / "cython-release" / "signal_core" / "engine.c"
    # A build with line tracing has Python's calls in every function, by intent.
    if made.is_file() and made.stat().st_mtime >= max(source.stat().st_mtime for source in sources):
        text = made.read_text(encoding="utf-8")
        if "__Pyx_TraceLine(" not in text:
            return text
    folder = tmp_path_factory.mktemp("cython")
    shutil.copytree(CORE, folder / "signal_core", ignore=shutil.ignore_patterns("*.so"))
    directives = "cdivision=True,boundscheck=False,wraparound=False,initializedcheck=False"
    command = [sys.executable, "-m", "cython", "-3", "-X", directives, "signal_core/engine.pyx", "-o", "engine.c"]
    subprocess.run(command, cwd=folder, check=True)
    return (folder / "engine.c").read_text(encoding="utf-8")


def split_name(name: str) -> list[str]:
    """The parts of a name in which Cython writes the length before each part but the last."""
    parts = []
    while found := re.match(r"(\d+)", name):
        size, start = int(found[1]), found.end()
        parts.append(name[start : start + size])
        name = name[start + size + 1 :]
    return [*parts, name]


@pytest.mark.timeout(300)
def test_the_loops_code_has_no_python(generated: str) -> None:
    seen = set()
    guilty = []
    for name, body in GENERATED.findall(generated):
        parts = split_name(name)
        if parts[0] == "engine":
            continue
        seen.add("/".join(parts[:-1]))
        if calls := set(PYTHON.findall(body)):
            guilty.append((name, calls))
    assert seen > {"wire/frame", "delivery/write_queue", "route/route", "loop/loop", "client/session"}, (
        "the pattern of function names is out of date"
    )
    assert not guilty
