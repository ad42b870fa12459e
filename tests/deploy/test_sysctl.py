"""The kernel settings of deploy/sysctl exist, and the kernel takes those that belong to a network namespace."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from proxies import DEPLOY

FILE = DEPLOY / "sysctl" / "90-signal-engine.conf"
OF_THE_MACHINE = {"net.core.netdev_max_backlog", "net.ipv4.tcp_mem"}  # absent in other network namespaces
OF_A_NAMESPACE = ("net.core.somaxconn", "net.ipv4.tcp_max_syn_backlog", "net.ipv4.ip_local")


def settings() -> dict[str, str]:
    """Value by key; a key keeps its "-" if it may be absent."""
    found = re.findall(r"^(-?[\w.-]+) = (.+)$", FILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(found) == len(dict(found)) >= 9
    return dict(found)


def path_of(key: str) -> Path:
    return Path("/proc/sys") / key.replace(".", "/")


def numbers(text: str) -> list[int]:
    return [int(word) for word in re.split(r"[\s,]+", text.strip()) if word]


def test_each_setting_is_explained_and_exists() -> None:
    text = FILE.read_text(encoding="utf-8")
    for key, value in settings().items():
        assert re.search(rf"^# .+\n{re.escape(key)} = ", text, re.MULTILINE), f"{key} has no sentence"
        if key.startswith("-") or (key in OF_THE_MACHINE and not path_of(key).exists()):
            continue
        now = numbers(path_of(key).read_text(encoding="ascii"))
        assert "reserved" in key or len(numbers(value)) == len(now), key


def test_the_kernel_takes_them() -> None:
    """In a network namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    given = {key: value for key, value in settings().items() if key.startswith(OF_A_NAMESPACE)}
    assert len(given) == 4
    script = "".join(f"echo '{value}' > {path_of(key)} && cat {path_of(key)} && " for key, value in given.items())
    done = subprocess.run(["unshare", "--net", "sh", "-c", script + "true"], capture_output=True, text=True, check=True)
    assert [numbers(line) for line in done.stdout.splitlines()] == [numbers(value) for value in given.values()]


def test_they_are_enough_for_a_million() -> None:
    """Also for the limits of descriptors in the proxies' files and in Compose."""
    found = settings()
    assert int(found["fs.nr_open"]) > 2 * 1_000_000 and int(found["fs.file-max"]) > int(found["fs.nr_open"])
    for file in ("nginx/nginx.conf", "compose/compose.yaml"):
        limits = re.findall(r"(?:worker_rlimit_nofile|hard:) (\d+)", (DEPLOY / file).read_text(encoding="utf-8"))
        assert limits and all(int(limit) <= int(found["fs.nr_open"]) for limit in limits)
    for file in ("nginx/signal-engine.conf", "haproxy/haproxy.cfg"):
        backlogs = set(re.findall(r"backlog[ =](\d+)", (DEPLOY / file).read_text(encoding="utf-8")))
        assert backlogs == {found["net.core.somaxconn"]}
    assert int(found["-net.netfilter.nf_conntrack_max"]) > 1_000_000
