"""The wheel of the previous commit, for tests of neighbouring versions: built once, and kept in build/previous until
the commit changes."""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "build" / "previous"
INPUTS = ("signal_core", "signal_py", "setup.py", "pyproject.toml")  # what a wheel is built from
BUILD_TIMEOUT = 600.0  # seconds


def git(*words: str) -> str:
    """The output of git; skips the test if it fails."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is not a git checkout: there is no previous commit")
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"git has no previous commit: {done.stderr.strip()}")
    return done.stdout.strip()


def previous() -> Path:
    """A folder with the unpacked wheel of HEAD~1, to import from. Commits with the same INPUTS share one."""
    trees = [git("rev-parse", f"HEAD~1:{name}")[:12] for name in INPUTS]
    folder = KEPT / f"{'-'.join(trees)}-{sys.implementation.cache_tag}"
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            for old in (one for one in KEPT.iterdir() if one.is_dir()):
                shutil.rmtree(old)
            build(folder)
    return folder


def build(folder: Path) -> None:
    """Builds the wheel of HEAD~1, and unpacks it into the folder."""
    work = folder.with_suffix(".work")
    shutil.rmtree(work, ignore_errors=True)
    (work / "source").mkdir(parents=True)
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD~1"], stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "-x", "-C", str(work / "source")], input=archive.stdout, check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    make = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(work), str(work / "source")]
    subprocess.run(make, check=True, timeout=BUILD_TIMEOUT)
    (wheel,) = work.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(work / "lib"), str(wheel)], check=True)
    (work / "lib").rename(folder)
    shutil.rmtree(work)
