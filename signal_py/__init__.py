"""signal-engine for Python programs. Engine embeds a node; signal_py.control inspects and controls a cluster.

from signal_py import Engine

async with Engine(listen="127.0.0.1:0", nats="off") as engine:
    await engine.publish("lobby", b"hello")
"""

from signal_py.auth.grants import Grant, Refusal, Request, Rights
from signal_py.auth.headers import Headers
from signal_py.base.errors import ConfigError, DeliveryError, EngineError, ReloadError
from signal_py.base.version import VERSION as __version__
from signal_py.config.changes import Change, Reloaded
from signal_py.engine import Engine
from signal_py.local_peer import Message, Peer, Presence

__all__ = [
    "Change",
    "ConfigError",
    "DeliveryError",
    "Engine",
    "EngineError",
    "Grant",
    "Headers",
    "Message",
    "Peer",
    "Presence",
    "Refusal",
    "ReloadError",
    "Reloaded",
    "Request",
    "Rights",
    "__version__",
]
