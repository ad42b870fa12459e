"""What relays hear of a storm: 200,000 other connections that are cut and opened again, in turn with quiet.

    python bench/storm.py                              # all cut at one moment
    python bench/storm.py --rate 3000                  # ... so many a second
    python bench/storm.py --away 4096                  # ... one after another, so many at a time
    python bench/storm.py --own-processor              # ... by clients that have a processor of their own
    python bench/storm.py --server "--accept-yield off"    # ... at an engine that takes them as fast as it can
    python bench/storm.py --apart                      # relays at another engine: what the machine alone makes of it

From bin/load storm. With --apart the relays and their engine have nothing to do with the storm but that they run on the
same processors, so no engine could keep its relays below that. With --own-processor the clients of the storm have one
processor, and the engine and the relays' clients have the others: as near as one machine comes to clients elsewhere.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from contenders import HERE, VENV_BIN
from servers import free_port, many_descriptors, running

LOAD = str(HERE / "bin" / "load")
ROOM = 15_000  # connections a loop, within the usual hard limit of 20,000 descriptors a table


def serve(loops: int, more: str) -> tuple[str, int]:
    port = free_port()
    return f"{VENV_BIN / 'signal-engine'} serve --listen 127.0.0.1:{port} --nats off --loops {loops} {more}", port


def last_processor() -> int:
    return max(os.sched_getaffinity(0))


@contextmanager
def without_processor(cpu: int | None) -> Iterator[None]:
    """What is started in the block runs on the other processors."""
    all_of_them = os.sched_getaffinity(0)
    if cpu is not None and len(all_of_them) < 2:
        raise SystemExit("storm: --own-processor needs two processors")
    os.sched_setaffinity(0, all_of_them - {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_of_them)


def load(*arguments: str) -> dict[str, Any]:
    done = subprocess.run([LOAD, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"storm: load ended with {done.returncode}: {done.stderr[-400:]}")
    return dict(json.loads(done.stdout))


def storm_arguments(options: argparse.Namespace, port: int, seconds: float) -> list[str]:
    rate = ["--storm-rate", str(options.rate)] if options.rate else []
    away = ["--storm-away", str(options.away)] if options.away else []
    cpu = ["--storm-cpu", str(last_processor())] if options.own_processor else []
    return ["storm", "--storm", str(options.storm), "--setup", "300", "--seconds", str(seconds), *rate, *away, *cpu,
            f"ws://127.0.0.1:{port}/"]


def together(options: argparse.Namespace, port: int) -> tuple[dict[str, float], dict[str, float]]:
    """Latencies, µs, of 500 connections' 1,000 relays a second, before the storm and in it."""
    r = load("--connections", "500", "--rate", "1000", *storm_arguments(options, port, 8))
    return r["latency_us"], r["storm"]["latency_us"]


def apart(options: argparse.Namespace, port: int, other: int) -> tuple[dict[str, float], dict[str, float]]:
    """The same, of relays at another engine. The storm must last longer than they are looked at."""
    relay = ["relay", "--connections", "500", "--rate", "1000", "--warmup", "0.5", f"ws://127.0.0.1:{other}/"]
    quiet = load(*relay, "--seconds", "8")["latency_us"]
    steady = ["--connections", "2", "--rate", "1"]
    with subprocess.Popen([LOAD, *steady, *storm_arguments(options, port, 1)], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as storm:
        assert storm.stderr is not None
        for line in storm.stderr:  # one every 5 s
            if "storm" in line:
                break
        meanwhile = load(*relay, "--seconds", "2")["latency_us"]
        if storm.poll() is not None:
            raise SystemExit("storm: it was over too soon: more connections, or a lower rate")
        storm.communicate()
    return quiet, meanwhile


def show(name: str, of: dict[str, float]) -> str:
    return f"{name} p50 {of['p50']:,.0f} µs, p90 {of['p90']:,.0f}, p99 {of['p99']:,.0f}"


def main() -> int:
    parser = argparse.ArgumentParser(description="What relays hear of a storm of reconnects.")
    parser.add_argument("--storm", type=int, default=200_000, help="connections that are cut and opened again")
    parser.add_argument("--rate", type=float, default=0, help="cut a second; 0, the default: all at one moment")
    parser.add_argument("--away", type=int, default=0, help="that are away at a time at most; 0, the default: all")
    parser.add_argument("--server", default="", help="more options of the engine")
    parser.add_argument("--apart", action="store_true", help="the relays go through another engine")
    parser.add_argument("--own-processor", action="store_true", help="the storm has one, the rest the others")
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    many_descriptors()
    with ExitStack() as servers:
        command, port = serve(-(-options.storm // ROOM), options.server)
        with without_processor(last_processor() if options.own_processor else None):
            servers.enter_context(running(command, port))
        command, other = serve(1, "")
        if options.apart:
            servers.enter_context(running(command, other))
        for turn in range(options.turns):
            if turn:
                time.sleep(2)
            quiet, meanwhile = apart(options, port, other) if options.apart else together(options, port)
            ratio = meanwhile["p99"] / quiet["p99"]
            print(f"{show('quiet', quiet)}; {show('storm', meanwhile)}: {ratio:.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
