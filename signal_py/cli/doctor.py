"""The command `doctor`: which limit of this machine bites first, at how many connections, and how to raise it."""

from __future__ import annotations

import argparse
import ipaddress
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from signal_py.base.errors import ConfigError
from signal_py.base.resources import resources
from signal_py.capacity import MAX_LOOPS, Limit, Machine, Plan, first_of, fix_of, limits_of, shown
from signal_py.config.parsing import FAILED
from signal_py.config.settings import SETTINGS, Config
from signal_py.diagnosis import FAULT, OK, Finding, diagnose
from signal_py.listen import resolve
from signal_py.machine import read_machine
from signal_py.parts import servers_of

DESCRIPTION = """\
Reads the limits of this machine, and prints at how many connections an engine with these settings would refuse clients,
which limit causes that, and the command that raises it. Run it as the user, in the container and with the limits that
the engine has. The exit status is 1 if something keeps the engine from working, or --connections can't be reached."""


def add_arguments(command: argparse.ArgumentParser, add_settings: Callable[..., None]) -> None:
    """Adds the arguments of `doctor`."""
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.add_argument(
        "--connections", metavar="N", type=int, default=0, help="print what must be raised for this many connections"
    )
    add_settings(command, SETTINGS.values())


@dataclass(frozen=True)
class Report:
    """What the doctor has found.

    wanted  the connections that were asked for; 0: none were
    fixes   by the key of a limit: the command that raises it
    """

    limits: list[Limit]
    findings: list[Finding]
    wanted: int
    fixes: dict[str, str]

    @property
    def first(self) -> Limit:
        """The limit at which clients are refused, or the engine is killed."""
        return first_of(self.limits)

    @property
    def good(self) -> bool:
        """Whether the engine works, with as many connections as were asked for."""
        return self.first.connections >= self.wanted and not any(one.level == FAULT for one in self.findings)


def plan_of(config: Config) -> Plan:
    """Returns the settings that matter for the limits."""
    hosts: list[str] = []
    try:
        for one in resolve(config.listen, config.named("listen")):
            hosts += [address.host for address in one.addresses]
    except (ConfigError, ValueError):  # a socket file, or a name that `check` reports
        hosts = [""] * len(config.listen)
    loops = config.loops or min(resources().processors, MAX_LOOPS)
    local = all(host and ipaddress.ip_address(host).is_loopback for host in hosts)
    nats = config.nats != ("off",)
    return Plan(loops, len(hosts), config.max_connections, nats, config.ping_interval, local)


def report_of(machine: Machine, plan: Plan, findings: list[Finding], wanted: int) -> Report:
    """Returns the limits, and how to raise those below what is wanted, or else the first one to where the next is."""
    limits = limits_of(machine, plan)
    first = first_of(limits)
    others = [limit.connections for limit in limits if limit.effect != "slows" and limit is not first]
    target = wanted or min([other for other in others if other > first.connections], default=math.inf)
    goal = int(target) if math.isfinite(target) else int(first.connections) * 2
    low = [limit for limit in limits if limit.connections < goal and (wanted or limit is first)]
    fixes = {limit.key: fix_of(limit, goal, machine, plan).command for limit in low}
    return Report(limits, findings, wanted, fixes)


def run(config: Config, options: argparse.Namespace) -> int:
    """Prints the report. Returns the exit status. Raises ConfigError."""
    if options.connections < 0:
        raise ConfigError(f"--connections is {options.connections}: use 1 or more.")
    machine, plan = read_machine(), plan_of(config)
    report = report_of(machine, plan, diagnose(machine, plan, servers_of(config)), options.connections)
    if options.json:
        print(json.dumps(_object(report), indent=2, ensure_ascii=False))
    else:
        for line in _lines(report):
            print(line)
    return 0 if report.good else FAILED


def _number(number: float) -> int | None:
    return int(number) if math.isfinite(number) else None


def _object(report: Report) -> dict[str, Any]:
    return {
        "good": report.good,
        "connections": _number(report.first.connections),
        "first": report.first.key,
        "wanted": report.wanted or None,
        "limits": [
            {
                "key": limit.key,
                "name": limit.name,
                "value": limit.value,
                "connections": _number(limit.connections),
                "effect": limit.effect,
                "raise": report.fixes.get(limit.key, ""),
            }
            for limit in report.limits
        ],
        "checks": [vars(finding) for finding in report.findings],
    }


def _verdict(report: Report) -> str:
    first = report.first
    how = report.fixes.get(first.key, "")
    about = f"this node takes about {shown(first.connections)} connections"
    text = f"{about}; the first limit is: {first.name}, {first.value}"
    if report.wanted:
        fits = "possible" if report.wanted <= first.connections else "not possible"
        text = f"{shown(report.wanted)} connections are {fits}; {text}"
    if how:
        text += f"; raise it with: {how}"
    if first.effect == "kills":
        text += f"; beyond it the kernel kills processes, and --max-connections {first.connections:.0f} prevents that"
    return text


def _lines(report: Report) -> Iterator[str]:
    yield _verdict(report)
    for slows, title in ((False, "connections"), (True, "slows down over")):
        rows = [
            (limit.name, limit.value, shown(limit.connections), report.fixes.get(limit.key, ""))
            for limit in report.limits
            if (limit.effect == "slows") == slows
        ]
        yield ""
        yield from _aligned([("limit", "value", title, "raise it with" if any(row[3] for row in rows) else ""), *rows])
    yield ""
    for finding in report.findings:
        fix = f": {finding.fix}" if finding.fix and finding.level != OK else ""
        yield f"{finding.level:6} {finding.name} {finding.text}{fix}"


def _aligned(rows: list[tuple[str, str, str, str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        yield f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip()
