"""The processor time of one ping with its pong: what idle connections cost, as often as they are pinged.

    python bench/keepalive.py                             # 15,000 connections pinged each second
    python bench/keepalive.py --json bench/results/keepalive.json

From bin/load idle; the pings are those that the engine counts (/metrics), the time that of its process.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
import urllib.request

from contenders import HERE, VENV_BIN
from kept import add_json, keep
from servers import free_port, processor, stop, wait_listening

WARMUP = 8.0
LEAST = 0.95  # of the pings that are due: a busy machine begins and ends a measurement late
Turn = dict[str, float]


def counted(metrics: str) -> float:
    """The pings that an engine has sent, all loops together, by its /metrics."""
    lines = metrics.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("signal_engine_pings_sent_total"))


def pings(port: int) -> float:
    """The pings that the engine with this admin port has sent so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return counted(answer.read().decode())


def each(sent: float, due: float, spent: float) -> Turn:
    """What is kept of some time in which so many pings took so many seconds of the processor.

    Ends the program where fewer were sent than are due of the connections that should be open.
    """
    if sent < LEAST * due:
        raise SystemExit(f"keepalive: {sent:,.0f} pings were sent instead of {due:,.0f}: connections were lost")
    return {"pings": sent, "cpu_s": round(spent, 4), "us": round(spent * 1e6 / sent, 4)}


def watch(pid: int, admin: int, connections: int, seconds: float) -> Turn:
    """The pings of the next seconds, one a second for each connection, and the processor's microseconds for one."""
    sent, spent = pings(admin), processor(pid)
    time.sleep(seconds)
    sent, spent = pings(admin) - sent, processor(pid) - spent
    found = each(sent, connections * seconds, spent)
    print(f"{sent:,.0f} pings, {found['us']:.1f} µs each", flush=True)
    return found


def main() -> int:
    """Prints three measurements of one engine with its connections, and their median."""
    parser = argparse.ArgumentParser(description="The processor time of one ping with its pong.")
    parser.add_argument("--connections", type=int, default=15_000)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each of three measurements (default 6)")
    add_json(parser)
    options = parser.parse_args()
    port, admin = free_port(), free_port()
    url = f"ws://127.0.0.1:{port}/"
    server = [str(VENV_BIN / "signal-engine"), "serve", "--nats", "off", "--loops", "2", "--ping-interval", "1",
              "--pong-timeout", "0.9", "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}"]
    client = [str(HERE / "bin" / "load"), "idle", "--connections", str(options.connections), "--seconds", "600", url]
    with subprocess.Popen(server, stderr=subprocess.DEVNULL) as serving:
        try:
            wait_listening(serving, port)
            with subprocess.Popen(client, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as loading:
                try:
                    time.sleep(WARMUP)
                    turns = [watch(serving.pid, admin, options.connections, options.seconds) for _ in range(3)]
                finally:
                    stop(loading)
        finally:
            stop(serving)
    middle = statistics.median(turn["us"] for turn in turns)
    print(f"a ping and its pong: {middle:.1f} µs of the engine's processor time")
    if options.json:
        keep(options.json, "keepalive", {"connections": options.connections, "turns": turns})
    return 0


if __name__ == "__main__":
    sys.exit(main())
