"""What relays hear of a storm: 200,000 other connections that are cut and opened again, in turn with quiet.

    python bench/storm.py                              # all cut at one moment
    python bench/storm.py --rate 3000                  # ... so many a second
    python bench/storm.py --away 4096                  # ... one after another, so many at a time
    python bench/storm.py --own-processor              # ... by clients that have a processor of their own
    python bench/storm.py --server "--accept-yield off"    # ... at an engine that takes them as fast as it can
    python bench/storm.py --apart --server "--accept-rate 8000"    # relays at another engine than the storm
    python bench/storm.py --json bench/results/storm.json  # keeps the turns, beside those of other forms

It ends with 1 where a message was lost or anything else went wrong. From bin/load storm. With --apart the relays and
their engine, of as many loops, have nothing to do with the storm but that they run on the same processors: what is left
of their delay, where who comes back is taken no faster than beside relays, is the machine's. With --own-processor the
clients of the storm have one processor, and the engine and the relays' clients have the others: as near as one machine
comes to clients elsewhere.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from contenders import HERE, VENV_BIN
from kept import add_json, keep_forms
from servers import free_port, many_descriptors, running

LOAD = str(HERE / "bin" / "load")
ROOM = 15_000  # connections a loop, within the usual hard limit of 20,000 descriptors a table
PERCENTILES = ("p50", "p90", "p99", "p999", "max")
AT_ONCE = "all at one moment"  # the form without options

Figures = dict[str, Any]


def serve(loops: int, more: str) -> tuple[str, int]:
    """An engine's command, and the port in it."""
    port = free_port()
    return f"{VENV_BIN / 'signal-engine'} serve --listen 127.0.0.1:{port} --nats off --loops {loops} {more}", port


def last_processor() -> int:
    """The one that the clients of the storm may have for themselves."""
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


def understood(status: int, out: str, err: str) -> Figures:
    """The load generator's JSON, which it writes where messages were lost, too; ends the program without."""
    if not out:
        raise SystemExit(f"storm: load ended with {status}: {err[-400:]}")
    return dict(json.loads(out))


def load(*arguments: str) -> Figures:
    """What the load generator tells of a run."""
    done = subprocess.run([LOAD, *arguments], capture_output=True, text=True, check=False)
    return understood(done.returncode, done.stdout, done.stderr)


def faults(run: Figures) -> dict[str, int]:
    """What went wrong in a run, by name; `lost` is always told. Nobody is too slow here, so a GAP is a fault."""
    found = {"gap": run["gap"], **run["errors"], **run["err"]}
    return {"lost": run["lost"], **{name: count for name, count in found.items() if count}}


def turn_of(run: Figures) -> Figures:
    """A turn as it is kept: latencies in microseconds, p99 in the storm by that of the quiet, and what went wrong."""
    quiet, storm = run["latency_us"], run["storm"]["latency_us"]
    return {
        "quiet_us": {name: quiet[name] for name in PERCENTILES},
        "storm_us": {name: storm[name] for name in PERCENTILES},
        "ratio": round(storm["p99"] / quiet["p99"], 2),
        **faults(run),
    }


def form_of(options: argparse.Namespace) -> str:
    """What tells one form of the storm from another, as it is typed."""
    words = [f"--rate {options.rate:g}"] if options.rate else []
    words += [f"--away {options.away}"] if options.away else []
    words += ["--own-processor"] if options.own_processor else []
    words += [f"--server {shlex.quote(options.server)}"] if options.server else []
    words += ["--apart"] if options.apart else []
    return " ".join(words) or AT_ONCE


def measured_turn(options: argparse.Namespace, storm: int, relays: int) -> Figures:
    """500 connections' 1,000 relays a second at one port, before the storm at the other, or the same, and in it."""
    rate = ["--storm-rate", str(options.rate)] if options.rate else []
    away = ["--storm-away", str(options.away)] if options.away else []
    cpu = ["--storm-cpu", str(last_processor())] if options.own_processor else []
    other = ["--storm-url", f"ws://127.0.0.1:{storm}/"] if storm != relays else []
    return turn_of(load("storm", "--connections", "500", "--rate", "1000", "--storm", str(options.storm),
                        "--setup", "300", "--seconds", "8", *rate, *away, *cpu, *other, f"ws://127.0.0.1:{relays}/"))


def shown(turn: Figures) -> str:
    """A turn for people, and what went wrong in it."""
    parts = []
    for name in ("quiet", "storm"):
        us = turn[f"{name}_us"]
        parts.append(f"{name} p50 {us['p50']:,.0f} µs, p90 {us['p90']:,.0f}, p99 {us['p99']:,.0f}")
    wrong = ", ".join(f"{name} {count}" for name, count in wrongs(turn).items())
    return f"{'; '.join(parts)}: {turn['ratio']:.1f}" + (f"; {wrong}" if wrong else "")


def wrongs(turn: Figures) -> dict[str, int]:
    """What went wrong in a turn; nothing where all was delivered."""
    return {name: n for name, n in turn.items() if name not in ("quiet_us", "storm_us", "ratio") and n}


def main() -> int:
    """0; 1 where a message was lost or anything else went wrong."""
    parser = argparse.ArgumentParser(description="What relays hear of a storm of reconnects.")
    parser.add_argument("--storm", type=int, default=200_000, help="connections that are cut and opened again")
    parser.add_argument("--rate", type=float, default=0, help="cut a second; 0, the default: all at one moment")
    parser.add_argument("--away", type=int, default=0, help="that are away at a time at most; 0, the default: all")
    parser.add_argument("--server", default="", help="more options of the engine; with --apart of the storm's")
    parser.add_argument("--apart", action="store_true", help="the relays go through another engine")
    parser.add_argument("--own-processor", action="store_true", help="the storm has one, the rest the others")
    parser.add_argument("--turns", type=int, default=2)
    add_json(parser)
    options = parser.parse_args()
    many_descriptors()
    turns = measured(options)
    if options.json:
        keep_forms(options.json, "storm", {form_of(options): turns}, connections=options.storm)
    return 1 if any(wrongs(turn) for turn in turns) else 0


def measured(options: argparse.Namespace) -> list[Figures]:
    """All turns, at one engine; each is printed."""
    turns = []
    with ExitStack() as servers:
        loops = -(-options.storm // ROOM)
        command, port = serve(loops, options.server)
        with without_processor(last_processor() if options.own_processor else None):
            servers.enter_context(running(command, port))
            relays = port
            if options.apart:
                command, relays = serve(loops, "")
                servers.enter_context(running(command, relays))
        for number in range(options.turns):
            if number:
                time.sleep(2)
            turns.append(measured_turn(options, port, relays))
            print(shown(turns[-1]), flush=True)
    return turns


if __name__ == "__main__":
    sys.exit(main())
