"""Whole servers under load, in turn: CPU a delivery, latency, bytes a connection, as medians and ratios.

For each scenario every contender is started afresh, loaded by bin/load and stopped, `--runs` times in turn,
so that what the machine does besides falls on all of them alike. A ratio is that of two contenders in the
same turn; its spread is the smallest and the largest of the turns. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
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
from results import BUILD, figure, figures, trouble, turns, write
from servers import BenchError, free_port, many_descriptors, running


@dataclass(frozen=True)
class Metric:
    """One figure of a result: its label, and the keys that lead to it in the load generator's JSON."""

    label: str
    path: tuple[str, ...]


USER = Metric("user µs/delivery", ("all_servers", "user_us_per_delivery"))
CPU = Metric("user+system µs/delivery", ("all_servers", "cpu_us_per_delivery"))
MEDIAN = Metric("p50 µs", ("latency_us", "p50"))
TAIL = Metric("p99 µs", ("latency_us", "p99"))
SPEED = Metric("deliveries/s", ("per_second",))
MEMORY = Metric("bytes/connection", ("all_servers", "bytes_per_connection"))
LOAD = Metric("load generator's busiest thread", ("load_cpu", "busiest_thread"))


@dataclass(frozen=True)
class Scenario:
    """What the load generator does, on how many nodes, for how long at most, and what is worth a line."""

    name: str
    load: str
    metrics: tuple[Metric, ...]
    nodes: int = 1
    longest: float = 3600.0


SCENARIOS = (
    Scenario("relay", "relay --connections 500 --payload 128", (USER, CPU, SPEED, LOAD)),
    Scenario("random", "random --connections 500 --payload 128", (USER, CPU, SPEED, LOAD)),
    Scenario("echo", "self --connections 500 --payload 128", (USER, CPU, SPEED, LOAD)),
    Scenario("pair", "pair", (MEDIAN, TAIL), longest=5),
    Scenario("pair-spin", "pair --spin", (MEDIAN, TAIL), longest=5),
    Scenario("idle", "idle --connections 10000 --verify", (MEMORY,), longest=3),
    Scenario("fanout", "room --rooms 1 --members 1000", (USER, CPU, SPEED, LOAD)),
    Scenario("fanout-10k", "room --rooms 1 --members 10000", (USER, CPU, SPEED, LOAD)),
    Scenario("rooms", "room --rooms 100 --members 10", (USER, CPU, SPEED, LOAD)),
    Scenario("churn", "churn --connections 50", (USER, CPU, SPEED, LOAD)),
    Scenario("cross", "relay --connections 500 --payload 128", (USER, CPU, SPEED, LOAD), nodes=2),
    Scenario("cross-pair", "pair", (MEDIAN, TAIL), nodes=2, longest=5),
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


def measure(load: Path, contender: Contender, scenario: Scenario, seconds: float) -> dict[str, Any]:
    """One run: the load generator's JSON."""
    with ExitStack() as stack:
        urls, pids = start(contender, scenario.nodes, stack)
        command = [str(load), *scenario.load.split(), *contender.load_options]
        command += ["--seconds", str(min(seconds, scenario.longest))]
        for pid in pids:
            command += ["--pid", str(pid)]
        done = subprocess.run([*command, *urls], stdout=subprocess.PIPE, check=False)
        if done.returncode != 0:
            raise BenchError(f"{contender.name}: {shlex.join(command)} ended with {done.returncode}")
        result: dict[str, Any] = json.loads(done.stdout)
    return result


Results = dict[str, list[dict[str, Any]]]


def run_scenario(scenario: Scenario, contenders: list[Contender], options: argparse.Namespace) -> Results:
    """All runs of a scenario, in turn; a contender that fails is told of and left out of the turns that follow.

    The runs that it has are of the first turns, so that runs at the same place are of the same turn.
    """
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
            if wrong := trouble(result):
                print(f"{contender.name} in {scenario.name}: {wrong}", file=sys.stderr)
            results[contender.name].append(result)
    return results


def spread(values: list[float]) -> str:
    """A median with the smallest and the largest."""
    digits = 3 if max(values) < 10 else 1 if max(values) < 1000 else 0
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def value_of(metric: Metric, run: dict[str, Any]) -> float | None:
    """The metric in a run."""
    return figure(run, *metric.path)


def values_of(runs: list[dict[str, Any]], metric: Metric) -> list[float]:
    """The metric in each run that has it."""
    return figures(runs, *metric.path)


def print_scenario(scenario: Scenario, results: Results) -> None:
    """A line a contender for each metric, each with the first contender's ratio to it, where the first has runs."""
    print(f"\n{scenario.name}: load {scenario.load}, {scenario.nodes} node{'s'[: scenario.nodes > 1]}")
    first = next(iter(results), "")
    for metric in scenario.metrics:
        print(f"  {metric.label}")
        for name, runs in results.items():
            if not (values := values_of(runs, metric)):
                print(f"    {name:<12} none")
                continue
            line = f"    {name:<12} {spread(values):<32}"
            by = turns(results[first], runs, partial(value_of, metric))
            if name != first and metric is not LOAD and by:
                line += f" {first}/{name} {spread(by)}"
            print(line.rstrip())


def parse_options() -> argparse.Namespace:
    """The command line."""
    names = ",".join(s.name for s in SCENARIOS)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenarios", default=names, help=f"comma-separated, of {names}")
    built_in = ",".join(c.name for c in BUILT_IN)
    parser.add_argument("--only", default="", help=f"contenders, comma-separated, of {built_in} and those of --peer")
    parser.add_argument("--runs", type=int, default=3, help="turns (default 3)")
    parser.add_argument("--seconds", type=float, default=15.0, help="measured in each run (default 15)")
    add_servers(parser)
    parser.add_argument("--load", type=Path, default=HERE / "bin" / "load", help="the load generator")
    parser.add_argument("--json", type=Path, help="write every run's figures here (default: a file in build/bench/)")
    options = parser.parse_args()
    try:
        options.scenarios = parse_names(options.scenarios, names.split(","), "scenario")
        options.contenders = chosen(everyone(options), options.only)
    except ValueError as error:
        parser.error(str(error))
    return options


def add_servers(parser: argparse.ArgumentParser) -> None:
    """Give the parser the options that name servers."""
    parser.add_argument("--engine", help="the engine's command, instead of the one installed beside this Python")
    parser.add_argument(
        "--peer",
        type=parse_peer,
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="another server; {port}, and {nats} where it needs a nats-server",
    )
    parser.add_argument(
        "--peer-version",
        type=parse_peer_version,
        action="append",
        default=[],
        metavar="NAME=TEXT",
        help="what is told of it beside its results: versions, how it was built",
    )


def everyone(options: argparse.Namespace) -> list[Contender]:
    """The engine first: ratios are to it. Then who was named: what is near in time has the same machine."""
    first, *others = BUILT_IN
    if options.engine:
        first = replace(first, command=options.engine, absent=lambda: "", local=True)
    return told([first, *options.peer, *others], options.peer_version)


def present(contenders: list[Contender]) -> list[Contender]:
    """Those that can run here; a line tells of each that can't."""
    found = []
    for contender in contenders:
        if why := contender.absent():
            print(f"{contender.name} is left out: {why}", file=sys.stderr)
        else:
            found.append(contender)
    return found


def main() -> int:
    """0, or 1 where nothing could be measured."""
    options = parse_options()
    if not options.load.exists():
        print(f"{options.load} is not built: make -C {HERE.name} load", file=sys.stderr)
        return 1
    many_descriptors()
    if not (contenders := present(options.contenders)):
        print("nobody is left to measure", file=sys.stderr)
        return 1
    head = {**description(), "contenders": {c.name: c.shown() for c in contenders}}
    file = options.json or BUILD / f"{head['date'][:19].replace(':', '')}.json"
    everything: dict[str, Results] = {}
    for scenario in (s for s in SCENARIOS if s.name in options.scenarios):
        everything[scenario.name] = run_scenario(scenario, contenders, options)
        print_scenario(scenario, everything[scenario.name])
        write(file, {**head, "scenarios": everything})
    return 0 if any(runs for results in everything.values() for runs in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
