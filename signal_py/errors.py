"""What goes wrong, as exceptions. The text of each is a sentence for the person who must mend it."""


class EngineError(Exception):
    """The engine can't do this here: it is not started, or stopped; or this is not the asyncio loop, the thread or the
    process that started it."""


class ConfigError(EngineError, ValueError):
    """A setting can't be used. The text names the setting as it was given, what is wrong, and the mend."""


class DeliveryError(EngineError):
    """A message was not delivered, or may not have been (`timeout`).

    code    one of signal.v1's: no-such-peer, slow-peer, expired, timeout, too-large, denied, rate,
            bad-request, too-many-rooms, unavailable
    reason  the engine's sentence about it, for people; the text of the error is the code and this
    """

    def __init__(self, code: str, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.code}: {self.reason}" if self.reason else self.code
