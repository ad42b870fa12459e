"""Very many WebSockets on one engine: bytes and CPU of an idle one, and what a message among them costs.

    make bench-scale N=1000000

One engine process, whose loops and the load generator's threads each have a descriptor table of their own, so that
the limit of descriptors does not bound the process. All connections are opened, kept alive by pings, left quiet for
a while, and then messages are relayed between random ones and published into rooms spread over them. The same load
with 1,000 connections over as many loops, before and after, says what the number of connections does to a message.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from contenders import ENGINE, HERE, Contender, loops_for, no_engine
from machine import description
from results import RESULTS, write
from servers import BenchError, free_port, many_descriptors, running

FEW = 1000  # connections of the load that is compared with
FEW_SECONDS = 60.0
BYTES_A_CONNECTION = 8_600  # of memory, user's and the kernel's, both ends: more than was ever measured
LOOPS_MAX = 250  # the engine's bound
SAMPLE_S = 0.5
PAGE_KB = 4
BOUND = 1.3  # a delivery's CPU among many, by that among few

KB = dict[str, float]


def fields_kb(meminfo: str) -> KB:
    """/proc/meminfo as kB by name."""
    lines = (line.split() for line in meminfo.splitlines())
    return {words[0].rstrip(":"): float(words[1]) for words in lines if len(words) > 1}


def tcp_pages(sockstat: str) -> int:
    """Pages that TCP's buffers take, by /proc/net/sockstat."""
    words = next((line.split() for line in sockstat.splitlines() if line.startswith("TCP:")), [])
    return int(words[words.index("mem") + 1]) if "mem" in words else 0


def kernel_kb(meminfo: str, sockstat: str) -> KB:
    """The kernel's memory: what it counts as its own, and all that is neither free, a file's, nor a process's."""
    kb = fields_kb(meminfo)
    files = kb["Buffers"] + kb["Cached"] + kb.get("SwapCached", 0.0)
    return {
        "counted": kb["Slab"] + kb["KernelStack"] + kb["PageTables"],
        "slab": kb["Slab"],
        "stacks": kb["KernelStack"],
        "page_tables": kb["PageTables"],
        "tcp_buffers": float(tcp_pages(sockstat) * PAGE_KB),
        "all_but_user": kb["MemTotal"] - kb["MemFree"] - files - kb["AnonPages"],
    }


def read_kernel() -> KB:
    """kernel_kb of now."""
    files = (Path("/proc/meminfo"), Path("/proc/net/sockstat"))
    return kernel_kb(*(file.read_text(encoding="ascii") for file in files))


class Sampler(threading.Thread):
    """Reads the kernel's memory now and then, until it is stopped: on the load generator's clock."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, KB]] = [(time.monotonic(), read_kernel())]
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.samples.append((time.monotonic(), read_kernel()))

    def stop(self) -> None:
        """Return when it reads no more."""
        self._over.set()
        self.join()

    def at(self, when: float) -> KB:
        """The sample next to a moment."""
        return min(self.samples, key=lambda sample: abs(sample[0] - when))[1]


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


def measure(options: argparse.Namespace, connections: int, seconds: float) -> dict[str, Any]:
    """One engine under the load: the load generator's JSON, and the kernel's memory before and with all open."""
    port = free_port()
    command = engine(options).filled(port=port, nats="off", node="bench0")
    with running(command, port) as pid:
        sampler = Sampler()
        sampler.start()
        load = [str(options.load), *load_command(options, connections, seconds)]
        load += ["--pid", str(pid), f"ws://127.0.0.1:{port}/"]
        done = subprocess.run(load, stdout=subprocess.PIPE, check=False)
        sampler.stop()
    if not done.stdout:
        raise BenchError(f"{shlex.join(load)} ended with {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    result["kept"] = done.returncode == 0
    result["kernel_kb"] = {"before": sampler.samples[0][1], "open": sampler.at(result["quiet"]["to"])}
    return result


def idle_cpu(run: dict[str, Any]) -> float:
    """Seconds of the engine's CPU a second in the quiet time."""
    quiet = run["quiet"]
    return float((quiet["user_s"] + quiet["system_s"]) / (quiet["to"] - quiet["from"]))


def pings_cpu(run: dict[str, Any]) -> float:
    """Seconds of the engine's CPU that the pings under load took, each as much as one in the quiet.

    Fewer are sent under load: who speaks is not pinged. Without pings in the quiet it is the quiet's CPU.
    """
    quiet = run["quiet"]
    if not quiet["pings"]:
        return idle_cpu(run) * float(run["seconds"])
    return float((quiet["user_s"] + quiet["system_s"]) / quiet["pings"] * run["pings_measured"])


def cpu_per_delivery(run: dict[str, Any], besides: float = 0.0) -> float:
    """µs of the engine's CPU a delivery, less some seconds that were used besides."""
    used = run["all_servers"]["user_s"] + run["all_servers"]["system_s"] - besides
    return float(used * 1e6 / run["delivered"]) if run["delivered"] else float("nan")


def of_run(run: dict[str, Any]) -> dict[str, float]:
    """What a run says of messages, and of the quiet before them."""
    quiet = run["quiet"]
    took = quiet["to"] - quiet["from"]
    return {
        "idle_user_per_s": quiet["user_s"] / took,
        "idle_system_per_s": quiet["system_s"] / took,
        "pings_per_s": quiet["pings"] / took,
        "cpu_us_per_delivery": cpu_per_delivery(run),
        "cpu_us_per_delivery_less_pings": cpu_per_delivery(run, pings_cpu(run)),
        "pings_per_s_under_load": run["pings_measured"] / run["seconds"],
        "relay_p50_us": run["latency_us"]["p50"],
        "relay_p99_us": run["latency_us"]["p99"],
        "relay_p999_us": run["latency_us"]["p999"],
        "room_p50_us": run["room_latency_us"]["p50"],
        "room_p99_us": run["room_latency_us"]["p99"],
    }


def figures(scale: dict[str, Any]) -> dict[str, Any]:
    """What the runs amount to; kernel's bytes are of one end: both are on this machine, and as many."""
    many, n = scale["many"], scale["connections"]
    before, after = many["kernel_kb"]["before"], many["kernel_kb"]["open"]
    few = [of_run(run) for run in scale["few"]]
    mean = {name: statistics.mean(run[name] for run in few) for name in few[0]}
    mine = of_run(many)
    return {
        "opened_per_s": many["opened"]["per_second"],
        "opened_s": many["opened"]["seconds"],
        "user_bytes": many["all_servers"]["bytes_per_connection"],
        "kernel_bytes": {name: (after[name] - before[name]) * 1024 / n / 2 for name in before},
        "many": mine,
        "few": mean,
        "ratio": {name: mine[name] / mean[name] for name in mine if mean[name] > 0},
    }


def shown(scale: dict[str, Any]) -> str:
    """The figures for people."""
    f = figures(scale)
    many, few, ratio, kernel = f["many"], f["few"], f["ratio"], f["kernel_bytes"]
    user = "unknown" if f["user_bytes"] is None else f"{f['user_bytes']:,.0f} bytes a connection (Pss growth)"
    lines = [
        f"{scale['connections']:,} connections on {scale['loops']} loops, {scale['many']['seconds']:.0f} s",
        f"  opened         {f['opened_s']:.1f} s, {f['opened_per_s']:,.0f} a second",
        f"  user memory    {user}",
        f"  kernel memory  {kernel['counted']:,.0f} bytes a connection: half of both ends' slab, page tables, stacks",
        f"                 {kernel['all_but_user']:,.0f} the same of all that is not free, a file's or a process's",
        f"  idle           {many['idle_user_per_s']:.4f} s user and {many['idle_system_per_s']:.4f} s system a second",
        f"                 with {many['pings_per_s']:,.0f} pings answered a second",
        f"                 {few['idle_user_per_s'] + few['idle_system_per_s']:.4f} s a second with {FEW:,}",
    ]
    names = {
        "cpu_us_per_delivery": "CPU a delivery, µs",
        "cpu_us_per_delivery_less_pings": "  less pings, µs",
        "relay_p50_us": "relay p50, µs",
        "relay_p99_us": "relay p99, µs",
        "room_p50_us": "room p50, µs",
        "room_p99_us": "room p99, µs",
    }
    lines.append(f"  {'':22} {'among all':>12} {f'among {FEW:,}':>14} {'ratio':>8}")
    for name, text in names.items():
        by = f"{ratio[name]:8.2f}" if name in ratio else ""
        lines.append(f"  {text:22} {many[name]:12.2f} {few[name]:14.2f} {by}".rstrip())
    return "\n".join(lines)


def trouble(scale: dict[str, Any]) -> list[str]:
    """What did not hold."""
    told = []
    for name, run in (("all", scale["many"]), *((f"{FEW:,}", run) for run in scale["few"])):
        faults = {**run["errors"], **run["err"], "lost": run["lost"], "gap": run["gap"]}
        if not run["kept"]:
            counts = ", ".join(f"{fault} {count}" for fault, count in faults.items() if count)
            told.append(f"among {name}: not everything was delivered: {counts or 'a connection is not open'}")
    by = figures(scale)["ratio"].get("cpu_us_per_delivery_less_pings", float("nan"))
    if not by <= BOUND:
        told.append(f"a delivery among all costs {by:.2f} of one among {FEW:,}: more than {BOUND}")
    return told


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
    available = fields_kb(Path("/proc/meminfo").read_text(encoding="ascii"))["MemAvailable"]
    return short_of_memory(options.connections, available)


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--connections", type=int, default=1_000_000, help="how many (default 1000000)")
    parser.add_argument("--seconds", type=float, default=600.0, help="under load (default 600)")
    parser.add_argument("--quiet", type=float, default=60.0, help="of pings only, before it (default 60)")
    parser.add_argument("--loops", type=int, default=0, help="of the engine (default: as descriptors demand, or 2)")
    parser.add_argument("--rate", type=float, default=10_000.0, help="messages a second between random ones")
    parser.add_argument("--rooms", type=int, default=10, help="(default 10)")
    parser.add_argument("--members", type=int, default=100, help="of each room (default 100)")
    parser.add_argument("--room-rate", type=float, default=10.0, help="publishes a second (default 10)")
    parser.add_argument("--ping-interval", type=float, metavar="S", help="the engine's (default: its own default)")
    parser.add_argument("--load", type=Path, default=HERE / "bin" / "load", help="the load generator")
    parser.add_argument("--json", type=Path, help="the file of results (default: bench/results/scale-N.json)")
    options = parser.parse_args(arguments)
    if options.connections < FEW:
        parser.error(f"--connections: at least {FEW}")
    options.loops = options.loops or max(2, loops_for(options.connections))
    options.json = options.json or RESULTS / f"scale-{options.connections}.json"
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Few, many, few again."""

    def tell(connections: int) -> None:
        print(f"{connections:,} connections on {options.loops} loops", file=sys.stderr, flush=True)

    few = []
    seconds = min(FEW_SECONDS, options.seconds)
    tell(FEW)
    few.append(measure(options, FEW, seconds))
    tell(options.connections)
    many = measure(options, options.connections, options.seconds)
    tell(FEW)
    few.append(measure(options, FEW, seconds))
    return {
        "connections": options.connections,
        "loops": options.loops,
        "engine": engine(options).shown(),
        "load": shlex.join(load_command(options, options.connections, options.seconds)),
        "many": many,
        "few": few,
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
    write(options.json, {**head, "command": command, "scale": {**scale, "figures": figures(scale)}})
    print(shown(scale))
    faults = trouble(scale)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
