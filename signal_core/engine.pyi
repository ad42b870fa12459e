"""The core's interface for Python. Any thread may call its methods. In a child made by fork() each raises CoreError."""

from collections.abc import Sequence

COUNTERS: tuple[tuple[str, str, str], ...]
"""Name, kind ("counter" or "gauge") and help of every counter, in the order of `stats()`."""

class CoreError(Exception):
    """The core can't do this: it is not started, is stopped, belongs to another process (fork), or a loop is stuck."""

class TlsError(Exception):
    """TLS is impossible with these files. `part`: "ca", "cert", "key" or "library"; the text is OpenSSL's reason."""

    part: str

def tls_try(ca: str, cert: str, key: str) -> None:
    """Checks that TLS works with these files. Raises TlsError. "" means the system's CA, and no certificate or key."""

def deflate_loads() -> bool:
    """Whether zlib is on this machine, which compression needs. Loads it."""

def malloc_steadily() -> None:
    """Sets up malloc of the whole process so that small freed blocks are merged one by one, never millions at once. For
    the daemon only."""

def malloc_trim() -> None:
    """Returns the process's free memory to the system. Only after a "freed" mail. Blocks, with the GIL released."""

def code_sentence(code: str) -> str:
    """The explanation that a client gets with an ERR of this code."""

def may_close_with(code: int) -> bool:
    """Whether a Close frame may carry this code: 1000 to 1003, 1007 to 1014, 3000 to 4999 (RFC 6455 §7.4)."""

class Core:
    """The loops, and the two mailboxes from them to Python.

    Mails to the control thread (`control_drain`):
    ("link-want", reason), ("link-info", json: bytes), ("link-up",), ("link-down", reason),
    ("link-taken", node), ("link-error", text, untold: int), ("log", level, text),
    ("ask", id, renewal: bool, lines: bytes), which `verdicts` answers,
    ("listed", number, next: int, text), which answers `inquire`,
    ("freed",): much memory has become free; `malloc_trim` can return it.

    Mails to the embedding program (`local_peer_drain`):
    ("message", room | None, sender, ref | None, re | None, user | None, payload: bytes, binary: bool),
    ("connect", peer, user, rights: bytes), ("disconnect", peer, user, rights: bytes, code: int),
    ("receipt", ref, code),
    ("presence", list of messages MEMBERS, JOIN, LEAVE as clients get them).
    """

    address: str
    control_fd: int
    local_peer_fd: int

    def __init__(self, settings: dict[str, object]) -> None: ...
    def start(self, listen: Sequence[tuple[int, str, int, int]]) -> None: ...
    def listener_add(self, family: int, ip: str, port: int, scope: int, v6only: bool) -> int: ...
    def listener_share(self, fd: int, inherited: bool) -> int: ...
    def listener_remove(self, number: int) -> None: ...
    def stop(self) -> None: ...
    def drain(self, ms: int) -> None: ...
    def reload(self, settings: dict[str, object]) -> bool:
        """Puts other settings in force, all or none. loops, node, prefix and cluster keep their values.

        Waits up to 2 s for the loops. False: a loop does not respond; it takes the settings when it does. Raises
        MemoryError, ValueError, and CoreError if a loop has not taken the settings of the reload before.
        """
    @property
    def nloops(self) -> int: ...
    @property
    def sockets(self) -> int: ...
    @property
    def nodes(self) -> int: ...
    @property
    def joins_wait(self) -> bool: ...
    @property
    def local_peer_rooms(self) -> tuple[str, ...]: ...
    def join(self) -> None: ...
    def control_drain(self) -> list[tuple[object, ...]]: ...
    def link_dial(self, family: int, ip: str, port: int) -> None: ...
    def link_fail(self) -> None: ...
    def link_leave(self) -> None: ...
    def link_info_taken(self) -> None: ...
    def link_connect(
        self, line: bytes, max_payload: int, tls: tuple[str, bool, str, str, str] | None
    ) -> None: ...
    def inquire(self, loop: int, what: int, *, number: int, cursor: int, value: int, data: bytes) -> None: ...
    def verdicts(self, answers: list[tuple[int, int, bytes, bytes, int]]) -> None: ...
    def local_peer_drain(self, limit: int) -> list[tuple[object, ...]]: ...
    def send(
        self, target: str, payload: bytes, binary: bool, *, ref: str | None, re: str | None, ttl_ms: int
    ) -> str: ...
    def publish(self, room: str, payload: bytes, binary: bool, ref: str | None, ttl_ms: int) -> str: ...
    def join_room(self, room: str, ref: str, presence: bool) -> str | None: ...
    def leave_room(self, room: str) -> str: ...
    def disconnect(self, peer: str, code: int) -> bool: ...
    def in_force(self, loop: int) -> dict[str, object]:
        """The settings that a loop has now. Raises ValueError if there is no such loop."""
    def stats(self) -> dict[str, object]: ...
