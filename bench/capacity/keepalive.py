"""The processor time of one ping with its pong: what idle connections cost, as often as they are pinged.

The load generator holds the connections and counts the pings; the time is that of the engine's process.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from load import load
from results import Figures
from servers import BenchError, engine
from turns import Turn, run

FLAGS = "--loops 2 --ping-interval 1 --pong-timeout 0.9"
LEAST = 0.95  # of the pings that are due: on a busy machine a measurement begins and ends late


def each(sent: float, due: float, spent: float) -> Figures:
    """The figures of a time in which so many pings took so many seconds of the processor.

    BenchError if fewer were sent than are due for the connections that should be open.
    """
    if sent < LEAST * due:
        raise BenchError(f"{sent:,.0f} pings were sent instead of {due:,.0f}: connections were lost")
    return {"pings": sent, "cpu_s": round(spent, 4), "us": round(spent * 1e6 / sent, 4)}


def measure(connections: int, seconds: float) -> Figures:
    """Pings of some seconds, one a second for each connection, with hardly a message meanwhile."""
    words = f"mix --connections {connections} --rate 0.01 --warmup 8 --seconds {seconds}"
    with engine(FLAGS) as server:
        found = load(words, [server.url], [server.pid])
    used = found["all_servers"]
    return each(found["pings_measured"], connections * found["seconds"], used["user_s"] + used["system_s"])


def forms(options: argparse.Namespace, _stack: ExitStack) -> dict[str, Turn]:
    return {"keepalive": lambda _turn: measure(options.connections, options.seconds)}


def main(arguments: list[str]) -> int:
    options = {"connections": (15_000, "idle ones"), "seconds": (6.0, "of each turn")}
    return run(__doc__, options, forms, about=lambda o: {"connections": o.connections}, arguments=arguments)
