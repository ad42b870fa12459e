"""Opening handshakes as bytes, and what the parser of signal_core returns for them."""

from signal_core import probe
from wire import KEY

HEADERS = {
    "Host": "server.example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def request(line: str = "GET / HTTP/1.1", without: tuple[str, ...] = (), extra: str = "", **changed: str) -> bytes:
    """A good handshake with these changes; `changed` has headers by name, with '_' for '-'."""
    headers = {name: value for name, value in HEADERS.items() if name not in without}
    headers.update({name.replace("_", "-"): value for name, value in changed.items()})
    lines = [line, *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n" + extra + "\r\n").encode("latin-1")


def plain(line: str, host: str = "Host: a\r\n", extra: str = "") -> bytes:
    """An HTTP request that asks for no upgrade."""
    return f"{line}\r\n{host}{extra}\r\n".encode()


def status_of(data: bytes) -> int:
    """The status of the answer to a complete head; 0: upgraded."""
    verdict, fields = probe.upgrade_parse(data)
    assert verdict == (len(data) if fields["status"] in (0, 200, 204) else -1)
    return fields["status"]


def accepted(data: bytes) -> dict:
    """The fields of a handshake, which must be good."""
    verdict, fields = probe.upgrade_parse(data)
    assert (verdict, fields["status"]) == (len(data), 0)
    return fields
