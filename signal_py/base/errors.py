"""The exceptions. The text of each is a sentence for the person who has to fix the cause."""


class EngineError(Exception):
    """The engine can't do this: it is not running, or this is not the asyncio loop, thread or process that started it.

    Base class of the other exceptions.
    """


class ConfigError(EngineError, ValueError):
    """A setting can't be used. The text names the setting as it was given, what is wrong, and the fix."""


class DeliveryError(EngineError):
    """A message was not delivered, or may not have been (`timeout`).

    code    a code of signal.v1: no-such-peer, slow-peer, expired, timeout, too-large, denied, rate, bad-request,
            too-many-rooms or unavailable
    reason  a sentence for people; the text of the exception is the code and the reason
    """

    def __init__(self, code: str, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.code}: {self.reason}" if self.reason else self.code
