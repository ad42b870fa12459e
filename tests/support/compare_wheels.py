"""Compares a wheel of the checkout with one of the sdist: the same files with the same content, without
C sources and without the extension for tests.

    python tests/support/compare_wheels.py ONE.whl OTHER.whl

Compiled files are compared by name only, as they contain the folder in which they were built.
"""

from __future__ import annotations

import sys
import zipfile

SOURCES = (".c", ".h", ".pyx", ".pxd", ".pxi")
BUILT = (".so", "/RECORD")


def content(wheel: str) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: b"" if name.endswith(BUILT) else archive.read(name) for name in archive.namelist()}


def differences(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    found = [f"only in one of them: {name}" for name in sorted(one.keys() ^ other.keys())]
    found += [f"differs: {name}" for name in sorted(one.keys() & other.keys()) if one[name] != other[name]]
    found += [f"for tests only: {name}" for name in sorted(one) if "/probe" in name]
    return found + [f"a source: {name}" for name in sorted(one) if name.endswith(SOURCES)]


def main() -> int:
    one, other = (content(wheel) for wheel in sys.argv[1:3])
    found = differences(one, other)
    print("\n".join(found) if found else f"{len(one)} files, the same in both")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
