"""Core: settings for which there is no memory."""

import subprocess

import pytest

import kit

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
