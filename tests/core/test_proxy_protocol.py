"""The header of the PROXY protocol: what an independent encoder writes, cut anywhere; and what is none."""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_core import probe

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
NONE = bytes(16)
V4 = st.ip_addresses(v=4)
V6 = st.ip_addresses(v=6)
PORT = st.integers(0, 65535)
PAIRS = st.one_of(st.tuples(V4, V4), st.tuples(V6, V6))


def packed(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    """The address in 16 bytes."""
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def v1(source: object, target: object, source_port: int, target_port: int, version: int) -> bytes:
    return f"PROXY TCP{version} {source} {target} {source_port} {target_port}\r\n".encode()


def v2(command: int, family: int, protocol: int, body: bytes) -> bytes:
    return SIGNATURE + bytes([0x20 | command, family << 4 | protocol]) + struct.pack("!H", len(body)) + body


def parse(text: bytes) -> tuple[int, int, bytes, int]:
    return probe.proxy_header_parse(text)


def every_split(header: bytes) -> None:
    """Each part of a header needs more; what follows it does not matter."""
    for end in range(len(header)):
        assert parse(header[:end])[0] == -2, header[:end]
    assert parse(header + b"GET / HTTP/1.1\r\n")[0] == len(header)


@given(PAIRS, PORT, PORT)
def test_version_1(pair: tuple[ipaddress.IPv4Address, ipaddress.IPv4Address], port: int, other: int) -> None:
    header = v1(*pair, port, other, 4 if pair[0].version == 4 else 6)
    assert parse(header) == (len(header), pair[0].version, packed(pair[0]), port)
    every_split(header)


@given(PAIRS, PORT, PORT, st.binary(max_size=300))
def test_version_2(
    pair: tuple[ipaddress.IPv4Address, ipaddress.IPv4Address], port: int, other: int, extensions: bytes
) -> None:
    body = pair[0].packed + pair[1].packed + struct.pack("!HH", port, other)
    header = v2(1, 1 if pair[0].version == 4 else 2, 1, body + extensions)
    assert parse(header) == (len(header), pair[0].version, packed(pair[0]), port)
    every_split(header)


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n",
        v2(0, 0, 0, b""),
        v2(0, 1, 1, bytes(12)),
        v2(0, 15, 15, b""),
        v2(1, 0, 0, b""),
        v2(1, 0, 0, b"\x04\x00\x03abc"),
        v2(1, 3, 1, bytes(216)),
        v2(1, 1, 2, bytes(12)),
    ],
)
def test_headers_without_an_address(header: bytes) -> None:
    """UNKNOWN, LOCAL whatever its family is, UNSPEC, unix sockets and datagrams."""
    assert parse(header) == (len(header), 0, NONE, 0)
    every_split(header)


@pytest.mark.parametrize(
    "text",
    [
        b"GET / HTTP/1.1\r\n",
        b"proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n",
        b"PROXY TCP4 1.1.1.1  2.2.2.2 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 -2\r\n",
        b"PROXY TCP4 1.1.1.1\x00 2.2.2.2 1 2\r\n",
        b"PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY \r\n",
        b"PROXY \n",
        b"PROXY UNKNOWN " + b"x" * 93,
        v2(2, 1, 1, bytes(12)),
        v2(1, 4, 1, bytes(216)),
        v2(1, 1, 3, bytes(12)),
        v2(1, 1, 1, bytes(11)),
        v2(1, 2, 1, bytes(35)),
        v2(1, 3, 1, bytes(215)),
        v2(1, 1, 1, bytes(2048 - 15)),
        SIGNATURE + b"\x11\x11\x00\x0c" + bytes(12),
    ],
)
def test_what_is_no_header(text: bytes) -> None:
    assert parse(text)[0] == -1


def test_limits() -> None:
    """107 bytes of version 1, and 2,048 of version 2."""
    longest = b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n"
    assert parse(longest)[0] == len(longest) == 107
    assert parse(v2(1, 1, 1, bytes(2048 - 16)))[0] == 2048


@given(st.binary(max_size=200))
def test_garbage(text: bytes) -> None:
    """Never more than there is, and -2 only for what can still become a header."""
    result, family, _, port = parse(text)
    assert result in (-1, -2) or 0 < result <= len(text)
    assert family in (0, 4, 6) and port <= 65535
    if result == -2:
        assert SIGNATURE.startswith(text[:12]) or b"PROXY ".startswith(text[:6])


@given(st.sampled_from([SIGNATURE, b"PROXY TCP4 ", b"PROXY TCP6 "]), st.binary(max_size=120))
def test_garbage_behind_a_good_beginning(start: bytes, rest: bytes) -> None:
    result = parse(start + rest)[0]
    assert result in (-1, -2) or 0 < result <= len(start + rest)
