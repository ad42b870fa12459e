"""Builds the C extensions; everything else about the package is in pyproject.toml.

Two environment variables control the build:

SIGNAL_BUILD       the flavour: release (default), debug, asan or tsan
SIGNAL_EXTENSIONS  what is built: "engine" (default), "probe", "engine,probe" or "none". Tests and microbenchmarks reach
                   the core through the probe, which no wheel contains
"""

import importlib.util
import os
import shutil
import sys
from collections.abc import Collection
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

# The data path is one C unit. By default, GCC inlines less the larger a unit is.
INLINE = ["inline-unit-growth=1000", "large-function-growth=4000", "large-stack-frame-growth=4000"]
INLINE = [part for each in [*INLINE, "max-inline-insns-single=500"] for part in ("--param", each)]
SOURCES = {"engine": "signal_core/engine.pyx", "probe": "signal_core/probe/probe.pyx"}
FLAVOURS = {
    # Cython compares the index of a loop over an enum's numbers with an int. -g1 is for profilers, and costs no time.
    "release": (["-O3", "-g1", "-Wall", "-Wno-sign-compare", "-fno-plt", *INLINE], [], {}),
    "debug": (
        ["-O0", "-g3", "-DSE_DEBUG=1", "-UNDEBUG", "-DCYTHON_TRACE=1"],
        [],
        {"boundscheck": True, "initializedcheck": True, "linetrace": True},
    ),
    "asan": (
        ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-DSE_DEBUG=1", "-UNDEBUG"],
        ["-fsanitize=address,undefined"],
        {},
    ),
    "tsan": (["-O1", "-g", "-fsanitize=thread", "-DSE_DEBUG=1", "-UNDEBUG"], ["-fsanitize=thread"], {}),
}
DIRECTIVES = {
    "language_level": 3,
    "cdivision": True,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "embedsignature": True,
}


def known(variable: str, value: str, choices: Collection[str]) -> str:
    """Returns the value of an environment variable. Exits if it is not one of the choices."""
    if value not in choices:
        sys.exit(f"setup.py: {variable}={value} is unknown: use one of {', '.join(choices)}.")
    return value


FLAVOUR = known("SIGNAL_BUILD", os.environ.get("SIGNAL_BUILD", "release"), FLAVOURS)
BUILD = Path("build") / f"cython-{FLAVOUR}"


def picohttpparser(build: Path) -> Path:
    """Copies picohttpparser's two files from the build requirement gunicorn-h1c to a folder. Returns the folder."""
    spec = importlib.util.find_spec("gunicorn_h1c")
    folder = Path(spec.origin).parent / "picohttpparser" if spec and spec.origin else None
    if folder is None or not (folder / "picohttpparser.c").is_file():
        sys.exit(
            "setup.py: picohttpparser.c is missing: it comes with the build requirement gunicorn-h1c. "
            "Build with 'pip install .' (which installs build requirements), or first 'pip install gunicorn-h1c'."
        )
    build.mkdir(parents=True, exist_ok=True)
    for name in ("picohttpparser.c", "picohttpparser.h"):
        shutil.copy2(folder / name, build / name)
    return build


def extension(name: str) -> Extension:
    """Returns the extension "engine" or "probe", in the chosen flavour."""
    compile_args, link_args, _ = FLAVOURS[FLAVOUR]
    pico = picohttpparser(BUILD / name)  # a copy for each, since they may be compiled at the same time
    return Extension(
        f"signal_core.{name}",
        [SOURCES[name], str(pico / "picohttpparser.c")],
        include_dirs=["signal_core/include", str(pico)],
        extra_compile_args=["-std=gnu11", "-pthread", "-fvisibility=hidden", *compile_args],
        extra_link_args=["-pthread", "-ldl", *link_args],
    )


def extensions() -> list[Extension]:
    """Returns the extensions that SIGNAL_EXTENSIONS names."""
    chosen = os.environ.get("SIGNAL_EXTENSIONS", "engine").split(",")
    names = [known("SIGNAL_EXTENSIONS", name, ("engine", "probe", "none")) for name in chosen]
    return [extension(name) for name in names if name != "none"]


class Build(build_ext):
    """Runs Cython only when something is built. Not in every step of pip, since it scans the sources for seconds."""

    def build_extensions(self) -> None:
        directives = {**DIRECTIVES, **FLAVOURS[FLAVOUR][2]}
        made = cythonize(self.extensions, compiler_directives=directives, build_dir=str(BUILD))
        for extension, generated in zip(self.extensions, made, strict=True):
            extension.sources = generated.sources
        super().build_extensions()


setup(
    packages=find_packages(include=["signal_core", "signal_py", "signal_py.*"]),
    package_data={"signal_core": ["*.pyi", "py.typed"], "signal_py": ["py.typed"]},
    ext_modules=extensions(),
    cmdclass={"build_ext": Build},
)
