"""Builds the C extensions; everything else about the package is in pyproject.toml.

SIGNAL_BUILD chooses the flavour: release (default), debug, asan or tsan.
SIGNAL_EXTENSIONS chooses what is built: "engine" (default), "probe", "engine,probe" or "none". Tests and micro
benchmarks reach the core through the probe, which no wheel has.
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

# The data path is one C unit, of which GCC would inline less the more there is of it.
INLINE = ["inline-unit-growth=1000", "large-function-growth=4000", "large-stack-frame-growth=4000"]
INLINE = [part for each in [*INLINE, "max-inline-insns-single=500"] for part in ("--param", each)]
SOURCES = {"engine": "signal_core/engine.pyx", "probe": "signal_core/probe/probe.pyx"}
FLAVOURS = {
    # -w: what there is to warn of in generated C, the debug build shows. -g1 is for profiles, and costs no time.
    "release": (["-O3", "-g1", "-w", "-fno-plt", *INLINE], [], {}),
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


def known(variable: str, word: str, words: Collection[str]) -> str:
    """The word, which a variable of the environment holds, if it is one of the words."""
    if word not in words:
        sys.exit(f"setup.py: {variable}={word} is unknown: use one of {', '.join(words)}.")
    return word


FLAVOUR = known("SIGNAL_BUILD", os.environ.get("SIGNAL_BUILD", "release"), FLAVOURS)
BUILD = Path("build") / f"cython-{FLAVOUR}"


def picohttpparser(build: Path) -> Path:
    """A folder with picohttpparser's two files, copied from the build requirement gunicorn-h1c."""
    spec = importlib.util.find_spec("gunicorn_h1c")
    folder = Path(spec.origin).parent / "picohttpparser" if spec and spec.origin else None
    if folder is None or not (folder / "picohttpparser.c").is_file():
        sys.exit(
            "setup.py: picohttpparser.c is missing: it comes with the build requirement gunicorn-h1c. "
            "Build with 'pip install .' (which installs build requirements), or first 'pip install gunicorn-h1c'."
        )
    build.mkdir(parents=True, exist_ok=True)
    for name in ("picohttpparser.c", "picohttpparser.h"):
        shutil.copyfile(folder / name, build / name)
    return build


def extension(name: str) -> Extension:
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
    words = os.environ.get("SIGNAL_EXTENSIONS", "engine").split(",")
    names = [known("SIGNAL_EXTENSIONS", word, ("engine", "probe", "none")) for word in words]
    return [extension(name) for name in names if name != "none"]


class Build(build_ext):
    """Runs Cython only where something is built, and not in each step of pip: its look at the sources takes seconds."""

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
