"""permessage-deflate (RFC 7692): what is compressed, for whom, and what is refused."""

import ctypes.util
import itertools
import json
import os
import re
import subprocess
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import connect

import kit
from peers import ledgers_hold
from wire import BINARY, CONT, PING, TEXT, Wire, deflated, frame, fresh, opened

MOST = 65536
OFFER = "Sec-WebSocket-Extensions: permessage-deflate"
TEXT_2K = json.dumps([{"candidate": f"candidate:{i} 1 udp 2122260223 192.0.2.{i} 5{i:04}"} for i in range(40)]).encode()


@pytest.fixture(scope="module")
def engine() -> Iterator[kit.Engine]:
    with kit.engine(nats="off", loops=2, deflate="on", max_message=MOST) as engine:
        yield engine
        ledgers_hold(engine.stats()["total"])


def client(engine: kit.Engine, room: str = "", offer: str = OFFER, window: int = 15) -> tuple[Wire, str]:
    """A client that negotiates compression, and its address. Without an offer it does not."""
    path = f"/?room={room}" if room else "/"
    wire, address = opened(engine.port, path, *[offer] if offer else [])
    wire.window = window if offer else 0
    return wire, address


def relayed(wire: Wire, verb: str, payload: bytes) -> int:
    """Reads a message with this payload; returns the bytes that it had compressed, or 0."""
    got = wire.read_frame()
    head, body = got.payload.split(b"\n", 1)
    assert head.startswith(verb.encode()) and body == payload
    return got.deflated


def changed(engine: kit.Engine, name: str, before: int) -> int:
    return engine.total(name) - before


@pytest.mark.parametrize("loops", range(3))  # the peers are on one loop or on two
def test_a_long_message_is_compressed_for_a_peer_that_offers_it(engine: kit.Engine, loops: int) -> None:
    a, _ = client(engine)
    b, b_address = client(engine)
    c, c_address = client(engine, offer="")
    with a, b, c:
        for payload in (TEXT_2K, TEXT_2K[:300]):
            a.send(frame(TEXT, f"TO {b_address}\n".encode() + payload))
            assert 0 < relayed(b, "FROM", payload) < len(payload)
            a.send(frame(TEXT, f"TO {c_address}\n".encode() + payload))
            assert relayed(c, "FROM", payload) == 0


def test_a_short_message_and_one_that_would_not_shrink_go_plain(engine: kit.Engine) -> None:
    a, _ = client(engine)
    b, address = client(engine)
    head = f"TO {address}\n".encode()
    with a, b:
        for payload in (b"x" * (255 - len(f"FROM {address}\n")), os.urandom(2000)):
            a.send(frame(BINARY, head + payload))
            assert relayed(b, "FROM", payload) == 0
        payload = b"x" * (256 - len(f"FROM {address}\n"))
        a.send(frame(BINARY, head + payload))
        assert relayed(b, "FROM", payload) > 0


@pytest.mark.parametrize("bits", range(8, 16))
def test_a_small_window_is_enough_for_a_client_that_has_it(engine: kit.Engine, bits: int) -> None:
    """A decompressor with that window reads every message, also one that repeats itself over a longer distance."""
    room = fresh("window")
    a, _ = client(engine, room)
    b, address = client(engine, room, f"{OFFER}; server_max_window_bits={bits}", bits)
    block = os.urandom(600).hex().encode()
    with a, b:
        for payload in (TEXT_2K, block * 40, block[:300] * 3, TEXT_2K * 15):
            a.send(frame(TEXT, f"TO {address}\n".encode() + payload))
            assert relayed(b, "FROM", payload) > 0
            a.send(frame(TEXT, f"PUB {room}\n".encode() + payload))
            relayed(b, "MSG", payload)


def test_a_room_message_is_compressed_once_a_loop_and_only_for_members_that_offer_it(engine: kit.Engine) -> None:
    room, plain_room = fresh("room"), fresh("plain")
    a, _ = client(engine)
    offering = [client(engine, room)[0] for _ in range(8)]
    others = [client(engine, name, offer="")[0] for _ in range(8) for name in (room, plain_room)]
    before = engine.total("messages_deflated")
    a.send(frame(TEXT, f"PUB {room}\n".encode() + TEXT_2K))
    a.send(frame(TEXT, f"PUB {plain_room}\n".encode() + TEXT_2K))
    assert all(relayed(wire, "MSG", TEXT_2K) > 0 for wire in offering)
    assert all(relayed(wire, "MSG", TEXT_2K) == 0 for wire in others)
    assert 1 <= changed(engine, "messages_deflated", before) <= 2
    for wire in (a, *offering, *others):
        wire.socket.close()


@pytest.mark.parametrize("cuts", [[], [0], [1], [100, 101], list(range(50, 400, 50))])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_compressed_message_is_taken_whole_or_in_fragments(engine: kit.Engine, cuts: list[int], opcode: int) -> None:
    a, address = client(engine)
    payload = TEXT_2K if opcode == TEXT else TEXT_2K + bytes(range(256))
    data = deflated(f"TO {address}\n".encode() + payload)
    edges = [0, *cuts, len(data)]
    with a:
        for i, (start, end) in enumerate(itertools.pairwise(edges)):
            last = end == len(data)
            a.send(frame(CONT if i else opcode, data[start:end], fin=last, rsv=0 if i else 4))
            if not last:
                a.send(frame(PING, b"between"))
                assert a.read_frame().payload == b"between"
        assert relayed(a, "FROM", payload) > 0


def test_final_blocks_within_a_message_are_read(engine: kit.Engine) -> None:
    """RFC 7692 §7.2.3.4: a final block, then more, or only the byte that completes it."""
    a, address = client(engine)
    head = f"TO {address}\n".encode()
    state = zlib.compressobj(wbits=-15)
    final = state.compress(head + b"one") + state.flush()
    with a:
        for data, payload in ((final + b"\0", b"one"), (final, b"one"), (final + deflated(b"two"), b"onetwo")):
            a.send(frame(TEXT, data, rsv=4))
            relayed(a, "FROM", payload)


BROKEN = {
    "no block": b"",
    "an unknown block": b"\xff\xff\xff",
    "cut off": deflated(TEXT_2K)[:-20],
    "a distance before the start": bytes.fromhex("4b0400") + b"\x03\x13\x00",
    "not UTF-8": deflated(b"PING \xc3\x28"),
    "a character that is cut": deflated(b"PING \xe2\x82"),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=list(BROKEN))
def test_what_is_broken_closes_with_1007(engine: kit.Engine, data: bytes) -> None:
    before = engine.total("protocol_errors")
    a, _ = client(engine)
    with a:
        a.send(frame(TEXT, data, rsv=4))
        assert a.read_closed() == 1007
    assert changed(engine, "protocol_errors", before) == 1


def test_text_is_validated_once_it_is_decompressed(engine: kit.Engine) -> None:
    """Compressed bytes of a text message are no UTF-8, and those of a fragment may end within a character."""
    a, address = client(engine)
    text = "Grüße, 世界 🌍 " * 40
    data = deflated(f"TO {address}\n{text}".encode())
    with a:
        a.send(frame(TEXT, data[:33], fin=False, rsv=4) + frame(CONT, data[33:]))
        relayed(a, "FROM", text.encode())


@pytest.mark.parametrize(
    "data",
    [
        frame(PING, b"x", rsv=4),
        frame(TEXT, b"x", rsv=2),
        frame(TEXT, b"x", rsv=6),
        frame(TEXT, deflated(b"PING"), fin=False, rsv=4) + frame(CONT, b"", rsv=4),
    ],
    ids=["control", "RSV2", "RSV1 and RSV2", "continuation"],
)
def test_a_reserved_bit_where_none_belongs_closes_with_1002(engine: kit.Engine, data: bytes) -> None:
    a, _ = client(engine)
    with a:
        a.send(data)
        assert a.read_closed() == 1002


def test_rsv1_without_negotiation_closes_with_1002(engine: kit.Engine) -> None:
    a, _ = client(engine, offer="")
    with a:
        a.send(frame(TEXT, deflated(b"PING"), rsv=4))
        assert a.read_closed() == 1002


def test_max_message_counts_decompressed_bytes(engine: kit.Engine) -> None:
    a, address = client(engine)
    head = f"TO {address}\n".encode()
    with a:
        a.send(frame(BINARY, deflated(head + bytes(MOST)), rsv=4))
        assert relayed(a, "FROM", bytes(MOST)) > 0
        a.send(frame(BINARY, deflated(head + bytes(MOST + 1)), rsv=4))
        assert a.read_closed() == 1009


def test_a_bomb_is_refused_while_it_is_decompressed(engine: kit.Engine) -> None:
    """1 GB in a megabyte does not fit a frame; 60 MB in 60 KB do. The engine's memory stays as it was."""
    bomb = deflated(bytes(60 << 20), 9)
    assert len(bomb) < MOST
    before = engine.total("inflate_refused")
    for _ in range(3):
        a, _ = client(engine)
        with a:
            a.send(frame(BINARY, bomb, rsv=4))
            assert a.read_closed() == 1009
    total = engine.stats()["total"]
    assert total["inflate_refused"] - before == 3
    assert total["input_bytes"] == 0
    assert resident(engine) < 200 << 20


def resident(engine: kit.Engine) -> int:
    """Peak of the engine's memory, in bytes."""
    with open(f"/proc/{engine.pid}/status") as file:
        return int(re.search(r"VmHWM:\s+(\d+) kB", file.read())[1]) << 10  # type: ignore[index]


def test_the_memory_for_compression_is_bounded(engine: kit.Engine) -> None:
    a, address = client(engine)
    with a:
        a.send(frame(TEXT, deflated(f"TO {address}\n".encode() + TEXT_2K * 20), rsv=4))
        assert relayed(a, "FROM", TEXT_2K * 20) > 0
    assert 0 < engine.total("zlib_bytes") <= 2 * 350_000


@pytest.mark.parametrize("offer", [{}, {"server_max_window_bits": 9, "client_max_window_bits": 10}])
def test_the_websockets_package_exchanges_compressed_messages(engine: kit.Engine, offer: dict[str, int]) -> None:
    """Many messages of all sizes, from several clients at once."""
    sizes = [0, 1, 255, 256, 257, 1000, 16384, 16385, 40000, 65000]

    def exchange(seed: int) -> int:
        factory = ClientPerMessageDeflateFactory(**offer)  # type: ignore[arg-type]
        url = f"ws://127.0.0.1:{engine.port}/"
        with connect(url, compression=None, extensions=[factory], max_size=None) as ws:
            address = str(ws.recv()).split("\n")[0].split(" ")[1]
            for size in sizes:
                payload = (str(seed) * size)[: size // 2] + os.urandom(size).hex()[: size - size // 2]
                ws.send(f"TO {address}\n{payload}")
                assert ws.recv() == f"FROM {address}\n{payload}"
        return len(sizes)

    before = engine.total("messages_inflated")
    with ThreadPoolExecutor(4) as pool:
        total = sum(pool.map(exchange, range(4)))
    assert changed(engine, "messages_inflated", before) == total


def test_deflate_off_negotiates_nothing() -> None:
    with kit.engine(nats="off") as engine, Wire(engine.port) as wire:
        assert "sec-websocket-extensions" not in wire.upgrade("/", OFFER).headers
        assert engine.total("zlib_bytes") == 0


def test_without_zlib_the_fix_is_named() -> None:
    assert ctypes.util.find_library("z")
    code = (
        "import sys, signal_core.engine as engine; engine.deflate_loads = lambda: False;"
        "from signal_py.cli.main import main; sys.argv[1:] = ['check', '--deflate', 'on']; sys.exit(main())"
    )
    done = subprocess.run([*kit.python(), "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--deflate on needs the library zlib" in done.stdout + done.stderr
