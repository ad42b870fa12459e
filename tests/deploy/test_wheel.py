"""The wheel of `make wheel` works where nothing can be compiled. The wheels of a release are configured."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import bench_tools
import kit
from compare_wheels import SOURCES

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "tests" / "support" / "smoke.py"


def build(folder: Path) -> Path:
    """The wheel of this checkout, with the extension that is there."""
    if kit.SANITIZED or not (Path(sys.prefix) / ".engine").exists():
        pytest.skip("only in the environment that make test has made")
    env = {name: value for name, value in bench_tools.environment().items() if not name.startswith(("MAKE", "PYTHON"))}
    command = ["make", "-C", str(ROOT), "wheel", f"VENV={sys.prefix}", f"DIST={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(folder: Path, venv: Path) -> dict[str, str]:
    """Installs the wheel in folder/dist into a new environment, as the page says. Returns variables with which no
    compiler is found."""
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    shown = re.search(r"^    make wheel\n    (pip install .*)$", page, re.MULTILINE)
    assert shown
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    env = {name: value for name, value in kit.clean_environment().items() if not name.startswith("PYTHON")}
    env |= {"PATH": str(venv / "bin"), "CC": "/bin/false", "CXX": "/bin/false"}
    command = ["/bin/sh", "-c", shown[1]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=folder)
    if done.returncode and "Retrying (" in done.stderr:
        pytest.skip(f"pip reaches no package index: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return env


@pytest.mark.timeout(600)  # if the extension has to be compiled
def test_a_wheel_works_without_a_compiler(tmp_path: Path) -> None:
    """On any Linux whose glibc is at least the one in its tag. It has no sources."""
    wheel = build(tmp_path / "dist")
    assert re.fullmatch(r"signal_engine_ws-[\d.]+-cp3\d+-cp3\d+-manylinux_2_\d+_\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert [name for name in names if name.endswith(SOURCES) or "/probe" in name] == []
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {
        "signal_core",
        "signal_py",
        "signal_engine_ws",
    }
    venv = tmp_path / "venv"
    env = install(tmp_path, venv)
    assert shutil.which("cc", path=env["PATH"]) is None
    done = subprocess.run([venv / "bin" / "python", SMOKE], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0 and " works: " in done.stdout, done.stdout + done.stderr


def test_the_smoke_test_tells_a_checkout_from_a_wheel() -> None:
    if not kit.__file__.startswith(str(ROOT)) or kit.SANITIZED:
        pytest.skip("only in a checkout")
    done = subprocess.run([sys.executable, SMOKE], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "is not that of the wheel" in done.stderr


def test_cibuildwheel_builds_for_each_python() -> None:
    """It accepts its configuration. No identifier is of a Python that the package does not support."""
    program = Path(sys.executable).with_name("cibuildwheel")
    if not program.exists():
        pytest.skip("cibuildwheel is not installed: it needs Python 3.11")
    command = [program, "--platform", "linux", "--print-build-identifiers", ROOT]
    env = {name: value for name, value in os.environ.items() if not name.startswith("CIBW_")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    built = {tuple(line.split("-")) for line in done.stdout.split()}
    pythons = {f"cp3{minor}" for minor in range(10, 15)}
    platforms = {f"{libc}_{machine}" for libc in ("manylinux", "musllinux") for machine in ("x86_64", "aarch64")}
    assert built == {(python, platform) for python in pythons for platform in platforms}
