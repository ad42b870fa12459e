"""The engine module: what is made of settings, and what becomes of it without memory."""

import subprocess

import pytest

import kit

# A list of proxies that says that it has two thousand million, where 2 GiB of addresses is all there is.
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


@pytest.mark.skipif(kit.SANITIZED, reason="a sanitizer takes more addresses than this by itself")
def test_settings_for_which_there_is_no_memory() -> None:
    """MemoryError; what was made before is freed, and another one can be made."""
    told = subprocess.check_output([*kit.python(), "-c", TOO_MANY], text=True, timeout=kit.PATIENCE, cwd="/")
    assert told == "no memory for the engine's settings\n1\n"
