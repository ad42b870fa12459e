"""Very many WebSockets on one engine: bytes and CPU of an idle one, and what a message among them costs.

    make bench-scale N=1000000
    make bench-scale N=1000000 ARGS="--ping-interval 3600"

One engine process, whose loops and the load generator's threads each have a descriptor table of their own, so that
the limit of descriptors does not bound the process. All connections are opened, left quiet but for pings, and then
messages are relayed between random ones and published into rooms spread over them. The same load with 1,000
connections over as many loops, before and after, tells what the number of connections does to a message: without
pings, which are work of their own. So a run for that has a --ping-interval of more than two runs.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import macro
from contenders import ENGINE, HERE, Contender, loops_for, no_engine
from machine import description
from results import RESULTS, Figures, write
from servers import LOAD, BenchError, free_port, many_descriptors, running, stop
from signal_py.config.settings import Config

FEW = 1000  # connections of the load that is compared with
FEW_SECONDS = 60.0
BOUND = 1.3  # a delivery's CPU among many, by that among few, where no pings are answered meanwhile
BYTES_A_CONNECTION = 8_600  # of memory, user's and the kernel's, both ends: more than was ever measured
LOOPS_MAX = 250  # the engine's bound
SAMPLE_S = 0.5

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


def fields_kb(meminfo: str) -> KB:
    """/proc/meminfo as kB by name."""
    lines = (line.split() for line in meminfo.splitlines())
    return {words[0].rstrip(":"): float(words[1]) for words in lines if len(words) > 1}


def kernel_kb(meminfo: str) -> KB:
    """The kernel's memory: what it counts as its own, and all that is neither free, a file's, nor a process's."""
    kb = fields_kb(meminfo)
    files = kb["Buffers"] + kb["Cached"] + kb.get("SwapCached", 0.0)
    counted = kb["Slab"] + kb["KernelStack"] + kb["PageTables"]
    return {"counted": counted, "all_but_user": kb["MemTotal"] - kb["MemFree"] - files - kb["AnonPages"]}


def meminfo() -> str:
    """/proc/meminfo of now."""
    return Path("/proc/meminfo").read_text(encoding="ascii")


# -- a run, and its figures --


def load_command(options: argparse.Namespace, connections: int, seconds: float) -> list[str]:
    """What the load generator is to do with so many connections, but for the server."""
    command = ["mix", "--connections", str(connections), "--threads", str(options.loops), "--rate", f"{options.rate:g}"]
    command += ["--rooms", str(options.rooms), "--members", str(options.members)]
    command += ["--room-rate", f"{options.room_rate:g}", "--quiet", f"{options.quiet:g}", "--seconds", f"{seconds:g}"]
    return [*command, "--setup", str(min(3600, 60 + connections // 500))]


def engine(options: argparse.Namespace) -> Contender:
    """The engine as it is started: with so many loops, and its own pings unless others are asked for."""
    plain = ENGINE.with_loops(options.loops)
    if options.ping_interval is None:
        return plain
    return replace(plain, command=f"{plain.command} --ping-interval {options.ping_interval:g}")


def measure(options: argparse.Namespace, connections: int, seconds: float) -> Figures:
    """The figures of one engine under the load."""
    port = free_port()
    command = engine(options).filled(port=port, nats="off", node="bench0")
    load = [str(options.load), *load_command(options, connections, seconds)]
    samples = {time.monotonic(): kernel_kb(meminfo())}  # by time, on the load generator's clock
    with running(command, port) as pid, TemporaryFile() as out:
        loading = subprocess.Popen([*load, "--pid", str(pid), f"ws://127.0.0.1:{port}/"], stdout=out)
        try:
            while loading.poll() is None:
                time.sleep(SAMPLE_S)
                samples[time.monotonic()] = kernel_kb(meminfo())
        finally:
            stop(loading)
        out.seek(0)
        if not (said := out.read()):
            raise BenchError(f"{shlex.join(load)} ended with {loading.returncode}")
    run = json.loads(said)
    opened = samples[min(samples, key=lambda when: abs(when - run["quiet"]["to"]))]
    found = summary(run, samples[min(samples)], opened)
    return found if loading.returncode == 0 else {"wrong": "a connection is not open", **found}


def summary(run: Figures, before: KB, opened: KB) -> Figures:
    """The figures of a run. The kernel's bytes are halved: both ends are on this machine.

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
        "base_bytes": sum(server["pss_before_kb"] for server in run["servers"]) * 1024,
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
    return rounded | ({"wrong": wrong} if (wrong := macro.trouble(run)) else {})


def few(scale: Figures) -> Figures:
    """The means of both runs with few connections."""
    first, last = scale["few"]
    return {name: statistics.mean((first[name], last[name])) for name in BESIDE}


def without_pings(scale: Figures) -> bool:
    """Whether no ping was answered while messages were measured: then a delivery's CPU is that of deliveries alone."""
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
        lines.append("CPU is not judged: with pings neither figure is a delivery's alone. Use --ping-interval.")
    return "\n".join(lines)


def trouble(scale: Figures) -> list[str]:
    """What did not hold. CPU is judged without pings only: else neither figure is what a delivery alone costs."""
    runs = (("all", scale["many"]), *((f"{FEW:,}", run) for run in scale["few"]))
    told = [f"among {name}: not everything was delivered: {run['wrong']}" for name, run in runs if run.get("wrong")]
    by = scale["many"]["cpu_us"] / few(scale)["cpu_us"]
    if without_pings(scale) and not by <= BOUND:
        told.append(f"a delivery among all costs {by:.2f} of one among {FEW:,}: more than {BOUND}")
    return told


# -- the command --


def short_of_memory(connections: int, available_kb: float) -> str:
    """Why so many connections are not tried, or nothing."""
    needed, have = connections * BYTES_A_CONNECTION / 1e9, available_kb * 1024 / 1e9
    if needed <= have:
        return ""
    return f"{connections:,} connections need about {needed:.1f} GB for both ends, and {have:.1f} GB are available"


def cannot(options: argparse.Namespace) -> str:
    """Why it can't run here, or nothing."""
    if not options.load.exists():
        return f"{options.load} is not built: make -C {HERE.name} load"
    if told := no_engine():
        return f"the engine is {told}"
    if options.loops > LOOPS_MAX:
        return f"{options.connections:,} connections need {options.loops} loops, and an engine has at most {LOOPS_MAX}"
    if options.rooms * options.members > FEW:
        return f"--rooms x --members must be at most {FEW}: the same rooms are made among {FEW} connections"
    return short_of_memory(options.connections, fields_kb(meminfo())["MemAvailable"])


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--connections", type=int, default=1_000_000, help="how many (default 1000000)")
    add("--seconds", type=float, default=600.0, help="under load (default 600)")
    add("--quiet", type=float, default=60.0, help="of pings only, before it (default 60)")
    add("--loops", type=int, default=0, help="of the engine (default: as descriptors demand, or 2)")
    add("--rate", type=float, default=10_000.0, help="messages a second between random ones")
    add("--rooms", type=int, default=10, help="(default 10)")
    add("--members", type=int, default=100, help="of each room (default 100)")
    add("--room-rate", type=float, default=10.0, help="publishes a second (default 10)")
    add("--ping-interval", type=float, metavar="S", help="the engine's (default: its own default)")
    add("--load", type=Path, default=LOAD, help="the load generator")
    add("--json", type=Path, help="file of results (default: bench/results/scale-N[-ping-S].json)")
    options = parser.parse_args(arguments)
    if options.connections < FEW:
        parser.error(f"--connections: at least {FEW}")
    options.loops = options.loops or max(2, loops_for(options.connections))
    suffix = "" if options.ping_interval is None else f"-ping-{options.ping_interval:g}"
    options.json = options.json or RESULTS / f"scale-{options.connections}{suffix}.json"
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Few, many, few again."""

    def measured(connections: int, seconds: float) -> Figures:
        print(f"{connections:,} connections on {options.loops} loops", file=sys.stderr, flush=True)
        return measure(options, connections, seconds)

    before = measured(FEW, min(FEW_SECONDS, options.seconds))
    many = measured(options.connections, options.seconds)
    after = measured(FEW, min(FEW_SECONDS, options.seconds))
    interval = Config().ping_interval if options.ping_interval is None else options.ping_interval
    return {
        **{name: getattr(options, name) for name in ("connections", "loops", "rooms", "members", "room_rate")},
        "engine": engine(options).shown(),
        "ping_interval": interval,
        "load": shlex.join(load_command(options, options.connections, options.seconds)),
        "many": many,
        "few": [before, after],
    }


def main() -> int:
    """0; 1 where it can't run, or something did not hold."""
    options = parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the engine and the load generator are ended
    many_descriptors()
    if told := cannot(options):
        print(told, file=sys.stderr)
        return 1
    head = description()
    try:
        scale = run(options)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    command = f"make bench-scale N={options.connections} SECONDS={options.seconds:g} QUIET={options.quiet:g}"
    if options.ping_interval is not None:
        command += f' ARGS="--ping-interval {options.ping_interval:g}"'
    write(options.json, {**head, "command": command, "scale": scale})
    print(shown(scale))
    faults = trouble(scale)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
