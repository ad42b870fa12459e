"""What `signal-engine top` costs a node: CPU of the engine with and without it, in turns, among idle connections.

make -C bench load
python bench/watch.py --connections 100000
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from contenders import ENGINE, VENV_BIN, loops_for
from load import LOAD
from servers import BenchError, free_port, many_descriptors, running

SETTLED = 0.2  # share of a CPU below which the engine counts as quiet
PATIENCE = 300.0  # seconds for all connections to be open and quiet


def cpu(pid: int) -> float:
    """Seconds of CPU that the threads of a process have used, to the ns. One that ends in between is left out: `top`
    keeps one connection, and so one thread of the engine."""
    found = [file.read_text(encoding="ascii").split() for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(fields[0]) for fields in found) / 1e9


def measured(pid: int, seconds: float, command: list[str]) -> float:
    """The share of a CPU that the engine uses while a command, which may be none, runs."""
    watching = subprocess.Popen(command, stdout=subprocess.DEVNULL) if command else None
    try:
        time.sleep(2 if watching else 0)  # the start of top is no part of it
        before, since = cpu(pid), time.monotonic()
        time.sleep(seconds)
        return (cpu(pid) - before) / (time.monotonic() - since)
    finally:
        if watching:
            watching.terminate()
            watching.wait()


def await_all(pid: int, admin: str, connections: int) -> None:
    """Returns once all connections are open and the engine is quiet. Raises BenchError."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with urllib.request.urlopen(f"http://{admin}/stats", timeout=10) as answer:
            found = json.load(answer)["total"]["connections"]
        if found >= connections and measured(pid, 2, []) < SETTLED:
            return
        time.sleep(1)
    raise BenchError(f"{found} of {connections} connections are open")


def main() -> int:
    """Prints both shares of each turn, and the median of the differences."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--connections", type=int, default=100_000, help="(default 100000)")
    parser.add_argument("--turns", type=int, default=3, help="(default 3)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each half of a turn (default 20)")
    options = parser.parse_args()
    many_descriptors()
    port, admin, loops = free_port(), f"127.0.0.1:{free_port()}", max(2, loops_for(options.connections))
    command = ENGINE.with_loops(loops).filled(port=port, nats="off", node="bench0")
    quiet = 2 * options.turns * (options.seconds + 3) + PATIENCE
    words = f"mix --connections {options.connections} --threads {loops} --rate 1 --rooms 1 --members 2 --room-rate 1"
    words += f" --quiet {quiet:g} --seconds 1 --setup {PATIENCE:g}"
    watch = [f"{VENV_BIN}/signal-engine", "top", "--admin", admin, "--json"]
    with running(f"{command} --admin {admin} --ping-interval 3600", port) as server:
        crowd = subprocess.Popen([str(LOAD), *shlex.split(words), server.url], stdout=subprocess.DEVNULL)
        try:
            await_all(server.pid, admin, options.connections)
            costs = []
            for _ in range(options.turns):
                alone = measured(server.pid, options.seconds, [])
                watched = measured(server.pid, options.seconds, watch)
                costs.append(watched - alone)
                print(f"without {alone:.2%}, with top {watched:.2%} of a CPU", flush=True)
        finally:
            crowd.kill()
            crowd.wait()
    print(f"{options.connections:,} connections: top costs {statistics.median(costs):.2%} of a CPU")
    return 0


if __name__ == "__main__":
    sys.exit(main())
