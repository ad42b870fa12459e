"""Prints the flags with which a C compiler builds a program that embeds this Python."""

import sysconfig
from pathlib import Path


def flags() -> list[str]:
    get = sysconfig.get_config_var
    version = get("LDVERSION") or get("VERSION")
    folders = [folder for folder in (get("LIBDIR"), get("LIBPL")) if folder]
    shared = [folder for folder in folders if list(Path(folder).glob(f"libpython{version}.so*"))]
    link = [f"-L{folder}" for folder in shared or folders] + [f"-Wl,-rpath,{folder}" for folder in shared]
    libraries = f"-lpython{version} {get('LIBS') or ''} {get('SYSLIBS') or ''} {get('LINKFORSHARED') or ''}"
    return [f"-I{sysconfig.get_path('include')}", *link, *libraries.split()]


if __name__ == "__main__":
    print(" ".join(flags()))
