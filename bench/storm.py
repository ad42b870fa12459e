"""What relays hear of a storm: 200,000 other connections that are cut and opened again, in turn with quiet.

    python bench/storm.py                              # all cut at one moment
    python bench/storm.py --rate 3000                  # ... so many a second
    python bench/storm.py --away 4096                  # ... one after another, so many at a time
    python bench/storm.py --own-processor              # ... by clients that have a processor of their own
    python bench/storm.py --server "--accept-yield off"    # ... at an engine that accepts them as fast as it can
    python bench/storm.py --apart --server "--accept-rate 8000"    # relays at another engine than the storm
    python bench/storm.py --json bench/results/storm.json  # keeps the turns, beside those of other forms

It ends with 1 where a message was lost or anything else went wrong. From bin/load storm. With --apart the relays and
their engine, of as many loops, share nothing with the storm but the processors: what is left of their delay is the
machine's. With --own-processor the clients of the storm have one processor, and the engine and the relays' clients the
others: as near as one machine comes to clients elsewhere.
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

from macro import trouble
from results import Figures, add_json, keep
from servers import LOAD, free_port, many_descriptors, running, serving

ROOM = 15_000  # connections a loop, within the usual hard limit of 20,000 descriptors a table
PERCENTILES = ("p50", "p90", "p99", "p999", "max")
AT_ONCE = "all at one moment"  # the form without options


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


def turn_of(run: Figures) -> Figures:
    """A turn as it is kept: latencies in microseconds, p99 in the storm by that of the quiet, and what went wrong."""
    latencies = {"quiet": run["latency_us"], "storm": run["storm"]["latency_us"]}
    found = {f"{when}_{name}_us": us[name] for when, us in latencies.items() for name in PERCENTILES}
    found |= {"ratio": round(found["storm_p99_us"] / found["quiet_p99_us"], 2), "lost": run["lost"]}
    return found | ({"wrong": wrong} if (wrong := trouble(run)) else {})


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
    words = f"storm --connections 500 --rate 1000 --storm {options.storm} --setup 300 --seconds 8"
    words += f" --storm-rate {options.rate}" if options.rate else ""
    words += f" --storm-away {options.away}" if options.away else ""
    words += f" --storm-cpu {last_processor()}" if options.own_processor else ""
    words += f" --storm-url ws://127.0.0.1:{storm}/" if storm != relays else ""
    command = [str(LOAD), *words.split(), f"ws://127.0.0.1:{relays}/"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return turn_of(understood(done.returncode, done.stdout, done.stderr))


def shown(turn: Figures) -> str:
    """A turn for people, and what went wrong in it."""
    parts = []
    for when in ("quiet", "storm"):
        p50, p90, p99 = (turn[f"{when}_{point}_us"] for point in ("p50", "p90", "p99"))
        parts.append(f"{when} p50 {p50:,.0f} µs, p90 {p90:,.0f}, p99 {p99:,.0f}")
    return f"{'; '.join(parts)}: {turn['ratio']:.1f}" + (f"; {turn['wrong']}" if "wrong" in turn else "")


def measured(options: argparse.Namespace) -> list[Figures]:
    """All turns, at one engine; each is printed."""
    turns = []
    with ExitStack() as servers:
        flags = f"--nats off --loops {-(-options.storm // ROOM)}"
        ports = [free_port() for _ in range(1 + options.apart)]
        with without_processor(last_processor() if options.own_processor else None):
            for port, more in zip(ports, (options.server, ""), strict=False):
                servers.enter_context(running(serving(port, f"{flags} {more}"), port))
        for number in range(options.turns):
            if number:
                time.sleep(2)
            turns.append(measured_turn(options, ports[0], ports[-1]))
            print(shown(turns[-1]), flush=True)
    return turns


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
    keep(options.json, {form_of(options): turns}, connections=options.storm)
    return 1 if any("wrong" in turn for turn in turns) else 0


if __name__ == "__main__":
    sys.exit(main())
