"""The processor time of one ping with its pong: what idle connections cost, as often as they are pinged.

From bin/load idle; the pings are those that the engine counts (/metrics), the time that of its process.
"""

from __future__ import annotations

import argparse
import subprocess
import time
import urllib.request

from results import Figures, columns, keep, middle
from servers import LOAD, free_port, processor, running, serving, stop

WARMUP = 8.0
LEAST = 0.95  # of the pings that are due: a busy machine begins and ends a measurement late


def counted(metrics: str) -> float:
    """The pings that an engine has sent, all loops together, by its /metrics."""
    lines = metrics.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("signal_engine_pings_sent_total"))


def pings(port: int) -> float:
    """The pings that the engine with this admin port has sent so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return counted(answer.read().decode())


def each(sent: float, due: float, spent: float) -> Figures:
    """The figures of some time in which so many pings took so many seconds of the processor.

    Ends the program where fewer were sent than are due of the connections that should be open.
    """
    if sent < LEAST * due:
        raise SystemExit(f"keepalive: {sent:,.0f} pings were sent instead of {due:,.0f}: connections were lost")
    return {"pings": sent, "cpu_s": round(spent, 4), "us": round(spent * 1e6 / sent, 4)}


def watch(pid: int, admin: int, connections: int, seconds: float) -> Figures:
    """The pings of the next seconds, one a second for each connection, and the processor's microseconds for one."""
    sent, spent = pings(admin), processor(pid)
    time.sleep(seconds)
    found = each(pings(admin) - sent, connections * seconds, processor(pid) - spent)
    print(f"{found['pings']:,.0f} pings, {found['us']:.1f} µs each", flush=True)
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of this tool."""
    parser.add_argument("--connections", type=int, default=15_000)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each of three measurements (default 6)")


def measure(options: argparse.Namespace) -> None:
    """Prints three measurements of one engine with its connections, and their median."""
    port, admin = free_port(), free_port()
    flags = f"--nats off --loops 2 --ping-interval 1 --pong-timeout 0.9 --admin 127.0.0.1:{admin}"
    client = [str(LOAD), "idle", "--connections", str(options.connections), "--seconds", "600"]
    with running(serving(port, flags), port) as pid:
        url = f"ws://127.0.0.1:{port}/"
        with subprocess.Popen([*client, url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as loading:
            try:
                time.sleep(WARMUP)
                turns = [watch(pid, admin, options.connections, options.seconds) for _ in range(3)]
            finally:
                stop(loading)
    print(f"a ping and its pong: {middle(columns(turns), 'us'):.1f} µs of the engine's processor time")
    keep(options.json, {"keepalive": turns}, connections=options.connections)
