"""Asks `doctor` and then connects to an engine until there are no ports left, in a network namespace of its own with
few ports: `python few_ports.py LOW HIGH`. Prints JSON: what was foretold, and how many connections there were.

The exit status is 77 if this user may make no network namespace, or set its ports."""

import ctypes
import errno
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
SKIP = 77


def enter_namespace() -> None:
    """Moves this process into a new network namespace, whose loopback is up."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0 and libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        sys.exit(SKIP)
    with socket.socket() as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def main(low: str, high: str) -> None:
    """Needs the folder of the support files in PYTHONPATH."""
    try:
        enter_namespace()
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"{low} {high}", encoding="ascii")
    except PermissionError:  # in a user namespace that maps no root
        sys.exit(SKIP)
    import kit
    from wire import opened

    settings = {"listen": "127.0.0.1:9999", "nats": "off", "loops": 1}
    command = [*kit.python(), "-m", "signal_py", "doctor", "--json", *kit.flags(settings)]
    asked = subprocess.run(command, capture_output=True, check=True, env=kit.clean_environment())
    report = json.loads(asked.stdout)
    with kit.engine(**settings) as engine, kit.many_descriptors():
        clients = []
        try:
            while len(clients) < int(high):
                clients.append(opened(engine.port)[0])
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
        held = engine.total("connections")
        for client in clients:
            client.socket.close()
    print(json.dumps({"first": report["first"], "connections": report["connections"], "held": held}))


if __name__ == "__main__":
    os.chdir("/")
    main(*sys.argv[1:])
