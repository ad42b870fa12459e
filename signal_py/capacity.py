"""How many connections a machine lets one engine hold, which limit bites first, and the command that raises it.

Calculates only: machine.py reads the machine. The figures are measured; docs/doctor.md and docs/sizing.md say how.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from statistics import NormalDist

MIB = 1 << 20
KERNEL = 4185  # bytes of one end of a connection in the kernel
KERNEL_V1 = 1461  # ... of which a control group of version 1 counts so many, as it leaves out the socket itself
CONNECTION = 96 + 8  # bytes of a connection in one room, in the engine
BASE = 28 * 10**6  # bytes of an engine without connections
GROUP_BASE = 24_400_000  # ... of which a control group counts so many: files may belong to another one
ADDRESS_SPACE = (336_172 << 10, 73_856 << 10)  # bytes of address space of an engine, and of each loop
DATA = (57_074 << 10, 8_582 << 10)  # bytes that RLIMIT_DATA counts, likewise
PING = 13.6e-6  # seconds of processor time of a ping and its pong, among a million connections
OWN = 9  # descriptors of a loop with a table of its own, beside an eventfd for each loop and its listeners
SHARED = 16  # descriptors of an engine whose loops share one table, beside those of each loop
SHARED_LOOP = 4  # ... of each loop, beside its listeners
LINK = 1  # descriptors of loop 0 for NATS
THREADS = 8  # of an engine, beside its loops
LISTEN_BACKLOG = 4096  # that the core gives to listen()
MAX_LOOPS = 250
MAX_PORTS = 65535 - 1024 + 1
PAGES_EACH = 1  # pages of socket buffers of a connection that has data under way


@dataclass(frozen=True)
class Bound:
    """A limit that others use, too.

    limit, used  in the unit of the limit
    where        the file that sets it; "" for the machine
    kernel       of memory: bytes that it counts for a connection in the kernel
    """

    name: str
    limit: float
    used: float = 0
    where: str = ""
    kernel: int = KERNEL

    @property
    def left(self) -> float:
        """What is not used."""
        return max(self.limit - self.used, 0)

    def bytes_of(self, connections: int) -> int:
        """Returns the memory that an engine with these connections takes, as this limit counts it."""
        return (GROUP_BASE if self.where else BASE) + connections * (self.kernel + CONNECTION)


@dataclass(frozen=True)
class Machine:
    """The limits of a machine for a process. Infinity for none."""

    descriptors: float = math.inf  # hard RLIMIT_NOFILE
    descriptors_max: float = 1 << 20  # fs.nr_open
    own_tables: bool = True  # each loop may have a descriptor table of its own
    files: Bound = field(default_factory=lambda: Bound("fs.file-max", math.inf))
    memory: tuple[Bound, ...] = ()  # of the machine and of each control group, in bytes
    address_space: float = math.inf  # RLIMIT_AS, in bytes
    data: float = math.inf  # RLIMIT_DATA, in bytes
    tasks: tuple[Bound, ...] = ()  # threads, of the user and of each control group
    conntrack: Bound | None = None  # None: connections are not tracked
    tcp_memory: Bound | None = None  # net.ipv4.tcp_mem, in pages
    ports: int = 28_232  # ephemeral ports
    somaxconn: int = 4096
    processors: float = 1


@dataclass(frozen=True)
class Plan:
    """The settings of an engine that matter here."""

    loops: int = 1
    listeners: int = 1  # addresses that it listens on
    max_connections: int = 0
    nats: bool = False
    ping_interval: float = 25.0
    only_local: bool = False  # it listens on loopback only: its clients, or a proxy, are on this machine


@dataclass(frozen=True)
class Fix:
    """How to raise a limit.

    command  a command, or a setting; "" if there is none
    machine  the machine after it
    plan     the settings after it
    """

    command: str
    machine: Machine
    plan: Plan


@dataclass(frozen=True)
class Limit:
    """A limit on connections.

    key          what it is: descriptors, max-connections, files, memory, …
    name, value  for people
    connections  that it allows; infinity for any number
    effect       "refuses": a client over it is refused. "kills": the kernel kills the engine, or another process.
                 "slows": connections over it wait or cost more
    """

    key: str
    name: str
    value: str
    connections: float
    effect: str = "refuses"


def limits_of(machine: Machine, plan: Plan) -> list[Limit]:
    """Returns all limits, the first to bite first."""
    found = [*_refusing(machine, plan), *_slowing(machine, plan)]
    return sorted(found, key=lambda limit: (limit.effect == "slows", limit.connections))


def first_of(limits: list[Limit]) -> Limit:
    """Returns the limit at which the engine begins to refuse clients, or is killed."""
    return min((limit for limit in limits if limit.effect != "slows"), key=lambda limit: limit.connections)


def _refusing(machine: Machine, plan: Plan) -> Iterator[Limit]:
    each = min(machine.descriptors, machine.descriptors_max)
    tables = f"{plan.loops} loop{'s' * (plan.loops != 1)}" if machine.own_tables else "all loops together"
    yield Limit("descriptors", "open descriptors (RLIMIT_NOFILE)", f"{shown(each)} for {tables}", _held(machine, plan))
    if plan.max_connections:
        value = str(plan.max_connections)
        yield Limit("max-connections", "setting max-connections", value, plan.max_connections)
    if math.isfinite(machine.files.limit):
        needed = plan.loops * own_descriptors(plan)
        value = f"{shown(machine.files.limit)}, {shown(machine.files.used)} used"
        yield Limit("files", "open files of all processes (fs.file-max)", value, max(machine.files.left - needed, 0))
    for bound in machine.memory:
        free = max(bound.left - bound.bytes_of(0), 0)
        value = f"{size(bound.limit)}, {size(bound.used)} used"
        yield Limit(f"memory {bound.name}", bound.name, value, free // (bound.kernel + CONNECTION), "kills")
    for key, name, most, parts in (
        ("address space", "address space (RLIMIT_AS)", machine.address_space, ADDRESS_SPACE),
        ("data", "data segment (RLIMIT_DATA)", machine.data, DATA),
    ):
        if math.isfinite(most):
            yield Limit(key, name, size(most), max(most - parts[0] - parts[1] * plan.loops, 0) // CONNECTION)
    if machine.conntrack:
        value = f"{shown(machine.conntrack.limit)}, {shown(machine.conntrack.used)} used"
        yield Limit("conntrack", "tracked connections (nf_conntrack_max)", value, machine.conntrack.left)
    if plan.only_local:
        value = f"{machine.ports} for each of {plan.listeners} address{'es' * (plan.listeners != 1)}"
        yield Limit("ports", "ports of clients on this machine", value, machine.ports * plan.listeners)


def _slowing(machine: Machine, plan: Plan) -> Iterator[Limit]:
    if machine.tcp_memory:
        pages = machine.tcp_memory.left // PAGES_EACH
        value = f"{shown(machine.tcp_memory.limit)} pages"
        yield Limit("tcp memory", "buffers of sockets (net.ipv4.tcp_mem), data under way", value, pages, "slows")
    queue = min(machine.somaxconn, LISTEN_BACKLOG)
    value = f"{queue} for each of {plan.loops * plan.listeners} listeners"
    name = "connecting at the same moment (net.core.somaxconn)"
    yield Limit("queue", name, value, queue * plan.loops * plan.listeners, "slows")
    if plan.ping_interval:
        name = "processors, for pings of idle connections"
        pings = machine.processors * plan.ping_interval // PING
        yield Limit("processors", name, f"{machine.processors:g}", pings, "slows")


# -- descriptors --


def own_descriptors(plan: Plan) -> int:
    """Returns the descriptors of a loop with its own table before its first connection."""
    return OWN + plan.loops + plan.listeners + (LINK if plan.nats else 0)


def _shared_descriptors(plan: Plan) -> int:
    each = SHARED_LOOP + plan.listeners
    return SHARED + plan.loops * each + (LINK if plan.nats else 0)


def _uneven(loops: int) -> float:
    """Returns the standard deviations that the fullest of the loops is expected to be above the mean (Blom)."""
    return NormalDist().inv_cdf((loops - 0.375) / (loops + 0.25)) if loops > 1 else 0.0


def _held(machine: Machine, plan: Plan) -> float:
    """Returns the connections at which a loop is expected to have no descriptor left.

    The kernel chooses the loop of a connection by a hash, so loops fill unevenly: of m connections a loop, by
    sqrt(m (1 - 1/loops)).
    """
    each = min(machine.descriptors, machine.descriptors_max)
    if not machine.own_tables:
        return max(each - _shared_descriptors(plan), 0)
    room = max(each - own_descriptors(plan), 0)
    if not math.isfinite(room):
        return room
    spread = _uneven(plan.loops) * math.sqrt(1 - 1 / plan.loops)
    root = (math.sqrt(spread * spread + 4 * room) - spread) / 2  # of m + spread * sqrt(m) = room
    return math.floor(plan.loops * root * root)


def _descriptors_for(connections: int, machine: Machine, plan: Plan) -> int:
    """Returns the RLIMIT_NOFILE with which `_held` is at least this number."""
    if not machine.own_tables:
        return connections + _shared_descriptors(plan)
    mean = (connections + 1) / plan.loops
    spread = _uneven(plan.loops) * math.sqrt(mean * (1 - 1 / plan.loops))
    return math.ceil(mean + spread) + own_descriptors(plan)


# -- raising a limit --


def fix_of(limit: Limit, connections: int, machine: Machine, plan: Plan) -> Fix:
    """Returns how to raise a limit to a number of connections."""
    kind = limit.key.split()[0] if limit.key.startswith("memory") else limit.key
    return FIXES[kind](limit, connections, machine, plan)


def _fix_descriptors(limit: Limit, connections: int, machine: Machine, plan: Plan) -> Fix:
    needed = _descriptors_for(connections, machine, plan)
    commands = [f"ulimit -Hn {needed}    (systemd: LimitNOFILE={needed})"] if needed > machine.descriptors else []
    if needed > machine.descriptors_max:
        commands.insert(0, f"sysctl -w fs.nr_open={needed}")
    after = replace(
        machine,
        descriptors=max(machine.descriptors, needed),
        descriptors_max=max(machine.descriptors_max, needed),
    )
    return Fix("; ".join(commands), after, plan)


def _fix_max_connections(limit: Limit, connections: int, machine: Machine, plan: Plan) -> Fix:
    return Fix(f"--max-connections {connections}", machine, replace(plan, max_connections=connections))


def _fix_files(limit: Limit, connections: int, machine: Machine, plan: Plan) -> Fix:
    needed = math.ceil(machine.files.used) + connections + plan.loops * own_descriptors(plan)
    after = replace(machine, files=replace(machine.files, limit=needed))
    return Fix(f"sysctl -w fs.file-max={needed}", after, plan)


def _fix_memory(limit: Limit, connections: int, machine: Machine, plan: Plan) -> Fix:
    bound = next(bound for bound in machine.memory if limit.key == f"memory {bound.name}")
    needed = math.ceil(bound.used) + bound.bytes_of(connections + 1)
    command = f"echo {needed} > {bound.where}    (systemd: MemoryMax={needed})" if bound.where else ""
    command = command or f"a machine with {size(needed)} of memory, or more nodes"
    raised = replace(bound, limit=needed)
    memory = tuple(raised if other is bound else other for other in machine.memory)
    return Fix(command, replace(machine, memory=memory), plan)


def _fix_address_space(limit: Limit, connections: int, machine: Machine, plan: Plan) -> Fix:
    needed = ADDRESS_SPACE[0] + ADDRESS_SPACE[1] * plan.loops + (connections + 1) * CONNECTION
    command = f"ulimit -v {needed // 1024 + 1}    (systemd: LimitAS={needed})"
    return Fix(command, replace(machine, address_space=needed), plan)


def _fix_data(limit: Limit, connections: int, machine: Machine, plan: Plan) -> Fix:
    needed = DATA[0] + DATA[1] * plan.loops + (connections + 1) * CONNECTION
    return Fix(f"ulimit -d {needed // 1024 + 1}    (systemd: LimitDATA={needed})", replace(machine, data=needed), plan)


def _fix_conntrack(limit: Limit, connections: int, machine: Machine, plan: Plan) -> Fix:
    assert machine.conntrack
    needed = math.ceil(machine.conntrack.used) + connections
    after = replace(machine, conntrack=replace(machine.conntrack, limit=needed))
    return Fix(f"sysctl -w net.netfilter.nf_conntrack_max={needed}", after, plan)


def _fix_ports(limit: Limit, connections: int, machine: Machine, plan: Plan) -> Fix:
    """The widest range first, and then more addresses to listen on."""
    ports = MAX_PORTS if connections > machine.ports * plan.listeners else machine.ports
    listeners = max(plan.listeners, math.ceil(connections / ports))
    commands = ['sysctl -w net.ipv4.ip_local_port_range="1024 65535"'] if ports != machine.ports else []
    if listeners > plan.listeners:
        commands.append(f"{listeners} addresses to listen on, such as 127.0.0.2 (--listen)")
    return Fix("; ".join(commands), replace(machine, ports=ports), replace(plan, listeners=listeners))


def _fix_tcp_memory(limit: Limit, connections: int, machine: Machine, plan: Plan) -> Fix:
    assert machine.tcp_memory
    needed = math.ceil(machine.tcp_memory.used) + connections * PAGES_EACH
    command = f'sysctl -w net.ipv4.tcp_mem="{needed // 2} {needed * 3 // 4} {needed}"'
    return Fix(command, replace(machine, tcp_memory=replace(machine.tcp_memory, limit=needed)), plan)


def _fix_queue(limit: Limit, connections: int, machine: Machine, plan: Plan) -> Fix:
    """Above LISTEN_BACKLOG only more loops help."""
    after = replace(machine, somaxconn=max(machine.somaxconn, LISTEN_BACKLOG))
    command = f"sysctl -w net.core.somaxconn={LISTEN_BACKLOG}" if machine.somaxconn < LISTEN_BACKLOG else ""
    return Fix(command, after, plan)


def _fix_processors(limit: Limit, connections: int, machine: Machine, plan: Plan) -> Fix:
    interval = max(plan.ping_interval, math.ceil((connections + 1) * PING / machine.processors))
    return Fix(f"--ping-interval {interval:g}", machine, replace(plan, ping_interval=interval))


FIXES = {
    "descriptors": _fix_descriptors,
    "max-connections": _fix_max_connections,
    "files": _fix_files,
    "memory": _fix_memory,
    "address space": _fix_address_space,
    "data": _fix_data,
    "conntrack": _fix_conntrack,
    "ports": _fix_ports,
    "tcp memory": _fix_tcp_memory,
    "queue": _fix_queue,
    "processors": _fix_processors,
}


def shown(number: float) -> str:
    """Returns a number with separators; "unlimited" for infinity."""
    return f"{int(number):,}" if math.isfinite(number) else "unlimited"


def size(number: float) -> str:
    """Returns a number of bytes in a unit that suits it."""
    if not math.isfinite(number):
        return "unlimited"
    return f"{number / (1 << 30):,.1f} GiB" if number >= 1 << 30 else f"{number / MIB:,.0f} MiB"
