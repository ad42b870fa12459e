"""Runs as the load generator tells of them, made up and cut down to what the benchmarks' scripts read."""


def cpu(user: float, both: float, delivered: int = 1000) -> dict:
    servers = {"user_us_per_delivery": user, "cpu_us_per_delivery": both, "bytes_per_connection": None}
    return {"per_second": 1000.0, "delivered": delivered, "all_servers": servers, "latency_us": {"p99": 1.0}}


def latency(p99: float) -> dict:
    points = [[0, 1.0], [50, 2.0], [99, p99], [100, 99.0]]
    return {"latency_us": {"count": 1000, "p50": 2.0, "p99": p99, "p999": 50.0, "curve": points}}


def room(members: int, delivered: int) -> dict:
    return {"members": members, "delivered": delivered, "seconds": 2.0}


def idle(each: float | None) -> dict:
    return {"all_servers": {"bytes_per_connection": each}}


def scaled(few_user: float = 1.0, pings: int = 800) -> dict:
    """A result of scale.py: 2,000 connections, 10 µs a delivery, of which 2 are idle CPU."""

    def run(user: float, delivered: int) -> dict:
        return {
            "seconds": 10.0,
            "delivered": delivered,
            "pings_measured": pings,
            "lost": 0,
            "gap": 0,
            "kept": True,
            "errors": {},
            "err": {},
            "opened": {"seconds": 2.0, "per_second": 1000.0},
            "quiet": {"from": 5.0, "to": 15.0, "pings": pings, "user_s": 0.15, "system_s": 0.05},
            "latency_us": {"p50": 20.0, "p99": 30.0, "p999": 40.0},
            "room_latency_us": {"p50": 50.0, "p99": 60.0},
            "all_servers": {"user_s": user, "system_s": 0.0, "bytes_per_connection": 160.0},
        }

    many = run(1.0, 100_000)
    before = {"counted": 1000.0, "all_but_user": 2000.0}
    many["kernel_kb"] = {"before": before, "open": {"counted": 9000.0, "all_but_user": 18000.0}}
    few = [run(few_user, 100_000), run(few_user, 100_000)]
    return {"connections": 2000, "loops": 3, "engine": "signal-engine", "load": "mix", "many": many, "few": few}
