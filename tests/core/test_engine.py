"""Core: settings for which there is no memory, and statistics once it has ended."""

import socket
import subprocess
from typing import Any

import pytest

import kit
import wire
from signal_core.engine import Core
from signal_py.config.settings import Config
from signal_py.runtime import core_settings

# A list of proxies whose length is 2e9, in a process that may map no more than 2 GiB.
TOO_MANY = """
import gc, resource
from signal_core.engine import Core
from signal_py.config.settings import Config
from signal_py.runtime import core_settings

class TooMany(list):
    def __len__(self):
        return 2_000_000_000

settings = core_settings(Config(loops=1, nats=("off",)), "a", False, False)
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, resource.RLIM_INFINITY))
try:
    Core(settings | {"origins": ["https://a"], "proxies": TooMany([(bytes(16), 96)])})
except MemoryError as error:
    print(error)
gc.collect()
print(Core(settings | {"origins": ["https://a"], "proxies": [(bytes(16), 96)]}).nloops)
"""


@pytest.mark.skipif(kit.SANITIZED, reason="a sanitizer maps more than this")
def test_settings_for_which_there_is_no_memory() -> None:
    """MemoryError. What was allocated before is freed, and another Core can be made."""
    output = subprocess.check_output([*kit.python(), "-c", TOO_MANY], text=True, timeout=kit.PATIENCE, cwd="/")
    assert output == "no memory for the engine's settings\n1\n"


def test_what_was_measured_since_the_last_statistics_is_not_lost() -> None:
    core, port = Core(core_settings(Config(loops=1, nats=("off",)), "a", False, False)), kit.free_port()
    core.start([(socket.AF_INET, "127.0.0.1", port, 0)])
    wire.refusal(port, b"PUT / HTTP/1.1\r\n\r\n", 405)
    core.stop()
    core.join()
    stats: Any = core.stats()
    *counts, _ = stats["histograms"][0]["handshake"]
    assert sum(counts) == stats["total"]["handshakes_refused"] == 1
