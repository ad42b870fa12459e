"""What `signal-engine ctl` does: a question or an order to the nodes of a cluster, and what they answer."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from signal_py.config import CONTROL_SETTINGS, SETTINGS, Config
from signal_py.controlwire import NODE
from signal_py.errors import ConfigError
from signal_py.sources import CONFIG_VARIABLE

if TYPE_CHECKING:
    from signal_py.control import Control, Gathered

FAILED = 1  # exit status where a node was silent or refused, or there was nothing to do it to
MAX_TIMEOUT = 600.0

DESCRIPTION = """\
Asks and tells the nodes of a cluster through the NATS server that they use. Exit status 1 where a node that is there
did not answer, refused, or had nobody to disconnect; what the others did is printed all the same."""
COMMANDS = {
    "nodes": "the nodes that are there: name, version, where they listen",
    "stats": "what the nodes count",
    "drain": "have a node, or all, send their clients away, and end",
}


def add_arguments(
    control: argparse.ArgumentParser, add_settings: Callable[[argparse.ArgumentParser, Iterable[str]], None]
) -> None:
    """The commands and their flags."""
    control.description = DESCRIPTION
    commands = control.add_subparsers(title="commands", metavar="COMMAND", dest="order", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=DESCRIPTION, allow_abbrev=False)
        add_settings(command, CONTROL_SETTINGS)
        command.add_argument("--timeout", metavar="SECONDS", type=float, default=2.0, help="for answers (default 2)")
        command.add_argument("--json", action="store_true", help="print one JSON object a line")
        if name == "stats":
            command.add_argument("--node", metavar="NAME", default="", help="ask this one only")
        elif name == "drain":
            command.add_argument("node", metavar="NODE", nargs="?", default="", help="its name, which nodes prints")
            command.add_argument("--all", action="store_true", help="every node of the cluster")


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Those that this command reads: others may be a node's, and not whole."""
    names = {CONFIG_VARIABLE, *(SETTINGS[name].variable for name in CONTROL_SETTINGS)}
    return {name: value for name, value in environ.items() if name in names}


def run(options: argparse.Namespace, config: Config) -> int:
    """Does it; the exit status. Raises ConfigError."""
    _check(options, config)
    return asyncio.run(_run(options, config))


def _check(options: argparse.Namespace, config: Config) -> None:
    if set(config.nats) & {"auto", "embedded", "off"}:
        raise ConfigError(
            f"{config.named('nats')} names no NATS server: give the URL of one that the nodes use, "
            "which they log as nats=… when they are ready."
        )
    if not 0 < options.timeout <= MAX_TIMEOUT:
        raise ConfigError(f"--timeout is {options.timeout:g}: use more than 0, up to {MAX_TIMEOUT:g} seconds.")
    if getattr(options, "node", "") and not NODE.fullmatch(options.node):
        raise ConfigError(f"'{options.node}' is no name of a node: 'signal-engine ctl nodes' prints them.")
    if options.order == "drain" and bool(options.node) == options.all:
        raise ConfigError("drain takes the name of a node, or --all for every node: give one of them.")


async def _run(options: argparse.Namespace, config: Config) -> int:
    from signal_py.control import Control, ControlError

    try:
        async with Control(config=config, timeout=options.timeout) as control:
            return await ORDERS[options.order](control, options)
    except ControlError as error:
        _say(str(error))
        return FAILED


# -- the commands --


async def _nodes(control: Control, options: argparse.Namespace) -> int:
    nodes = await control.nodes()
    for node in nodes:
        _show(node, options.json, f"{node.node}  {node.version}  {' '.join(node.listen)}")
    if not nodes:
        _say("no node answers: are there any with this NATS and --prefix, and with --control on?")
    return 0 if nodes else FAILED


async def _stats(control: Control, options: argparse.Namespace) -> int:
    gathered = await control.stats(options.node)
    for stats in gathered.answers:
        total, general = stats.total, stats.general
        _show(
            stats,
            options.json,
            f"{stats.node}  {general.get('state')}  {general.get('uptime')} s  NATS {general.get('nats_state')}  "
            f"{total.get('connections')} connections  {total.get('memberships')} memberships  "
            f"{total.get('accepted')} messages  {total.get('written')} deliveries",
        )
    return _end(gathered)


async def _drain(control: Control, options: argparse.Namespace) -> int:
    gathered = await control.drain(options.node, everywhere=options.all)
    for one in gathered.answers:
        text = f"{one.node} drains: {one.connections} connections go within {one.drain_time:g} s"
        _show(one, options.json, text)
    return _end(gathered)


ORDERS: Mapping[str, Callable[[Control, argparse.Namespace], Awaitable[int]]] = {
    "nodes": _nodes,
    "stats": _stats,
    "drain": _drain,
}


# -- what is printed --


def _show(found: Any, as_json: bool, text: str) -> None:
    print(json.dumps(dataclasses.asdict(found)) if as_json else text, flush=True)


def _end(gathered: Gathered[Any]) -> int:
    """Tells which nodes did not do it; the exit status."""
    for node in gathered.silent:
        _say(f"{node} did not answer")
    for refused in gathered.refused:
        _say(f"{refused.node}: {refused.code}: {refused.text}")
    if not gathered.answers and gathered.complete:
        _say("no node answers: are there any with this NATS and --prefix, and with --control on?")
        return FAILED
    return 0 if gathered.complete else FAILED


def _say(text: str) -> None:
    print(f"signal-engine: {text}", file=sys.stderr, flush=True)
