"""Very many WebSockets on one engine: bytes and CPU of an idle one, and what a message among them costs.

    make bench-scale N=1000000
    make bench-scale N=1000000 ARGS="--ping-interval 3600"

One engine process, whose loops and the load generator's threads each have a descriptor table, so that the limit of
descriptors does not bound the process. All connections are opened, left quiet but for pings, and then messages are
relayed between random ones and published into rooms spread over them. The same load with 1,000 connections over as many
loops, before and after, shows what the number of connections does to a message. That takes a run without pings, which
are extra work: with a --ping-interval of more than two runs.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from contenders import ENGINE, HERE, Contender, loops_for, no_engine
from load import LOAD, Run, incomplete, load
from load import trouble as trouble_of
from machine import description, first_field
from results import RESULTS, Figures, write
from servers import BenchError, free_port, many_descriptors, running
from signal_py.config.settings import Config

FEW = 1000  # connections of the load that is compared with
FEW_SECONDS = 60.0
BOUND = 1.3  # a delivery's CPU among many, divided by that among few, if no pings are answered meanwhile
BYTES_A_CONNECTION = 8_600  # of memory, user's and the kernel's, both ends: more than was ever measured
LOOPS_MAX = 250  # the engine's bound
ROOMS, MEMBERS, RATE, ROOM_RATE = 10, 100, 10_000, 10  # the load among all: messages and publishes a second

KB = dict[str, float]
ALONE = {
    "opened_per_s": "opened a second",
    "user_bytes": "user memory of a connection, bytes",
    "kernel_bytes": "kernel memory of a connection, bytes",
    "not_user_bytes": "the same, of all memory but the user's, bytes",
    "idle_user_ms": "idle: user CPU, ms a second",
    "idle_system_ms": "idle: system CPU, ms a second",
    "pings_per_s": "idle: pings answered a second",
    "loaded_pings_per_s": "under load: pings answered a second",
}
BESIDE = {  # figures that the load among few connections has, too
    "cpu_us": "CPU a delivery, µs",
    "cpu_us_less_pings": "CPU a delivery less pings, µs",
    "relay_p50_us": "latency 1:1, p50, µs",
    "relay_p99_us": "latency 1:1, p99, µs",
    "room_p50_us": "latency in rooms, p50, µs",
    "room_p99_us": "latency in rooms, p99, µs",
}


# -- the kernel's memory --


def kernel_kb(kb: KB) -> KB:
    """The kernel's memory, of /proc/meminfo: what it counts as such; all that is neither free, nor a file's, nor a
    process's."""
    files = kb["Buffers"] + kb["Cached"] + kb.get("SwapCached", 0.0)
    counted = kb["Slab"] + kb["KernelStack"] + kb["PageTables"]
    return {"counted": counted, "all_but_user": kb["MemTotal"] - kb["MemFree"] - files - kb["AnonPages"]}


# -- a run, and its figures --


def load_command(options: argparse.Namespace, connections: int, seconds: float) -> str:
    """The arguments of the load generator with so many connections, without the server's."""
    words = f"mix --connections {connections} --threads {options.loops} --rate {RATE} --rooms {ROOMS}"
    words += f" --members {MEMBERS} --room-rate {ROOM_RATE} --quiet {options.quiet:g} --seconds {seconds:g}"
    return f"{words} --setup {min(3600, 60 + connections // 500)}"


def engine(options: argparse.Namespace) -> Contender:
    """The engine with so many loops, and its default ping interval unless another is given."""
    plain = ENGINE.with_loops(options.loops)
    if options.ping_interval is None:
        return plain
    return replace(plain, command=f"{plain.command} --ping-interval {options.ping_interval:g}")


def measure(options: argparse.Namespace, connections: int, seconds: float) -> Figures:
    """The figures of one engine under the load."""
    print(f"{connections:,} connections on {options.loops} loops", file=sys.stderr, flush=True)
    port = free_port()
    command = engine(options).filled(port=port, nats="off", node="bench0")
    with running(command, port) as server:
        run = load(load_command(options, connections, seconds), [server.url], [server.pid])
    found = summary(run, *map(kernel_kb, run["meminfo"]))
    return {"wrong": "a connection is not open", **found} if incomplete(run) else found


def summary(run: Run, before: KB, opened: KB) -> Figures:
    """The figures of a run. The kernel's bytes are halved, because both ends are on this machine.

    `cpu_us_less_pings` takes off the CPU of the pings under load, each as much as one in the quiet time. That is too
    much: loops that are awake for messages need not be woken for pings. Without pings in the quiet time it takes off
    the quiet time's CPU.
    """
    quiet, servers, seconds = run["quiet"], run["all_servers"], run["seconds"]
    took, idle = quiet["to"] - quiet["from"], quiet["user_s"] + quiet["system_s"]
    used = servers["user_s"] + servers["system_s"]
    pings = idle / quiet["pings"] * run["pings_measured"] if quiet["pings"] else idle / took * seconds
    kernel = {name: (opened[name] - before[name]) * 1024 / run["connections"] / 2 for name in before}
    each = 1e6 / run["delivered"] if run["delivered"] else float("nan")
    found = {
        "seconds": seconds,
        "delivered": run["delivered"],
        "lost": run["lost"],
        "gap": run["gap"],
        "opened_per_s": run["opened"]["per_second"],
        "user_bytes": servers["bytes_per_connection"],
        "base_bytes": servers["pss_before_kb"] * 1024,
        "kernel_bytes": kernel["counted"],
        "not_user_bytes": kernel["all_but_user"],
        "idle_user_ms": quiet["user_s"] / took * 1e3,
        "idle_system_ms": quiet["system_s"] / took * 1e3,
        "pings_per_s": quiet["pings"] / took,
        "ping_us": idle * 1e6 / quiet["pings"] if quiet["pings"] else None,
        "cores": used / seconds,
        "loaded_pings_per_s": run["pings_measured"] / seconds,
        "cpu_us": used * each,
        "cpu_us_less_pings": (used - pings) * each,
        **{f"relay_{name}_us": run["latency_us"][name] for name in ("p50", "p99", "p999")},
        **{f"room_{name}_us": run["room_latency_us"][name] for name in ("p50", "p99")},
    }
    rounded = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in found.items()}
    return rounded | ({"wrong": wrong} if (wrong := trouble_of(run)) else {})


def few(scale: Figures) -> Figures:
    """The means of both runs with few connections."""
    first, last = scale["few"]
    return {name: statistics.mean((first[name], last[name])) for name in BESIDE}


def without_pings(scale: Figures) -> bool:
    """Whether no ping was answered while messages were measured: then the CPU is that of deliveries alone."""
    return not any(run["loaded_pings_per_s"] for run in (scale["many"], *scale["few"]))


def pings_said(scale: Figures) -> str:
    """How often the engine pinged, for a heading."""
    if without_pings(scale) and not scale["many"]["pings_per_s"]:
        return "without pings"
    return f"pings every {scale['ping_interval']:g} s"


def shown(scale: Figures) -> str:
    """The figures for people."""
    lines = [f"{scale['connections']:,} connections on {scale['loops']} loops, {pings_said(scale)}"]
    lines.append(f"{'':48} {'among all':>12} {f'among {FEW:,}':>12} {'ratio':>12}")
    among_few = few(scale)
    for name, title in {**ALONE, **BESIDE}.items():
        many, beside = scale["many"][name], among_few.get(name)
        cells = ["unknown" if many is None else f"{many:,.1f}"]
        cells += [f"{beside:,.1f}", f"{many / beside:.2f}"] if beside else []
        lines.append(f"{title:48}" + "".join(f" {cell:>12}" for cell in cells))
    if not without_pings(scale):
        lines.append("CPU has no bar: with pings neither figure is a delivery's alone. Use --ping-interval.")
    return "\n".join(lines)


def trouble(scale: Figures) -> list[str]:
    """What went wrong, and a delivery's CPU over its bound, which holds without pings only."""
    runs = (("all", scale["many"]), *((f"{FEW:,}", run) for run in scale["few"]))
    told = [f"among {name}: not everything was delivered: {run['wrong']}" for name, run in runs if run.get("wrong")]
    by = scale["many"]["cpu_us"] / few(scale)["cpu_us"]
    if without_pings(scale) and not by <= BOUND:
        told.append(f"a delivery among all costs {by:.2f} of one among {FEW:,}: more than {BOUND}")
    return told


# -- the command --


def short_of_memory(connections: int, available_kb: float) -> str:
    """Why the memory is too small for so many connections, or nothing."""
    needed, have = connections * BYTES_A_CONNECTION / 1e9, available_kb * 1024 / 1e9
    if needed <= have:
        return ""
    return f"{connections:,} connections need about {needed:.1f} GB for both ends, and {have:.1f} GB are available"


def cannot(options: argparse.Namespace) -> str:
    """Why it can't run here, or nothing."""
    if not LOAD.exists():
        return f"{LOAD} is not built: make -C {HERE.name} load"
    if told := no_engine():
        return f"the engine is {told}"
    if options.loops > LOOPS_MAX:
        return f"{options.connections:,} connections need {options.loops} loops, and an engine has at most {LOOPS_MAX}"
    return short_of_memory(options.connections, float(first_field("/proc/meminfo", "MemAvailable").split()[0]))


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--connections", type=int, default=1_000_000, help="(default 1000000)")
    add("--seconds", type=float, default=600.0, help="under load (default 600)")
    add("--quiet", type=float, default=60.0, help="of pings only, before it (default 60)")
    add("--ping-interval", type=float, metavar="S", help="the engine's (default: its default)")
    add("--results", type=Path, default=RESULTS, help="folder of the file (default: bench/results)")
    options = parser.parse_args(arguments)
    if options.connections < FEW:
        parser.error(f"--connections: at least {FEW}")
    options.loops = max(2, loops_for(options.connections))
    suffix = "" if options.ping_interval is None else f"-ping-{options.ping_interval:g}"
    options.file = options.results / f"scale-{options.connections}{suffix}.json"
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Few, many, few again."""
    few_seconds = min(FEW_SECONDS, options.seconds)
    before = measure(options, FEW, few_seconds)
    many = measure(options, options.connections, options.seconds)
    after = measure(options, FEW, few_seconds)
    return {
        "connections": options.connections,
        "loops": options.loops,
        "rooms": ROOMS,
        "members": MEMBERS,
        "room_rate": ROOM_RATE,
        "engine": engine(options).shown(),
        "ping_interval": Config().ping_interval if options.ping_interval is None else options.ping_interval,
        "load": load_command(options, options.connections, options.seconds),
        "many": many,
        "few": [before, after],
    }


def main() -> int:
    """0; 1 if it can't run, or something went wrong."""
    options = parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the engine and the load generator are ended
    many_descriptors()
    if told := cannot(options):
        sys.exit(f"scale.py: {told}")
    head = description()
    try:
        scale = run(options)
    except BenchError as error:
        sys.exit(f"scale.py: {error}")
    command = f"make bench-scale N={options.connections} SECONDS={options.seconds:g} QUIET={options.quiet:g}"
    if options.ping_interval is not None:
        command += f' ARGS="--ping-interval {options.ping_interval:g}"'
    write(options.file, {**head, "command": command, "scale": scale})
    print(shown(scale))
    faults = trouble(scale)
    print(*faults, sep="\n", end="\n" if faults else "", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
