"""What `doctor` reads, from folders that are made up, and of this machine."""

import math
import os
import platform
import resource
from pathlib import Path

from signal_py.base.resources import resources
from signal_py.capacity import KERNEL_V1, THREADS, Bound, Machine, Plan
from signal_py.diagnosis import FAULT, NOTE, OK, diagnose, openssl_version, try_loopback
from signal_py.machine import OWN_KERNEL, read_machine

FILES = {
    "proc/self/cgroup": "0::/outer/inner\n",
    "proc/self/mountinfo": "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    "proc/self/status": "Name:\tx\nRssAnon:\t      10 kB\nCapEff:\t0000000000000000\n",
    "proc/meminfo": "MemTotal:       4000 kB\nMemFree:  1 kB\nMemAvailable:    400 kB\n",
    "proc/sys/fs/nr_open": "1048576\n",
    "proc/sys/fs/file-nr": "1300\t0\t50000\n",
    "proc/sys/net/ipv4/ip_local_port_range": "1000\t1999\n",
    "proc/sys/net/ipv4/ip_local_reserved_ports": "999-1001,1500,3000-4000\n",
    "proc/sys/net/ipv4/tcp_mem": "10\t20\t30\n",
    "proc/sys/net/core/somaxconn": "128\n",
    "proc/sys/net/netfilter/nf_conntrack_max": "262144\n",
    "proc/sys/net/netfilter/nf_conntrack_count": "44\n",
    "proc/net/sockstat": "sockets: used 59\nTCP: inuse 10 orphan 0 tw 1 alloc 34 mem 7\n",
    "sys/fs/cgroup/outer/memory.max": "5000000\n",
    "sys/fs/cgroup/outer/memory.current": "3000000\n",
    "sys/fs/cgroup/outer/memory.stat": "anon 1\ninactive_file 1000000\n",
    "sys/fs/cgroup/outer/inner/memory.max": "max\n",
    "sys/fs/cgroup/outer/inner/memory.high": "4000000\n",
    "sys/fs/cgroup/outer/inner/pids.max": "20\n",
    "sys/fs/cgroup/outer/inner/pids.current": "15\n",
    "sys/fs/cgroup/outer/cpu.max": "50000 100000\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never\n",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "hpet\n",
}
VERSION_1 = {
    "proc/self/cgroup": "4:memory:/a\n8:pids:/b\n",
    "proc/self/mountinfo": "30 20 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "31 20 0:26 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "7000000\n",
    "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "2000000\n",
    "sys/fs/cgroup/memory/a/memory.stat": "inactive_file 5\ntotal_inactive_file 500000\n",
    "sys/fs/cgroup/pids/b/pids.max": "max\n",
}


def made(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="ascii")
    return root


def test_what_is_read(tmp_path: Path) -> None:
    machine = read_machine(made(tmp_path, FILES))
    assert machine.descriptors_max == 1048576 and machine.somaxconn == 128
    assert machine.files == Bound("fs.file-max", 50000, 1300)
    assert machine.ports == 1000 - 3
    assert machine.conntrack == Bound("nf_conntrack_max", 262144, 44)
    assert machine.tcp_memory == Bound("net.ipv4.tcp_mem", 30, 7)
    assert machine.processors == 0.5
    inner = tmp_path / "sys/fs/cgroup/outer/inner"
    own = OWN_KERNEL + (10 << 10)
    assert [(bound.limit, bound.used, bound.where) for bound in machine.memory] == [
        (4000 << 10, (3600 << 10) - own, ""),
        (5000000, 2000000 - own, str(inner.parent / "memory.max")),
        (4000000, 0, str(inner / "memory.high")),
    ]
    assert [(bound.limit, bound.used) for bound in machine.tasks if bound.where] == [(20, 15)]


def test_control_groups_of_version_1(tmp_path: Path) -> None:
    machine = read_machine(made(tmp_path, VERSION_1))
    assert [(bound.limit, bound.used, bound.kernel) for bound in machine.memory] == [(7000000, 1500000, KERNEL_V1)]


def test_root_has_no_limit_of_open_files(tmp_path: Path) -> None:
    root = made(tmp_path, FILES | {"proc/self/status": "CapEff:\t000001ffffffffff\n"})
    assert read_machine(root).files.limit == math.inf


def test_without_proc(tmp_path: Path) -> None:
    """Nothing is known, so nothing is a limit, except of this process."""
    machine = read_machine(tmp_path)
    assert machine.memory == () and machine.files.limit == machine.descriptors_max == math.inf
    assert machine.conntrack is machine.tcp_memory is None
    levels = {one.name: one.level for one in diagnose(machine, Plan(), [], tmp_path)}
    assert levels["/proc"] == NOTE and FAULT not in levels.values()


def test_this_machine() -> None:
    machine = read_machine()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert machine.descriptors == (math.inf if hard == resource.RLIM_INFINITY else hard)
    assert machine.processors <= len(os.sched_getaffinity(0)) and resources().processors >= machine.processors
    assert machine.memory[0].limit == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert try_loopback(2) == ""


def test_what_is_found(tmp_path: Path) -> None:
    machine = read_machine(made(tmp_path, FILES))
    found = {one.name: one for one in diagnose(machine, Plan(loops=2), [], tmp_path)}
    assert found["threads"].level == FAULT and f"needs {2 + THREADS}" in found["threads"].text
    assert "pids.max" in found["threads"].fix
    assert found["huge pages"].level == found["clock"].level == NOTE
    assert found["epoll"].level == found["eventfd"].level == OK
    assert platform.machine() in found["processor"].text
    assert openssl_version() in found["OpenSSL"].text


def test_shared_tables_are_a_note() -> None:
    found = {one.name: one.level for one in diagnose(Machine(own_tables=False), Plan(), [])}
    assert found["descriptor tables"] == NOTE
