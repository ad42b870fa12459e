"""Makes the results that docs/performance.md and its plots are made of: CPU and latency, memory, large rooms.

    make bench-performance
    make bench-performance ARGS="--peer 'uws=/path/to/server {port}' --peer-version 'uws=as it was built'"

Each part is a file in results/, written anew after each scenario. The runs are macro.py's; see README.md beside this
file.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import macro
from contenders import ENGINE, Contender, loops_for
from machine import description, first_field
from macro import SCENARIOS, Scenario
from results import RESULTS, Figures, write
from servers import BenchError

MACRO = ("relay", "random", "fanout", "fanout-10k", "rooms", "churn", "pair", "cross", "cross-pair")
TWO_LOOPS = {"fanout-10k": 10_000}  # scenarios that are run on two loops of the engine, too, and their connections
MEMORY_SIZES = (1_000, 10_000, 100_000)
ROOM_SIZES = (10, 100, 1_000, 10_000, 100_000)
BYTES_A_CONNECTION = 80_000  # of the greediest peer's and both ends' kernel memory
PARTS = ("macro", "memory", "rooms")
OPENING_S = 4e-4  # a connection's opening, closing and last message, to estimate how long all takes
AROUND_S = 2.0  # a run's start, warm-up and stop


@dataclass(frozen=True)
class Step:
    """A scenario, and the contenders that run it."""

    part: str
    scenario: Scenario
    contenders: tuple[Contender, ...]
    seconds: float
    connections: int = 0

    def lasts(self, runs: int) -> float:
        """About so many seconds."""
        fit = sum(c.fits(self.scenario.nodes) for c in self.contenders)
        return fit * runs * (min(self.seconds, self.scenario.longest) + AROUND_S + self.connections * OPENING_S)


def able(contenders: list[Contender], connections: int) -> tuple[Contender, ...]:
    """Those that can hold so many connections, with as many loops as it takes; a line names the others."""
    available = int(first_field("/proc/meminfo", "MemAvailable").split()[0]) * 1024
    held = {c.name: c.holding(connections) for c in contenders}
    for name in held:
        if name != ENGINE.name and connections * BYTES_A_CONNECTION > available:
            held[name] = None
    if missing := [name for name, contender in held.items() if contender is None]:
        print(f"too few descriptors or too little memory for {connections:,} connections: {', '.join(missing)}")
    return tuple(contender for contender in held.values() if contender is not None)


def setup(connections: int) -> str:
    """How long opening may take."""
    return f"--setup {60 + connections // 500}"


def on_two_loops(contenders: list[Contender]) -> list[Contender]:
    """The engine also with two loops, right after itself, where its command says how many loops it has."""
    everyone = []
    for contender in contenders:
        everyone.append(contender)
        more = replace(contender.with_loops(2), name=f"{ENGINE.name}-2")
        if contender.name == ENGINE.name and more.command != contender.command:
            everyone.append(more)
    return everyone


def macro_steps(contenders: list[Contender], seconds: float) -> Iterator[Step]:
    """CPU a delivery and latency."""
    for scenario in SCENARIOS:
        if n := TWO_LOOPS.get(scenario.name, 0):
            some = able(contenders, n)
            larger = replace(scenario, load=f"{scenario.load} {setup(n)}")
            yield Step("macro", larger, tuple(on_two_loops(list(some))), seconds, n)
        elif scenario.name in MACRO:
            yield Step("macro", scenario, tuple(contenders), seconds)


def memory_steps(contenders: list[Contender], _seconds: float) -> Iterator[Step]:
    """Bytes of an idle connection, by connections."""
    for n in MEMORY_SIZES:
        scenario = Scenario(f"idle-{n}", f"idle --connections {n} --verify {setup(n)}", ("bytes",), longest=3)
        yield Step("memory", scenario, able(contenders, n), 3, n)


def room_steps(contenders: list[Contender], seconds: float) -> Iterator[Step]:
    """One room, by members."""
    for n in ROOM_SIZES:
        scenario = Scenario(f"room-{n}", f"room --rooms 1 --members {n} {setup(n)}")
        yield Step("rooms", scenario, able(contenders, n), seconds / 3, n)


def run_step(step: Step, options: argparse.Namespace) -> Figures:
    """What was done, and the columns of each contender that has runs, for the file."""
    turn = argparse.Namespace(runs=options.runs, seconds=step.seconds, load=options.load)
    results = macro.run_scenario(step.scenario, list(step.contenders), turn)
    macro.print_scenario(step.scenario, results)
    seconds = min(step.seconds, step.scenario.longest)
    about = {"load": f"{step.scenario.load} --seconds {seconds:g}", "nodes": step.scenario.nodes}
    if ENGINE.name in results:
        about["loops"] = loops_for(step.connections)
    return {**about, "by": {name: macro.kept_columns(runs) for name, runs in results.items() if runs}}


def command_shown(options: argparse.Namespace, contenders: list[Contender]) -> str:
    """The command that makes these results, without this machine's paths."""
    peers = [c for c in contenders if c.local and c.name != ENGINE.name]
    words = [f"--peer '{c.name}=… {{port}}'" for c in peers]
    words += [f"--peer-version '{c.name}={c.version}'" for c in peers if c.version]
    words += [f"--parts {','.join(options.parts)}"] if len(options.parts) < len(PARTS) else []
    words += [f"--only {options.only}"] if options.only else []
    arguments = f' ARGS="{" ".join(words)}"' if words else ""
    return f"make bench-performance RUNS={options.runs} SECONDS={options.seconds:g}{arguments}"


def head(options: argparse.Namespace, contenders: list[Contender]) -> Figures:
    """What goes before the results in a file."""
    shown = {c.name: c.shown() for c in on_two_loops(contenders)}
    return {**description(), "command": command_shown(options, contenders), "contenders": shown}


def make(options: argparse.Namespace, contenders: list[Contender]) -> bool:
    """Take every step, and write each part's file after each of its steps; whether anything was measured."""
    makers = {"macro": macro_steps, "memory": memory_steps, "rooms": room_steps}
    steps = [step for part in options.parts for step in makers[part](contenders, options.seconds)]
    files: dict[str, Figures] = {}
    about = head(options, contenders)
    begin, left = time.monotonic(), sum(step.lasts(options.runs) for step in steps)
    for number, step in enumerate(steps):
        print(f"== step {number + 1} of {len(steps)}: {step.scenario.name}; about {left / 60:.0f} min left", flush=True)
        left -= step.lasts(options.runs)
        file = files.setdefault(step.part, {**about, "scenarios": {}})
        file["scenarios"][step.scenario.name] = run_step(step, options)
        write(options.results / f"{step.part}.json", file)
    print(f"== {(time.monotonic() - begin) / 60:.0f} min, {', '.join(files)} in {options.results.name}/")
    return any(scenario["by"] for file in files.values() for scenario in file["scenarios"].values())


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help=f"comma-separated, of {','.join(PARTS)}")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder (default: bench/results)")
    macro.add_options(parser)
    options: argparse.Namespace = macro.parsed(parser, arguments, "part", list(PARTS))
    return options


def main() -> int:
    """0, or 1 where nothing could be measured."""
    options = parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers and the load generator are ended
    try:
        return 0 if make(options, macro.ready(options)) else 1
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
