"""The command `ctl`: inspects and controls the nodes of a cluster."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from signal_py.base import aio
from signal_py.base.errors import ConfigError
from signal_py.base.log import printable, say
from signal_py.config.control_settings import CONTROL_SETTINGS, control_settings
from signal_py.config.parsing import FAILED
from signal_py.config.settings import SETTINGS, Config
from signal_py.config.sources import CONFIG_VARIABLE
from signal_py.config.types import NATS_WORDS, NODE, Setting
from signal_py.control.wire import MAX_PAGE, NAME, PEER

if TYPE_CHECKING:
    from signal_py.control import Control, Gathered

MAX_TIMEOUT = 600.0  # seconds

DESCRIPTION = """\
Inspects and controls the nodes of a cluster through the NATS server that they use. The exit status is 1 if a node does
not answer or refuses, or if there is nothing to disconnect. The answers of the other nodes are printed anyway."""
COMMANDS = {
    "nodes": "list the nodes: name, version, addresses",
    "stats": "print counters of the nodes",
    "rooms": "list the rooms of the cluster, with their number of members",
    "members": "list the members of a room, or the connections of a user (@USER)",
    "disconnect": "close the connection of a peer, or all connections of a user (@USER), with 4009",
    "drain": "make one node, or all, send its clients away and exit",
    "reload": "make one node, or all, read its settings again",
}


def add_arguments(
    control: argparse.ArgumentParser, add_settings: Callable[[argparse.ArgumentParser, Iterable[Setting]], None]
) -> None:
    """Adds the commands of `ctl`. `add_settings` is that of cli/main.py."""
    control.description = DESCRIPTION
    commands = control.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=DESCRIPTION, allow_abbrev=False)
        add_settings(command, control_settings())
        command.add_argument(
            "--timeout", metavar="SECONDS", type=float, default=2.0, help="time to wait for answers (default 2)"
        )
        command.add_argument("--json", action="store_true", help="print one JSON object per line")
        _add_own_arguments(command, name)


def _add_own_arguments(command: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments that only some commands have."""
    if name == "stats":
        command.add_argument("--node", metavar="NAME", default="", help="ask only this node")
    elif name in ("drain", "reload"):
        command.add_argument(
            "node", metavar="NODE", nargs="?", default="", help="name of the node, as printed by nodes"
        )
        command.add_argument("--all", action="store_true", help=f"{name} every node of the cluster")
    elif name == "members":
        command.add_argument("target", metavar="ROOM", help="a room such as lobby, or @USER")
    elif name == "disconnect":
        command.add_argument("target", metavar="PEER", help="an address such as k7m2.0f3zq8m2v9w1x, or @USER")
    if name in ("rooms", "members"):
        text = f"maximum number of entries, 1 to {MAX_PAGE} (default {MAX_PAGE})"
        command.add_argument("--limit", metavar="N", type=int, default=MAX_PAGE, help=text)


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that `ctl` reads. Others may belong to a node, and not be valid together with these."""
    names = {CONFIG_VARIABLE, *(SETTINGS[name].variable for name in CONTROL_SETTINGS)}
    return {name: value for name, value in environ.items() if name in names}


def run(options: argparse.Namespace, config: Config) -> int:
    """Runs a command of `ctl`. Returns the exit status. Raises ConfigError.

    options  the arguments, as `add_arguments` defines them
    config   the settings that `variables` and the flags give
    """
    _check(options, config)
    return aio.run(_run(options, config))


def _check(options: argparse.Namespace, config: Config) -> None:
    if set(config.nats) & set(NATS_WORDS):
        raise ConfigError(
            f"{config.named('nats')} names no NATS server: give the URL of one that the nodes use, "
            "which each logs as nats=… when it is ready."
        )
    if not 0 < options.timeout <= MAX_TIMEOUT:
        raise ConfigError(f"--timeout is {options.timeout:g}: use more than 0, up to {MAX_TIMEOUT:g} seconds.")
    if getattr(options, "node", "") and not NODE.fullmatch(options.node):
        raise ConfigError(f"'{options.node}' is not a node name: 'signal-engine ctl nodes' lists them.")
    if not 1 <= getattr(options, "limit", 1) <= MAX_PAGE:
        raise ConfigError(f"--limit is {options.limit}: use 1 to {MAX_PAGE}.")
    if options.command == "members" and not NAME.fullmatch(options.target):
        raise ConfigError(f"'{options.target}' is not a room: write one such as lobby, or @USER.")
    if options.command == "disconnect" and not _is_peer_or_user(options.target):
        raise ConfigError(f"'{options.target}' is neither a peer nor a user: write the address of a peer, or @USER.")
    if options.command in ("drain", "reload") and bool(options.node) == options.all:
        raise ConfigError(f"{options.command} takes the name of a node, or --all for every node: give one of them.")


def _is_peer_or_user(target: str) -> bool:
    return bool(PEER.fullmatch(target) or (target[:1] == "@" and len(target) > 1 and NAME.fullmatch(target)))


async def _run(options: argparse.Namespace, config: Config) -> int:
    from signal_py.control import Control, ControlError

    try:
        async with Control(config=config, timeout=options.timeout) as control:
            return await HANDLERS[options.command](control, options)
    except ControlError as error:
        _say(str(error))
        return FAILED


# -- the commands --


async def _nodes(control: Control, options: argparse.Namespace) -> int:
    gathered = await control.discover()
    for node in gathered.answers:
        addresses = " ".join(node.listen)
        addresses = f"{node.advertise}  bound to {addresses}" if node.advertise else addresses
        _show(node, options.json, f"{node.node}  {node.version}  {addresses}")
    return _end(gathered)


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


async def _rooms(control: Control, options: argparse.Namespace) -> int:
    gathered = await control.rooms(options.limit)
    for room in gathered.answers:
        _show(room, options.json, f"{room.members:7}  {room.room}  {' '.join(sorted(room.nodes))}")
    return _end(gathered)


async def _members(control: Control, options: argparse.Namespace) -> int:
    gathered = await control.members(options.target, options.limit)
    for member in gathered.answers:
        _show(member, options.json, f"{member.peer}  {member.user}" if member.user else member.peer)
    return _end(gathered)


async def _disconnect(control: Control, options: argparse.Namespace) -> int:
    target = str(options.target)
    user = target[1:] if target[0] == "@" else ""
    gathered = await control.disconnect("" if user else target, user=user)
    total = sum(one.disconnected for one in gathered.answers)
    for one in gathered.answers:
        if one.disconnected or options.json:
            _show(one, options.json, f"{one.node}  {one.disconnected} closed")
    if not total and gathered.answers:
        _say(f"{target} has no connection")
    status = _end(gathered)
    return status if total else FAILED


async def _drain(control: Control, options: argparse.Namespace) -> int:
    gathered = await control.drain(options.node, everywhere=options.all)
    for one in gathered.answers:
        text = f"{one.node} is draining: {one.connections} connections end within {one.drain_time:g} s"
        _show(one, options.json, text)
    return _end(gathered)


async def _reload(control: Control, options: argparse.Namespace) -> int:
    gathered = await control.reload(options.node, everywhere=options.all)
    for one in gathered.answers:
        fields = one.summary().items()
        _show(one, options.json, f"{one.node}  " + "  ".join(f"{name}: {_listed(texts)}" for name, texts in fields))
    return _end(gathered)


def _listed(texts: object) -> str:
    return ", ".join(texts) if isinstance(texts, list) else str(texts)


HANDLERS: Mapping[str, Callable[[Control, argparse.Namespace], Awaitable[int]]] = {
    "nodes": _nodes,
    "stats": _stats,
    "rooms": _rooms,
    "members": _members,
    "disconnect": _disconnect,
    "drain": _drain,
    "reload": _reload,
}


# -- what is printed --


def _show(found: Any, as_json: bool, text: str) -> None:
    print(json.dumps(dataclasses.asdict(found)) if as_json else printable(text), flush=True)


def _end(gathered: Gathered[Any]) -> int:
    """Prints which nodes did not answer or refused. Returns the exit status."""
    if gathered.more:
        _say("there are more: raise --limit, or page through them with signal_py.control.Control")
    for node in gathered.silent:
        _say(f"{node} did not answer")
    if gathered.unheard:
        _say(
            f"{gathered.unheard} more nodes of the cluster did not answer, so this may be incomplete: "
            "such a node is slow, was lost a moment ago, or has --control off"
        )
    for refused in gathered.refused:
        _say(f"{refused.node}: {refused.code}: {refused.text}")
    if not gathered.nodes and gathered.complete:
        _say("no node answered: is one running with this NATS server and --prefix, and with --control on?")
        return FAILED
    return 0 if gathered.complete else FAILED


def _say(text: str) -> None:
    """Prints a line to standard error. A node may answer anything, and the reader may be a terminal."""
    say(printable(text))
