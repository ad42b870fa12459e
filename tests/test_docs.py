"""Commands and samples in the README and the docs work, and their lists are complete."""

import argparse
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

import kit
import macro
from peers import BarePeer
from signal_py.cli import main as cli
from signal_py.config.load import make_config
from signal_py.config.settings import Config
from signal_py.config.sources import load, read_file

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench" / "README.md"
GUIDES = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), BENCH, *GUIDES]
GENERATED = {"build", "dist", "bin", "results", "node_modules", "__pycache__"}
FILLED_IN = {"port": "8080", "node": "bench", "nats": "off"}  # by the benchmarks
ALL = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
README = PAGES[0].read_text(encoding="utf-8")
SIGNAL_V1 = [Subprotocol("signal.v1")]


def section(title: str, page: str = README) -> str:
    """The section of a page with this title."""
    found = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    assert found, title
    return found


def indented(text: str, begin: str) -> str:
    """The first indented code block that begins with this text."""
    found = re.search(rf"^ {{4}}{re.escape(begin)}.*\n(?: {{4}}.*\n|\n)*", text, re.MULTILINE)
    assert found, begin
    return textwrap.dedent(found[0]).strip() + "\n"


@pytest.fixture(scope="module")
def engine() -> Iterator[kit.Engine]:
    with kit.engine(loops=1) as running:
        yield running


def test_the_library_sample() -> None:
    """It runs unchanged, in `asyncio.run`. A client gets its answer, after others that did not wait for theirs, or
    whose answer was too large."""
    imports, _, body = indented(section("Two ways to use it"), "from signal_py import Engine").partition("\n")
    program = f"import asyncio\n{imports}\n\nasync def main():\n{textwrap.indent(body, '    ')}\nasyncio.run(main())\n"
    with subprocess.Popen([*kit.python(), "-u", "-c", program], stdout=subprocess.PIPE, text=True, cwd="/") as child:
        try:
            assert child.stdout is not None
            url, address = child.stdout.readline().split()
            for _ in range(20):
                stranger = BarePeer(int(url.rstrip("/").rpartition(":")[2]))
                stranger.say(f"TO {address}", b"\xff" * 60_000)
                stranger.say(f"TO {address}", "anybody there?")
                stranger.vanish()
            with connect(url, subprotocols=SIGNAL_V1) as peer:
                assert str(peer.recv(kit.PATIENCE)).startswith("HELLO ")
                peer.send(f"TO {address} ref=1\nhi")
                received = sorted(str(peer.recv(kit.PATIENCE)) for _ in range(2))
                assert received == [f"FROM {address} re=1\nyou said hi", "OK 1"]
        finally:
            child.kill()


def test_the_samples_of_an_authorizer() -> None:
    """Those of auth.md and library.md, with the test's sessions: one token is granted, the other refused."""
    for page, begin, sessions in (
        ("auth.md", "from signal_py import Engine, Grant", "my_sessions"),
        ("library.md", "async def authorize", "sessions"),
    ):
        body = indented((ROOT / "docs" / page).read_text(encoding="utf-8"), begin)
        assert body.endswith(" as engine: ...\n")
        asked = 'Request(token, "::1", headers=Headers({"cookie": f"session={token}"}))'
        asking = f'    print(*[type(await authorize({asked})).__name__ for token in ("good", "bad")])\n'
        body = body.removesuffix(" ...\n") + "\n" + asking
        program = (
            "import asyncio\nfrom signal_py import Engine, Grant, Headers, Refusal, Request\n"
            f"class {sessions}:\n    async def find(token):\n        return 'ann' if token == 'good' else None\n"
            f"async def main():\n{textwrap.indent(body, '    ')}\nasyncio.run(main())\n"
        )
        done = subprocess.run([*kit.python(), "-c", program], capture_output=True, text=True, cwd="/", check=False)
        assert (done.stdout, done.returncode) == ("Grant Refusal\n", 0), done.stderr


def test_the_browser_sample(engine: kit.Engine) -> None:
    """The answers to what the script sends are as in the lines below it."""
    sample = section("Quick start")
    opened = re.search(r'new WebSocket\("ws://127\.0\.0\.1:8080/(.*?)", "(.*?)"\)', sample)
    sends = re.search(r'socket\.send\("(.*?)"\)', sample)
    answers = re.findall(r"^(HELLO|OK \w+|MSG \w+) ", sample, re.MULTILINE)
    assert opened and sends and answers == ["HELLO", "OK 1", "MSG lobby"]
    url = engine.url + opened[1]
    with connect(url, subprotocols=[Subprotocol(opened[2])]) as one, connect(url, subprotocols=SIGNAL_V1) as other:
        address = str(one.recv(kit.PATIENCE)).splitlines()[0].removeprefix("HELLO ")
        assert str(other.recv(kit.PATIENCE)).startswith("HELLO ")
        one.send(sends[1].replace("\\n", "\n"))
        assert one.recv(kit.PATIENCE) == answers[1]
        assert other.recv(kit.PATIENCE) == f"{answers[2]} {address} ref=1\nhello from a browser"


def settings_of(line: str) -> Config:
    for name, value in FILLED_IN.items():
        line = line.replace("{" + name + "}", value)
    options: argparse.Namespace = cli._parser().parse_args(["serve", *shlex.split(line.removesuffix(" &"))])
    environ = {"SIGNAL_ENGINE_AUTH_KEY": "secret"} if "--auth jwt" in line else {}  # the line before exports it
    return load({name[4:]: value for name, value in vars(options).items() if name.startswith("set.")}, environ)


def test_each_serve_line_is_valid() -> None:
    lines = re.findall(r"^ {4}signal-engine serve (.*)$", ALL, re.MULTILINE)
    configs = [settings_of(line) for line in lines]
    assert len(configs) >= 4 and configs[0] == settings_of(lines[0])
    assert {config.auth for config in configs} == {"off", "jwt"}
    assert configs[0].admin == "127.0.0.1:9100" and len(configs[0].nats) == 2


def test_the_sample_of_a_file(tmp_path: Path) -> None:
    sample = indented((ROOT / "docs" / "settings.md").read_text(encoding="utf-8"), "# engine.toml")
    file = tmp_path / "engine.toml"
    file.write_text(sample, encoding="utf-8")
    found = read_file(str(file), "--config")
    config = make_config(found, {name: name for name in found})
    assert config.max_message == 16384 and len(config.listen) == len(config.nats) == 2


def test_make_has_the_targets_in_the_pages() -> None:
    """And those at the head of the Makefile."""
    for folder, pattern in ((ROOT, r"\bmake ([a-z][a-z-]+)"), (ROOT / "bench", r"\bmake -C bench ([a-z][a-z/-]*)")):
        makefile = (folder / "Makefile").read_text(encoding="utf-8")
        head = makefile.partition("\n\n")[0] if folder == ROOT else ""
        code = "\n".join(re.findall(r"`[^`\n]+`|^ {4}.*$|^\$ .*$|^#.*$", ALL + "\n" + head, re.MULTILINE))
        wanted = set(re.findall(pattern, code))
        assert len(wanted) >= 3
        for name in sorted(wanted):
            made = subprocess.run(["make", "-n", "-C", folder, name], capture_output=True, text=True, check=False)
            assert made.returncode == 0, (name, made.stderr)


def test_benchmarks_have_the_options_in_the_pages() -> None:
    shown = re.findall(r"python (bench/\w+\.py|bench/\w+ \w+)([^#`\n|]*)", ALL)
    assert {script for script, _ in shown} > {"bench/macro.py", "bench/capacity structures"}
    flags: dict[str, set[str]] = {script: set() for script, _ in shown}
    for script, rest in shown:
        own = re.sub(r"'[^']*'|\"[^\"]*\"", "", rest)  # quoted text belongs to another command
        flags[script] |= set(re.findall(r"--[a-z-]+", own))
    for script, wanted in flags.items():
        file, *tool = script.split()
        assert (ROOT / file).exists()
        if wanted:
            command = [sys.executable, str(ROOT / file), *tool, "--help"]
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
            assert wanted <= set(re.findall(r"--[a-z-]+", done.stdout)), script


def test_each_scenario_is_described() -> None:
    scenarios = BENCH.read_text(encoding="utf-8").partition("## Scenarios")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([a-z0-9-]+(?:, [a-z0-9-]+)*) \|", scenarios, re.MULTILINE)
    names = {scenario.name for scenario in macro.SCENARIOS}
    assert {name for row in rows for name in row.split(", ")} == {"name", *names}


def anchors(page: Path) -> set[str]:
    """The anchors of a page's titles, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_somewhere() -> None:
    """Links within the repository lead to a file and, with an anchor, to a title."""
    for page in PAGES:
        for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
            file = page.parent / link if link else page
            assert file.exists(), (page.name, link)
            assert not anchor or anchor in anchors(file), (page.name, link, anchor)


def test_no_advice_replaces_an_editable_install() -> None:
    """`pip install '.[…]'` in a checkout replaces it by a copy, which edits and builds do not change."""
    sources = [path for folder in ("bench", "signal_py") for path in sorted((ROOT / folder).rglob("*.py"))]
    texts = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in [*PAGES, *sources, ROOT / "Makefile"]
    }
    for page, title in (("README.md", "Quick start"), ("docs/operations.md", "Install and run")):
        where = section(title, texts[page])  # about installing an engine, not about working in a checkout
        assert "pip install" in where
        texts[page] = texts[page].replace(where, "")
    shown = [(name, advice) for name, text in texts.items() for advice in re.findall(r"pip install [^`\n]*", text)]
    assert any(name.endswith("contenders.py") and advice == "pip install -e '.[bench]'\"" for name, advice in shown)
    for name, advice in shown:
        assert not re.search(r"install '?\.", advice), (name, advice)


def texts_of(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every text file of the repository, except what was built, installed or measured."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name not in GENERATED and (path.name[0] != "." or path.name == ".ci"):
                yield from texts_of(path)
        elif path.suffix not in {".so", ".png", ".gz"}:
            yield path, path.read_text(encoding="utf-8")


def foreign_package(text: str) -> list[str]:
    """Text with which pip would fetch the PyPI package that has our command's name; pip takes -, _ and . as equal."""
    name = r"\bsignal[-_.]engine\b(?![-_.]ws\b)"
    return re.findall(rf"pip3? (?:install|download)\b[^`\n]*{name}(?!/)[^`\n]*|{name}\[[^`\n]*", text, re.IGNORECASE)


def test_no_text_advises_the_foreign_package() -> None:
    for advice in ("pip install {}", "pip3 install -U {}", "python -m pip install '{}'", "needs '{}[jwt]'"):
        for name in ("signal-engine", "signal_engine", "Signal.Engine"):
            assert foreign_package(advice.format(name))
        assert not foreign_package(advice.format("signal-engine-ws"))
    seen = dict(texts_of(ROOT))
    assert {ROOT / "README.md", ROOT / "Makefile", ROOT / "signal_py" / "base" / "version.py"} <= seen.keys()
    assert {str(path): found for path, text in seen.items() if (found := foreign_package(text))} == {}
    assert any("pip install 'signal-engine-ws[jwt]'" in text for text in seen.values())


def test_the_page_of_metrics_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "docs" / "metrics_doc.py")]
    made = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8") == made, "run 'make docs'"
    assert made.count("\n| `signal_engine_") > 90


ARCHITECTURE = sorted((ROOT / "docs" / "architecture").glob("*.md"))


def test_the_overview_lists_each_file_in_its_folder() -> None:
    text = (ROOT / "docs" / "architecture" / "overview.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)/` \| ((?:`\w+` ?)+)\|", text, re.MULTILINE)
    listed = [f"{folder}/{name}" for folder, names in rows for name in re.findall(r"`(\w+)`", names)]
    sources = (ROOT / "signal_core").glob("*/*.pxd")
    assert sorted(listed) == sorted(f"{file.parent.name}/{file.stem}" for file in sources if file.stem != "__init__")


def test_terms_of_the_glossary_are_unique_and_sorted() -> None:
    text = (ROOT / "docs" / "architecture" / "overview.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|`]+) \| ([^|]+) \| `([\w/.]+)` \|$", section("Glossary", text), re.MULTILINE)
    terms = [term for term, _, _ in rows]
    assert len(terms) > 40 and len(set(terms)) == len(terms)
    assert terms == sorted(terms, key=str.lower)


SOURCES = [path for folder in ("signal_core", "signal_py") for path in sorted((ROOT / folder).rglob("*.*"))]
TEXTS = [path for path in [*PAGES, *SOURCES] if path.suffix in (".md", ".py", ".pyi", ".pyx", ".pxd", ".pxi", ".h")]
PROSE = re.compile(r'#[^\n]*|""".*?"""|/\*.*?\*/', re.DOTALL)
FILE = re.compile(r"(?<![\w./*<-])(?:[\w.-]+/)*(?:\w+\.(?:pyx|pyi|py|pxd|pxi|md)|se_\w+\.h)\b(?!\.\w)")


def files_named(path: Path, text: str) -> set[str]:
    """The files that a page names outside of samples, or a source in comments and docstrings."""
    if path.suffix == ".md":
        text = re.sub(r"<!-- sample: .*? -->|\[[^\]]*\](?=\()", "", text)  # nor the text of a link
    else:
        text = "\n".join(PROSE.findall(text))
    return set(FILE.findall(text))


def test_files_that_are_named_are_found() -> None:
    page, source = Path("a.md"), Path("a.pxd")
    assert files_named(page, "`loop/loop.pxd`, [b.md](../b.md) <!-- sample: c.py -->") == {"loop/loop.pxd", "../b.md"}
    assert files_named(source, 'x = "d.py"  # e.pxd\n"""As\nf.pyx."""') == {"e.pxd", "f.pyx"}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_file_that_is_named_exists(path: Path) -> None:
    """By its path from the file that names it, from the root or a package; a source also by its name alone."""
    folders = (path.parent, ROOT, ROOT / "signal_core", ROOT / "signal_py")
    bare = {source.name for source in [*SOURCES, *(ROOT / "bench").rglob("*.py")]}
    named = files_named(path, path.read_text(encoding="utf-8")) - bare
    assert not [name for name in named if not any((folder / name).is_file() for folder in folders)]
