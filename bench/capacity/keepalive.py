"""The processor time of one ping with its pong: what idle connections cost, as often as they are pinged.

The load generator holds the connections; the pings are those that the engine counts (/metrics), the time is that of its
process.
"""

from __future__ import annotations

import argparse
import subprocess
import time
import urllib.request
from contextlib import ExitStack

from load import LOAD
from results import Figures
from servers import Server, engine, free_port, processor, stop
from turns import Turn, run

WARMUP = 8.0
LEAST = 0.95  # of the pings that are due: on a busy machine a measurement begins and ends late


def counted(metrics: str) -> float:
    """The pings of all loops that an engine has sent, from its /metrics."""
    lines = metrics.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("signal_engine_pings_sent_total"))


def pings(port: int) -> float:
    """The pings that the engine with this admin port has sent so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return counted(answer.read().decode())


def each(sent: float, due: float, spent: float) -> Figures:
    """The figures of a time in which so many pings took so many seconds of the processor.

    Ends the program if fewer were sent than are due for the connections that should be open.
    """
    if sent < LEAST * due:
        raise SystemExit(f"keepalive: {sent:,.0f} pings were sent instead of {due:,.0f}: connections were lost")
    return {"pings": sent, "cpu_s": round(spent, 4), "us": round(spent * 1e6 / sent, 4)}


def measure(server: Server, admin: int, options: argparse.Namespace) -> Figures:
    """The pings of the next seconds, one a second for each connection, and the processor's microseconds for one."""
    sent, spent = pings(admin), processor(server.pid)
    time.sleep(options.seconds)
    return each(pings(admin) - sent, options.connections * options.seconds, processor(server.pid) - spent)


def forms(options: argparse.Namespace, stack: ExitStack) -> dict[str, Turn]:
    """One engine with its connections for all turns."""
    admin = free_port()
    flags = f"--loops 2 --ping-interval 1 --pong-timeout 0.9 --admin 127.0.0.1:{admin}"
    server = stack.enter_context(engine(flags))
    words = [str(LOAD), "idle", "--connections", str(options.connections), "--seconds", "3600", server.url]
    holding = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(stop, holding)
    time.sleep(WARMUP)
    return {"keepalive": lambda _turn: measure(server, admin, options)}


def main(arguments: list[str]) -> int:
    options = {"connections": (15_000, "idle ones"), "seconds": (6.0, "of each turn")}
    return run(__doc__, options, forms, about=lambda o: {"connections": o.connections}, arguments=arguments)
