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
from setuptools import Extension, setup

# The data path is one C unit, of which GCC would inline less the more there is of it.
INLINE = ["inline-unit-growth=1000", "large-function-growth=4000", "large-stack-frame-growth=4000"]
INLINE = [part for each in [*INLINE, "max-inline-insns-single=500"] for part in ("--param", each)]
FLAVOURS = {
    "release": (["-O3", "-g1", "-fno-plt", *INLINE], [], {}),
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


def known(variable: str, word: str, words: Collection[str]) -> str:
    """The word, which a variable of the environment holds, if it is one of the words."""
    if word not in words:
        sys.exit(f"setup.py: {variable}={word} is unknown: use one of {', '.join(words)}.")
    return word


def extension(name: str, build: Path, compile_args: list[str], link_args: list[str]) -> Extension:
    pico = picohttpparser(build / name)  # a copy for each, since they may be compiled at the same time
    return Extension(
        f"signal_core.{name}",
        [f"signal_core/{name}.pyx", str(pico / "picohttpparser.c")],
        include_dirs=["signal_core/include", str(pico)],
        # Cython's loops compare counters of different signedness.
        extra_compile_args=["-std=gnu11", "-pthread", "-fvisibility=hidden", "-Wno-sign-compare", *compile_args],
        extra_link_args=["-pthread", "-ldl", *link_args],
    )


def extensions() -> list[Extension]:
    flavour = known("SIGNAL_BUILD", os.environ.get("SIGNAL_BUILD", "release"), FLAVOURS)
    words = os.environ.get("SIGNAL_EXTENSIONS", "engine").split(",")
    names = [known("SIGNAL_EXTENSIONS", word, ("engine", "probe", "none")) for word in words]
    compile_args, link_args, directives = FLAVOURS[flavour]
    build = Path("build") / f"cython-{flavour}"
    built = [extension(name, build, compile_args, link_args) for name in names if name != "none"]
    return cythonize(built, compiler_directives={**DIRECTIVES, **directives}, build_dir=str(build))


setup(
    packages=["signal_core", "signal_py"],
    package_data={"signal_core": ["*.pyi", "py.typed"], "signal_py": ["py.typed"]},
    ext_modules=extensions(),
)
