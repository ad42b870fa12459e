"""Whole servers under load, in turn: CPU a delivery, latency, bytes a connection, as medians and ratios.

    python bench/macro.py                                 # every scenario, every peer that can run here
    python bench/macro.py --scenarios relay,idle --only engine,picows
    make bench-performance                                # keeps what docs/performance.md is made of
    make bench-performance ARGS="--peer 'uws=/path/to/server {port}' --peer-version 'uws=how it was built'"

For each scenario every contender is started afresh, loaded by bin/load and stopped, `--runs` times in turn, so that
noise of the machine affects all alike. A ratio is that of two contenders in the same turn. See README.md beside this
file.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from contenders import (
    BUILT_IN,
    ENGINE,
    HERE,
    Contender,
    chosen,
    loops_for,
    parse_names,
    parse_peer,
    parse_peer_version,
    told,
)
from load import LOAD, Run, incomplete, load, trouble
from machine import description, first_field
from results import BUILD, RESULTS, Figures, columns, ratios, spread, write
from servers import BenchError, Server, free_port, many_descriptors, nats, running

# Figures of a run, by the keys that lead to them in what load.py returns.
PATHS = {
    "user_us": ("all_servers", "user_us_per_delivery"),
    "cpu_us": ("all_servers", "cpu_us_per_delivery"),  # user and system
    "user_s": ("all_servers", "user_s"),
    "bytes": ("all_servers", "bytes_per_connection"),
    "per_second": ("per_second",),  # deliveries
    "delivered": ("delivered",),
    "busiest": ("busiest_thread",),  # the load generator's share of a core
    "p50_us": ("latency_us", "p50"),
    "p99_us": ("latency_us", "p99"),
    "p999_us": ("latency_us", "p999"),
}
CPU = ("user_us", "cpu_us", "per_second", "busiest")
LATENCY = ("p50_us", "p99_us")
CURVE_LEAST = 5  # messages above a point of a curve: fewer are chance

MEMORY_SIZES = (1_000, 10_000, 100_000)
ROOM_SIZES = (10, 100, 1_000, 10_000, 100_000)
BYTES_A_CONNECTION = 80_000  # of the greediest peer's and both ends' kernel memory
PARTS = ("macro", "memory", "rooms")  # the files of docs/performance.md


@dataclass(frozen=True)
class Scenario:
    """What the load generator does, on how many nodes, for how long at most, and which figures are printed."""

    name: str
    load: str
    shown: tuple[str, ...] = CPU
    nodes: int = 1
    longest: float = 3600.0
    part: str = ""  # the file in results/ that has it
    connections: int = 0  # if there are so many that not every server can hold them
    two_loops: bool = False  # kept with two loops of the engine, too


def large(name: str, load: str, n: int, **more: Any) -> Scenario:
    """One of many connections, with time to open them."""
    return Scenario(name, f"{load} --setup {60 + n // 500}", connections=n, **more)


SCENARIOS = (
    Scenario("relay", "relay --connections 500 --payload 128", part="macro"),
    Scenario("random", "random --connections 500 --payload 128", part="macro"),
    Scenario("echo", "echo --connections 500 --payload 128"),
    Scenario("pair", "pair", LATENCY, longest=5, part="macro"),
    Scenario("pair-spin", "pair --spin", LATENCY, longest=5),
    Scenario("idle", "idle --connections 10000 --verify", ("bytes",), longest=3),
    Scenario("fanout", "room --rooms 1 --members 1000", part="macro"),
    large("fanout-10k", "room --rooms 1 --members 10000", 10_000, part="macro", two_loops=True),
    Scenario("rooms", "room --rooms 100 --members 10", part="macro"),
    Scenario("churn", "churn --connections 50", part="macro"),
    Scenario("cross", "relay --connections 500 --payload 128", nodes=2, part="macro"),
    Scenario("cross-pair", "pair", LATENCY, nodes=2, longest=5, part="macro"),
)
SIZES = (
    *(large(f"idle-{n}", f"idle --connections {n} --verify", n, shown=("bytes",), longest=3, part="memory")
      for n in MEMORY_SIZES),
    *(large(f"room-{n}", f"room --rooms 1 --members {n}", n, part="rooms") for n in ROOM_SIZES),
)


@dataclass(frozen=True)
class Step:
    """A scenario, and the contenders that run it."""

    scenario: Scenario
    contenders: tuple[Contender, ...]
    seconds: float


def able(contenders: list[Contender], connections: int) -> list[Contender]:
    """Those that can hold so many connections, with as many loops as it takes; prints the others."""
    available = int(first_field("/proc/meminfo", "MemAvailable").split()[0]) * 1024
    held = {c.name: c.holding(connections) for c in contenders}
    if connections * BYTES_A_CONNECTION > available:
        held = {name: contender if name == ENGINE.name else None for name, contender in held.items()}
    if missing := [name for name, contender in held.items() if contender is None]:
        print(f"too few descriptors or too little memory for {connections:,} connections: {', '.join(missing)}")
    return [contender for contender in held.values() if contender is not None]


def on_two_loops(contenders: list[Contender]) -> list[Contender]:
    """The engine also with two loops, right after itself, if its command says how many loops it has."""
    everyone = []
    for contender in contenders:
        everyone.append(contender)
        more = replace(contender.with_loops(2), name=f"{ENGINE.name}-2")
        if contender.name == ENGINE.name and more.command != contender.command:
            everyone.append(more)
    return everyone


def steps_of(options: argparse.Namespace, contenders: list[Contender]) -> Iterator[Step]:
    """The scenarios of the parts that are kept, or those that are named."""
    for scenario in (*SCENARIOS, *SIZES):
        if scenario.part not in options.parts if options.parts else scenario.name not in options.scenarios:
            continue
        some = able(contenders, scenario.connections) if scenario.connections else contenders
        if options.parts and scenario.two_loops:
            some = on_two_loops(some)
        seconds = options.seconds / 3 if scenario.part == "rooms" else options.seconds
        yield Step(scenario, tuple(some), min(seconds, scenario.longest))


def start(contender: Contender, nodes: int, stack: ExitStack) -> tuple[list[Server], list[int]]:
    """Starts a contender, and a nats-server if it needs one; returns the nodes, and the process ids of all."""
    bus = [stack.enter_context(nats())] if nodes > 1 or contender.needs_nats else []
    url, servers = f"nats://127.0.0.1:{bus[0].port}" if bus else "off", []
    for number in range(nodes):
        port = free_port()
        command = contender.filled(port=port, nats=url, node=f"bench{number}")
        servers.append(stack.enter_context(running(command, port)))
    return servers, [server.pid for server in (*bus, *servers)]


def measure(contender: Contender, scenario: Scenario, seconds: float) -> Figures:
    """The figures of one run."""
    with ExitStack() as stack:
        servers, pids = start(contender, scenario.nodes, stack)
        words = f"{scenario.load} {contender.load_options} --seconds {seconds}"
        run = load(words, [server.url for server in servers], pids)
        if incomplete(run):
            raise BenchError(f"load {words}: a connection received nothing at the end")
        return summary(run)


def figure(run: Run, *path: str) -> float | None:
    """The figure of a run that these keys lead to, or None."""
    value: Any = run
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if value is not None else None


def summary(run: Run) -> Figures:
    """The figures of a run; `wrong` if something went wrong."""
    found: Figures = {name: value for name, path in PATHS.items() if (value := figure(run, *path)) is not None}
    if run.get("mode") == "room" and (last := to_last_member(run)) is not None:
        found["room_ms"] = last
    if run.get("mode") == "pair":
        found["curve"] = curve(run)
    return found | ({"wrong": wrong} if (wrong := trouble(run)) else {})


def to_last_member(run: Run) -> float | None:
    """Milliseconds from a publish until the last member of its room received it: the mean of a run's publishes.

    The next publish goes when all members have received, so it is the measured time divided by the publishes.
    """
    publishes = run["delivered"] / (run["members"] - 1)
    return round(run["seconds"] * 1e3 / publishes, 6) if publishes >= 1 else None


def curve(run: Run) -> list[list[float]]:
    """The latency curve of a run as [share of messages above, µs]."""
    latency = run["latency_us"]
    points = [[round(1 - percent / 100, 10), us] for percent, us in latency.get("curve", [])]
    return [point for point in points if point[0] * latency["count"] >= CURVE_LEAST]


Results = dict[str, list[Figures]]


def run_step(step: Step, runs: int) -> Results:
    """All runs of a scenario, in turn; a contender that fails keeps its runs and is left out of later turns."""
    scenario = step.scenario
    results: Results = {c.name: [] for c in step.contenders if c.fits(scenario.nodes)}
    left = [c for c in step.contenders if c.name in results]
    for turn in range(runs):
        for contender in list(left):
            print(f"{scenario.name} {turn + 1}/{runs} {contender.name}", file=sys.stderr, flush=True)
            try:
                result = measure(contender, scenario, step.seconds)
            except BenchError as error:
                print(f"{contender.name} is left out of the rest of {scenario.name}: {error}", file=sys.stderr)
                left.remove(contender)
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
    """A line a contender for each figure, with the first contender's ratio to it, if the first has runs."""
    print(f"\n{scenario.name}: load {scenario.load}, {scenario.nodes} node{'s'[: scenario.nodes > 1]}")
    by = {name: columns(runs) for name, runs in results.items()}
    first = next(iter(by), "")
    for figure_name in scenario.shown:
        print(f"  {figure_name}")
        for name, runs in by.items():
            line = f"    {name:<12} {spread(runs.get(figure_name, [])) or 'none'!s:<32}"
            ratio = spread(ratios(by[first], runs, figure_name))
            if name != first and figure_name != "busiest" and ratio:
                line += f" {first}/{name} {ratio}"
            print(line.rstrip())


def everyone(options: argparse.Namespace) -> list[Contender]:
    """The engine first, because ratios are to it; then those of --peer, so that they run close to it."""
    return told([ENGINE, *options.peer, *BUILT_IN[1:]], options.peer_version)


def present(contenders: list[Contender]) -> list[Contender]:
    """Those that can run here; prints why others can't."""
    found = []
    for contender in contenders:
        if why := contender.absent():
            print(f"{contender.name} is left out: {why}", file=sys.stderr)
        else:
            found.append(contender)
    return found


def command_shown(options: argparse.Namespace, contenders: list[Contender]) -> str:
    """The command that makes these results, without paths of this machine."""
    peers = [c for c in contenders if c.local]
    words = [f"--peer '{c.name}=… {{port}}'" for c in peers]
    words += [f"--peer-version '{c.name}={c.version}'" for c in peers if c.version]
    words += [f"--parts {','.join(options.parts)}"] if len(options.parts) < len(PARTS) else []
    words += [f"--only {options.only}"] if options.only else []
    arguments = f' ARGS="{" ".join(words)}"' if words else ""
    return f"make bench-performance RUNS={options.runs} SECONDS={options.seconds:g}{arguments}"


def head(options: argparse.Namespace, contenders: list[Contender]) -> Figures:
    """What precedes the results in a file."""
    command = {"command": command_shown(options, contenders)} if options.parts else {}
    return {**description(), **command, "contenders": {c.name: c.shown() for c in on_two_loops(contenders)}}


def make(options: argparse.Namespace, contenders: list[Contender]) -> bool:
    """Takes every step, and writes its file after each; returns whether anything was measured."""
    about, steps = head(options, contenders), list(steps_of(options, contenders))
    files: dict[Path, Figures] = {}
    for number, step in enumerate(steps):
        scenario = step.scenario
        print(f"== step {number + 1} of {len(steps)}: {scenario.name}", flush=True)
        results = run_step(step, options.runs)
        print_scenario(scenario, results)
        file = BUILD / f"{about['date'][:19].replace(':', '')}.json"
        if options.parts:
            file = options.results / f"{scenario.part}.json"
        kept = {"load": f"{scenario.load} --seconds {step.seconds:g}", "nodes": scenario.nodes}
        kept |= {"loops": loops_for(scenario.connections)} if ENGINE.name in results else {}
        by = {name: kept_columns(runs) for name, runs in results.items() if runs}
        files.setdefault(file, {**about, "scenarios": {}})["scenarios"][scenario.name] = {**kept, "by": by}
        write(file, files[file])
    return any(scenario["by"] for file in files.values() for scenario in file["scenarios"].values())


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    names, built_in = [s.name for s in (*SCENARIOS, *SIZES)], ",".join(c.name for c in BUILT_IN)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--scenarios", default=",".join(s.name for s in SCENARIOS), help=f"comma-separated, of {','.join(names)}")
    add("--parts", default="", help=f"keep these parts of the page instead: of {','.join(PARTS)}")
    add("--only", default="", help=f"contenders, comma-separated, of {built_in} and those of --peer")
    add("--runs", type=int, default=3, help="turns (default 3)")
    add("--seconds", type=float, default=15.0, help="measured in each run (default 15); a third in rooms of a part")
    add("--peer", type=parse_peer, action="append", default=[], metavar="NAME=COMMAND",
        help="another server; {port}, and {nats} if it needs a nats-server")
    add("--peer-version", type=parse_peer_version, action="append", default=[], metavar="NAME=TEXT",
        help="shown beside its results: versions, how it was built")
    add("--results", type=Path, default=RESULTS, help="folder of the parts (default: bench/results)")
    options = parser.parse_args(arguments)
    try:
        options.scenarios = parse_names(options.scenarios, names, "scenario")
        options.parts = parse_names(options.parts, PARTS, "part") if options.parts else []
        options.contenders = chosen(everyone(options), options.only)
    except ValueError as error:
        parser.error(str(error))
    return options


def main() -> int:
    """0, or 1 if nothing could be measured."""
    options = parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers and the load generator are ended
    if not LOAD.exists():
        print(f"{LOAD} is not built: make -C {HERE.name} load", file=sys.stderr)
        return 1
    many_descriptors()
    if not (contenders := present(options.contenders)):
        print("no contender is left to measure", file=sys.stderr)
        return 1
    return 0 if make(options, contenders) else 1


if __name__ == "__main__":
    sys.exit(main())
