"""What goes wrong, as exceptions. The text of each is a sentence for the person who must mend it."""


class EngineError(Exception):
    """The engine is not in a state to do this: not started, stopped, or in a child made by fork()."""


class ConfigError(EngineError, ValueError):
    """A setting can't be used. The text names the setting as it was given, what is wrong, and the mend."""


class DeliveryError(EngineError):
    """A message was not delivered, or may not have been (`timeout`).

    `code` is one of signal.v1's: no-such-peer, slow-peer, expired, timeout, too-large, denied, rate,
    bad-request, too-many-rooms, unavailable.
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code
