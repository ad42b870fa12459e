"""What a run of scale.py amounts to: figures of one connection and one delivery, and what did not hold."""

from __future__ import annotations

import statistics
from typing import Any

FEW = 1000  # connections of the load that is compared with
BOUND = 1.3  # a delivery's CPU among many, by that among few, where no pings are answered meanwhile


def idle_cpu(run: dict[str, Any]) -> float:
    """Seconds of the engine's CPU a second in the quiet time."""
    quiet = run["quiet"]
    return float((quiet["user_s"] + quiet["system_s"]) / (quiet["to"] - quiet["from"]))


def pings_cpu(run: dict[str, Any]) -> float:
    """Seconds of the engine's CPU that the pings under load took, each taken for as much as one in the quiet.

    That is more than they took: loops that are awake for messages need not be woken for pings. Fewer are sent under
    load: who speaks is not pinged. Without pings in the quiet it is the quiet's CPU.
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
        f"{scale['connections']:,} connections on {scale['loops']} loops, {pings_said(scale)}",
        f"  under load     {scale['many']['seconds']:.0f} s",
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
    if without_pings(scale):
        del names["cpu_us_per_delivery_less_pings"]
    for name, text in names.items():
        by = f"{ratio[name]:8.2f}" if name in ratio else ""
        lines.append(f"  {text:22} {many[name]:12.2f} {few[name]:14.2f} {by}".rstrip())
    if not without_pings(scale):
        lines.append("  CPU is not judged: a delivery alone costs something between the two figures, the lower of")
        lines.append("  which takes each ping for as much as one in the quiet. A --ping-interval of two runs tells.")
    return "\n".join(lines)


def without_pings(scale: dict[str, Any]) -> bool:
    """Whether no ping was answered while messages were measured: then a delivery's CPU is that of deliveries alone."""
    return not any(run["pings_measured"] for run in (scale["many"], *scale["few"]))


def pings_said(scale: dict[str, Any]) -> str:
    """How often the engine pinged, for a heading."""
    if without_pings(scale) and not scale["many"]["quiet"]["pings"]:
        return "without pings"
    interval = scale.get("ping_interval")
    return f"pings every {interval:g} s" if interval else "with pings"


def trouble(scale: dict[str, Any]) -> list[str]:
    """What did not hold. CPU is judged without pings only: else neither figure is what a delivery alone costs."""
    told = []
    for name, run in (("all", scale["many"]), *((f"{FEW:,}", run) for run in scale["few"])):
        faults = {**run["errors"], **run["err"], "lost": run["lost"], "gap": run["gap"]}
        if not run["kept"]:
            counts = ", ".join(f"{fault} {count}" for fault, count in faults.items() if count)
            told.append(f"among {name}: not everything was delivered: {counts or 'a connection is not open'}")
    by = figures(scale)["ratio"].get("cpu_us_per_delivery", float("nan"))
    if without_pings(scale) and not by <= BOUND:
        told.append(f"a delivery among all costs {by:.2f} of one among {FEW:,}: more than {BOUND}")
    return told
