"""`make -C bench peers`: what keeps the Go proxy from being built is seen, and keeps nobody else from being run."""

from __future__ import annotations

import os
from pathlib import Path

from bench_tools import make


def compiler(folder: Path, script: str) -> str:
    """A Go compiler that does as the shell script says."""
    file = folder / "go"
    file.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    file.chmod(0o755)
    return str(file)


def old(folder: Path) -> Path:
    """A proxy that was built from an older source."""
    folder.mkdir()
    file = folder / "goproxy"
    file.touch()
    os.utime(file, (1, 1))
    return file


def test_what_the_compiler_says_is_seen_and_no_failure(tmp_path: Path) -> None:
    proxy = old(tmp_path / "bin")
    done = make("peers", into=proxy.parent, GO=compiler(tmp_path, "echo 'main.go:7: oops' >&2; exit 1"))
    assert done.returncode == 0
    assert "main.go:7: oops" in done.stderr and "goproxy is not built, and left out" in done.stderr
    assert not proxy.exists(), "what was built before is not measured in its place"


def test_nothing_is_said_where_there_is_no_compiler(tmp_path: Path) -> None:
    done = make("peers", into=tmp_path, GO=str(tmp_path / "none"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_is_built_where_it_can_be(tmp_path: Path) -> None:
    proxy = old(tmp_path / "bin")
    done = make("peers", into=proxy.parent, GO=compiler(tmp_path, 'echo "$@" > "$3"'))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert proxy.read_text(encoding="utf-8") == f"build -o {proxy} main.go\n"
