"""Made-up results of the load generator, with the fields that the benchmarks' scripts read."""

import macro
import scale


def cpu(user: float, both: float, delivered: int = 1000) -> dict:
    servers = {"user_us_per_delivery": user, "cpu_us_per_delivery": both, "bytes_per_connection": None}
    return {"per_second": 1000.0, "delivered": delivered, "all_servers": servers, "latency_us": {"p99": 1.0}}


def latency(p99: float, count: int = 1000) -> dict:
    points = [[0, 1.0], [50, 2.0], [99, p99], [100, 99.0]]
    return {"mode": "pair", "latency_us": {"count": count, "p50": 2.0, "p99": p99, "p999": 50.0, "curve": points}}


def room(members: int, delivered: int) -> dict:
    return {"mode": "room", "members": members, "delivered": delivered, "seconds": 2.0}


def idle(each: float | None) -> dict:
    return {"all_servers": {"bytes_per_connection": each}}


def columns(*runs: dict) -> dict:
    """Runs in the form in which they are kept."""
    return macro.kept_columns([macro.summary(run) for run in runs])


def scenarios(**by: dict[str, list[dict]]) -> dict:
    """A result file with these scenarios: the runs of each contender."""
    return {
        "scenarios": {
            name.replace("_", "-"): {"load": name, "nodes": 1, "by": {c: columns(*runs) for c, runs in who.items()}}
            for name, who in by.items()
        }
    }


def mixed(user: float = 1.0, delivered: int = 100_000, connections: int = 2000, pings: int = 800, **more) -> dict:
    """A run of 10 s with 10 µs for each delivery, 2 of them idle CPU."""
    return {
        "connections": connections,
        "seconds": 10.0,
        "delivered": delivered,
        "pings_measured": pings,
        "lost": 0,
        "gap": 0,
        "errors": {},
        "err": {},
        "opened": {"seconds": 2.0, "per_second": 1000.0},
        "quiet": {"from": 5.0, "to": 15.0, "pings": pings, "user_s": 0.15, "system_s": 0.05},
        "latency_us": {"p50": 20.0, "p99": 30.0, "p999": 40.0},
        "room_latency_us": {"p50": 50.0, "p99": 60.0},
        "all_servers": {"user_s": user, "system_s": 0.0, "bytes_per_connection": 160.0, "pss_before_kb": 1000},
        **more,
    }


def summed(run: dict) -> dict:
    """The summary of a run, with 8 MB more of kernel memory."""
    before = {"counted": 1000.0, "all_but_user": 2000.0}
    return scale.summary(run, before, {"counted": 9000.0, "all_but_user": 18000.0})


def scaled(few_user: float = 1.0, pings: int = 800) -> dict:
    """A result of scale.py with 2,000 connections."""
    few = [summed(mixed(few_user, pings=pings, connections=1000)) for _ in range(2)]
    about = {"connections": 2000, "loops": 3, "rooms": 2, "members": 10, "room_rate": 100, "ping_interval": 25.0}
    return {**about, "engine": "signal-engine", "load": "mix", "many": summed(mixed(pings=pings)), "few": few}
