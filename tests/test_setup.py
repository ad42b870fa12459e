"""setup.py builds the extensions asked for, and for a wheel only the engine. What make installs."""

import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest

import bench_tools

SETUP = Path(__file__).parents[1] / "setup.py"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A call that runs setup.py, and returns the extensions that it would have built."""
    given: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", given.update)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIGNAL_BUILD", raising=False)
    monkeypatch.delenv("SIGNAL_EXTENSIONS", raising=False)

    def run() -> dict[str, Any]:
        runpy.run_path(str(SETUP))
        return {extension.name: extension for extension in given["ext_modules"]}

    return run


def test_a_wheel_has_only_the_engine(built: Any) -> None:
    assert list(built()) == ["signal_core.engine"]


@pytest.mark.parametrize(
    ("asked", "names"),
    [("probe", ["probe"]), ("engine,probe", ["engine", "probe"]), ("none", [])],
)
def test_chosen_extensions(asked: str, names: list[str], built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNAL_EXTENSIONS", asked)
    assert list(built()) == [f"signal_core.{name}" for name in names]


def test_both_can_be_compiled_at_once(built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNAL_EXTENSIONS", "engine,probe")
    engine, probe = built().values()
    assert not set(engine.sources) & set(probe.sources)  # so that their object files differ


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SIGNAL_EXTENSIONS", "probes", "SIGNAL_EXTENSIONS=probes is unknown: use one of engine, probe, none."),
        ("SIGNAL_BUILD", "fast", "SIGNAL_BUILD=fast is unknown: use one of release, debug, asan, tsan."),
    ],
)
def test_unknown_values(variable: str, value: str, message: str, built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit, match=message):
        built()


def steps(target: str, venv: Path) -> str:
    """The commands that make would run for a target, with this environment."""
    env = {name: value for name, value in bench_tools.environment().items() if not name.startswith("MAKE")}
    command = ["make", "-n", "-C", str(SETUP.parent), target, f"VENV={venv}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout


def test_run_installs_only_what_running_needs(tmp_path: Path) -> None:
    fresh = steps("run", tmp_path)
    assert "--editable '.[embedded]'" in fresh and "signal-engine serve" in fresh
    assert "probe" not in fresh and "lint" not in fresh and "--no-build-isolation" not in fresh
    for stamp in (".made", ".run", ".engine"):
        (tmp_path / stamp).touch()
    again = steps("run", tmp_path)
    assert "pip" not in again and "signal-engine serve" in again
    # Developing after that takes everything else.
    developing = steps("test", tmp_path)
    assert "lint" in developing and "SIGNAL_EXTENSIONS=probe" in developing
    assert "--build-lib build/release-probe/lib" in developing  # build/lib is what a wheel is made of
    assert "SIGNAL_EXTENSIONS=engine" not in developing


def test_run_uses_a_development_environment(tmp_path: Path) -> None:
    for stamp in (".made", ".tools", ".packages", ".engine", ".probe", ".installed"):
        (tmp_path / stamp).touch()
    assert "pip" not in steps("run", tmp_path)
