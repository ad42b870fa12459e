"""Whole servers under load, in turn: CPU a delivery, latency, bytes a connection, as medians and ratios.

    python bench/macro.py                                 # every scenario, every peer that can run here
    python bench/macro.py --scenarios relay,idle --only engine,picows

For each scenario every contender is started afresh, loaded by bin/load and stopped, `--runs` times in turn, so that
noise of the machine falls on all alike. A ratio is that of two contenders in the same turn. See README.md beside this
file.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from contenders import (
    BUILT_IN,
    HERE,
    Contender,
    chosen,
    nats_server,
    no_nats_server,
    parse_names,
    parse_peer,
    parse_peer_version,
    told,
)
from machine import description
from results import BUILD, Figures, columns, ratios, spread, write
from servers import LOAD, BenchError, free_port, many_descriptors, running

# Figures of a run, by the keys that lead to them in the load generator's JSON.
PATHS = {
    "user_us": ("all_servers", "user_us_per_delivery"),
    "cpu_us": ("all_servers", "cpu_us_per_delivery"),
    "user_s": ("all_servers", "user_s"),
    "bytes": ("all_servers", "bytes_per_connection"),
    "per_second": ("per_second",),
    "delivered": ("delivered",),
    "busiest": ("load_cpu", "busiest_thread"),
    "p50_us": ("latency_us", "p50"),
    "p99_us": ("latency_us", "p99"),
    "p999_us": ("latency_us", "p999"),
}
TITLES = {
    "user_us": "user µs/delivery",
    "cpu_us": "user+system µs/delivery",
    "per_second": "deliveries/s",
    "busiest": "load generator's busiest thread",
    "p50_us": "p50 µs",
    "p99_us": "p99 µs",
    "bytes": "bytes/connection",
}
CPU = ("user_us", "cpu_us", "per_second", "busiest")
LATENCY = ("p50_us", "p99_us")
CURVE_LEAST = 5  # messages above a point of a curve: fewer are chance


@dataclass(frozen=True)
class Scenario:
    """What the load generator does, on how many nodes, for how long at most, and which figures are printed."""

    name: str
    load: str
    shown: tuple[str, ...] = CPU
    nodes: int = 1
    longest: float = 3600.0


SCENARIOS = (
    Scenario("relay", "relay --connections 500 --payload 128"),
    Scenario("random", "random --connections 500 --payload 128"),
    Scenario("echo", "self --connections 500 --payload 128"),
    Scenario("pair", "pair", LATENCY, longest=5),
    Scenario("pair-spin", "pair --spin", LATENCY, longest=5),
    Scenario("idle", "idle --connections 10000 --verify", ("bytes",), longest=3),
    Scenario("fanout", "room --rooms 1 --members 1000"),
    Scenario("fanout-10k", "room --rooms 1 --members 10000"),
    Scenario("rooms", "room --rooms 100 --members 10"),
    Scenario("churn", "churn --connections 50"),
    Scenario("cross", "relay --connections 500 --payload 128", nodes=2),
    Scenario("cross-pair", "pair", LATENCY, nodes=2, longest=5),
)


def start(contender: Contender, nodes: int, stack: ExitStack) -> tuple[list[str], list[int]]:
    """Start a contender, and a nats-server if it needs one; the URLs and the process ids."""
    nats, pids, urls = "off", [], []
    if nodes > 1 or contender.needs_nats:
        if missing := no_nats_server():
            raise BenchError(missing)
        port = free_port()
        nats = f"nats://127.0.0.1:{port}"
        pids.append(stack.enter_context(running(f"{nats_server()} -a 127.0.0.1 -p {port}", port)))
    for number in range(nodes):
        port = free_port()
        command = contender.filled(port=port, nats=nats, node=f"bench{number}")
        pids.append(stack.enter_context(running(command, port)))
        urls.append(f"ws://127.0.0.1:{port}/")
    return urls, pids


def measure(load: Path, contender: Contender, scenario: Scenario, seconds: float) -> Figures:
    """The figures of one run."""
    with ExitStack() as stack:
        urls, pids = start(contender, scenario.nodes, stack)
        command = [str(load), *scenario.load.split(), *contender.load_options]
        command += ["--seconds", str(min(seconds, scenario.longest)), *(f"--pid={pid}" for pid in pids)]
        done = subprocess.run([*command, *urls], stdout=subprocess.PIPE, check=False)
        if done.returncode != 0:
            raise BenchError(f"{contender.name}: {shlex.join(command)} ended with {done.returncode}")
        return summary(json.loads(done.stdout))


def figure(run: Figures, *path: str) -> float | None:
    """What the keys lead to in the load generator's JSON, or None where it has none."""
    value: Any = run
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if value is not None else None


def summary(run: Figures) -> Figures:
    """The figures of a run, from the load generator's JSON; `wrong` where something went wrong."""
    found: Figures = {name: value for name, path in PATHS.items() if (value := figure(run, *path)) is not None}
    if run.get("mode") == "room" and (last := to_last_member(run)) is not None:
        found["room_ms"] = last
    if run.get("mode") == "pair":
        found["curve"] = curve(run)
    return found | ({"wrong": wrong} if (wrong := trouble(run)) else {})


def to_last_member(run: Figures) -> float | None:
    """Milliseconds from a publish until the last member of its room heard it: the mean of a run's publishes.

    The next publish goes when all members have heard, so it is the measured time divided by the publishes.
    """
    heard = run["delivered"] / (run["members"] - 1)
    return round(run["seconds"] * 1e3 / heard, 6) if heard >= 1 else None


def curve(run: Figures) -> list[list[float]]:
    """The latency curve of a run as [share of messages above, µs]."""
    latency = run["latency_us"]
    points = [[round(1 - percent / 100, 10), us] for percent, us in latency.get("curve", [])]
    return [point for point in points if point[0] * latency["count"] >= CURVE_LEAST]


def trouble(run: Figures) -> str:
    """What went wrong in a run, or nothing."""
    faults = {**run.get("errors", {}), **run.get("err", {}), **{name: run.get(name, 0) for name in ("lost", "gap")}}
    return ", ".join(f"{name} {count}" for name, count in faults.items() if count)


Results = dict[str, list[Figures]]


def run_scenario(scenario: Scenario, contenders: list[Contender], options: argparse.Namespace) -> Results:
    """All runs of a scenario, in turn; a contender that fails keeps its runs and is left out of later turns."""
    results: Results = {c.name: [] for c in contenders if c.fits(scenario.nodes)}
    failed: set[str] = set()
    for turn in range(options.runs):
        for contender in contenders:
            if contender.name not in results or contender.name in failed:
                continue
            print(f"{scenario.name} {turn + 1}/{options.runs} {contender.name}", file=sys.stderr, flush=True)
            try:
                result = measure(options.load, contender, scenario, options.seconds)
            except BenchError as error:
                print(f"{contender.name} is left out of the rest of {scenario.name}: {error}", file=sys.stderr)
                failed.add(contender.name)
                continue
            if wrong := result.get("wrong"):
                print(f"{contender.name} in {scenario.name}: {wrong}", file=sys.stderr)
            results[contender.name].append(result)
    return results


def kept_columns(runs: list[Figures]) -> Figures:
    """The runs of a contender as they are kept: columns, and the curve of the run whose p99 is the median."""
    found = columns([{name: value for name, value in run.items() if name != "curve"} for run in runs])
    if curves := [run for run in runs if run.get("curve")]:
        found["curve"] = sorted(curves, key=lambda run: float(run["p99_us"]))[len(curves) // 2]["curve"]
    return found


def print_scenario(scenario: Scenario, results: Results) -> None:
    """A line a contender for each figure, each with the first contender's ratio to it, where the first has runs."""
    print(f"\n{scenario.name}: load {scenario.load}, {scenario.nodes} node{'s'[: scenario.nodes > 1]}")
    by = {name: columns(runs) for name, runs in results.items()}
    first = next(iter(by), "")
    for figure_name in scenario.shown:
        print(f"  {TITLES[figure_name]}")
        for name, runs in by.items():
            line = f"    {name:<12} {spread(runs.get(figure_name, [])) or 'none'!s:<32}"
            ratio = spread(ratios(by[first], runs, figure_name))
            if name != first and figure_name != "busiest" and ratio:
                line += f" {first}/{name} {ratio}"
            print(line.rstrip())


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that name servers, and how long they are measured."""
    built_in = ",".join(c.name for c in BUILT_IN)
    add = parser.add_argument
    add("--only", default="", help=f"contenders, comma-separated, of {built_in} and those of --peer")
    add("--runs", type=int, default=3, help="turns (default 3)")
    add("--seconds", type=float, default=15.0, help="measured in each run (default 15)")
    add("--engine", help="the engine's command, instead of the one installed beside this Python")
    add("--peer", type=parse_peer, action="append", default=[], metavar="NAME=COMMAND",
        help="another server; {port}, and {nats} where it needs a nats-server")
    add("--peer-version", type=parse_peer_version, action="append", default=[], metavar="NAME=TEXT",
        help="what is told of it beside its results: versions, how it was built")
    add("--load", type=Path, default=LOAD, help="the load generator")


def everyone(options: argparse.Namespace) -> list[Contender]:
    """The engine first: ratios are to it. Then those of --peer: what is near in time has the same machine."""
    first, *others = BUILT_IN
    if options.engine:
        first = replace(first, command=options.engine, absent=lambda: "", local=True)
    return told([first, *options.peer, *others], options.peer_version)


def parsed(parser: argparse.ArgumentParser, arguments: list[str] | None, field: str, known: list[str]) -> Any:
    """The options, with the comma-separated names of `--<field>s` and the contenders checked."""
    options = parser.parse_args(arguments)
    try:
        setattr(options, f"{field}s", parse_names(getattr(options, f"{field}s"), known, field))
        options.contenders = chosen(everyone(options), options.only)
    except ValueError as error:
        parser.error(str(error))
    return options


def present(contenders: list[Contender]) -> list[Contender]:
    """Those that can run here; a line tells of each that can't."""
    found = []
    for contender in contenders:
        if why := contender.absent():
            print(f"{contender.name} is left out: {why}", file=sys.stderr)
        else:
            found.append(contender)
    return found


def ready(options: argparse.Namespace) -> list[Contender]:
    """The contenders that can run; BenchError where there is no load generator, or none of them."""
    if not options.load.exists():
        raise BenchError(f"{options.load} is not built: make -C {HERE.name} load")
    many_descriptors()
    if not (contenders := present(options.contenders)):
        raise BenchError("nobody is left to measure")
    return contenders


def main() -> int:
    """0, or 1 where nothing could be measured."""
    names = [s.name for s in SCENARIOS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenarios", default=",".join(names), help=f"comma-separated, of {','.join(names)}")
    parser.add_argument("--json", type=Path, help="write every run's figures here (default: a file in build/bench/)")
    add_options(parser)
    options = parsed(parser, None, "scenario", names)
    try:
        contenders = ready(options)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    head = {**description(), "contenders": {c.name: c.shown() for c in contenders}}
    file = options.json or BUILD / f"{head['date'][:19].replace(':', '')}.json"
    everything: dict[str, Any] = {}
    for scenario in (s for s in SCENARIOS if s.name in options.scenarios):
        results = run_scenario(scenario, contenders, options)
        print_scenario(scenario, results)
        everything[scenario.name] = {name: kept_columns(runs) for name, runs in results.items()}
        write(file, {**head, "scenarios": everything})
    return 0 if any(runs for by in everything.values() for runs in by.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
