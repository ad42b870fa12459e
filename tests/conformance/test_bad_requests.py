"""A message that is not signal.v1 gets an ERR; too many of them close the connection."""

import pytest

import kit
from peers import Closed, Peer, WebsocketsPeer

BAD = {
    "nothing": "",
    "only LF": "\n",
    "only payload": "\nTO {me}",
    "a space": " ",
    "unknown verb": "HELLO",
    "an engine's verb": "MSG room {me}\nx",
    "small letters": "to {me}\nx",
    "a verb cut short": "T {me}\nx",
    "a verb too long": "PINGG",
    "a leading space": " PING",
    "a trailing space": "PING ",
    "two spaces": "SUB  room",
    "a tab": "SUB\troom",
    "CR": "PING\r\n",
    "NUL": "PING \0",
    "DEL": "PING \x7f",
    "not ASCII": "PING é",
    "PING of two words": "PING a b",
    "PING with payload": "PING a\nx",
    "SUB of nothing": "SUB",
    "UNSUB of nothing": "UNSUB",
    "PUB of nothing": "PUB\nx",
    "TO nobody": "TO\nx",
    "TO nobody with a ref": "TO ref=1\nx",
    "SUB of two rooms": "SUB a b",
    "SUB with payload": "SUB a\nx",
    "SUB with ttl": "SUB a ttl=5",
    "SUB with an unknown flag": "SUB a absence",
    "SUB with presence twice": "SUB a presence presence",
    "SUB with a value for presence": "SUB a presence=1",
    "UNSUB with payload": "UNSUB a\nx",
    "UNSUB with presence": "UNSUB a presence",
    "PUB with re": "PUB a re=1\nx",
    "PUB with presence": "PUB a presence\nx",
    "PUB with an unknown option": "PUB a size=1\nx",
    "PUB of two rooms": "PUB a b\nx",
    "TO with presence": "TO {me} presence\nx",
    "TO with an unknown option": "TO {me} user=me\nx",
    "TO of two peers": "TO {me} {me}\nx",
    "TO a user with re": "TO @user re=1\nx",
    "TO no user": "TO @\nx",
    "TO a user of many": "TO @*\nx",
    "ref twice": "TO {me} ref=1 ref=1\nx",
    "re twice": "TO {me} re=1 re=2\nx",
    "ttl twice": "TO {me} ttl=1000 ttl=1000\nx",
    "ref of nothing": "TO {me} ref=\nx",
    "ref as a flag": "TO {me} ref\nx",
    "ref of 17": "TO {me} ref=abcdefghijklmnopq\nx",
    "ref with a dash": "TO {me} ref=a-b\nx",
    "ref with a dot": "PUB a ref=a.b\nx",
    "re of nothing": "TO {me} re=\nx",
    "re of 17": "TO {me} re=abcdefghijklmnopq\nx",
    "re with a dot": "TO {me} re=a.b\nx",
    "option in capitals": "TO {me} REF=1\nx",
    "ttl of nothing": "TO {me} ttl=\nx",
    "ttl in words": "TO {me} ttl=soon\nx",
    "ttl below zero": "TO {me} ttl=-1\nx",
    "ttl in fractions": "TO {me} ttl=1.5\nx",
    "ttl of twenty digits": "TO {me} ttl=99999999999999999999\nx",
    **{
        f"{verb} {name}": f"{verb} {room}"
        for verb in ("SUB", "UNSUB", "PUB")
        for name, room in {
            "a room of 129": "x" * 129,
            "a star": "a*",
            "only a star": "*",
            "a greater-than": "a.>",
            "a leading dot": ".a",
            "a trailing dot": "a.",
            "two dots": "a..b",
            "a reserved room": "$x",
            "a user's room": "@user",
        }.items()
    },
    "a head of 513": "PING " + "x" * 508,
    "a head without end": "PUB " + "x" * 5000,
}


@pytest.mark.parametrize("message", BAD.values(), ids=BAD.keys())
def test_a_bad_request_gets_an_err(node: kit.Engine, client: type[Peer], message: str) -> None:
    """And nothing else happens."""
    with client(node.port) as peer:
        peer.send(message.replace("{me}", peer.address))
        got = peer.read()
        assert (got.verb, got.words) == ("ERR", ("bad-request",))
        assert got.payload
        assert peer.settle() == []


@pytest.mark.parametrize(
    "head",
    [
        "SUB a*",
        "UNSUB $x",
        "PUB @user",
        "PUB a size=1",
        "TO {me} ttl=x",
        "TO {me} user=x",
        "SUB a absence",
        "TO {me} re=",
    ],
)
def test_the_ref_of_a_bad_request_is_answered(node: kit.Engine, client: type[Peer], head: str) -> None:
    """With exactly one ERR."""
    with client(node.port) as peer:
        peer.say(head.replace("{me}", peer.address) + " ref=7")
        peer.refused("bad-request", "7")
        assert peer.settle() == []
        peer.join("a")


def test_a_binary_bad_request(node: kit.Engine, client: type[Peer]) -> None:
    with client(node.port) as peer:
        for data in (b"\xff\xfe", b"TO\xa0x\ny", bytes(range(256)), b"TO " + peer.address.encode() + b" \n"):
            peer.send(data)
            peer.refused("bad-request")


@pytest.mark.parametrize(
    "address", ["x", "x.", ".x", "a.b.c", "A.b", "a.B", "a" * 17 + ".b", "a." + "b" * 33, "a.b-", "é.x"]
)
def test_bad_addresses(node: kit.Engine, client: type[Peer], address: str) -> None:
    with client(node.port) as peer:
        peer.say(f"TO {address} ref=1", "x")
        got = peer.read()
        assert got.verb == "ERR" and got.words[0] in ("bad-request", "no-such-peer")
        assert peer.settle() == []


def test_a_head_of_512_bytes(node: kit.Engine, client: type[Peer]) -> None:
    """The longest good head."""
    with client(node.port) as peer:
        peer.say("PING " + "x" * 507)
        peer.expect("PONG", "x" * 507)


def test_100_bad_requests_close_with_1008(node: kit.Engine, client: type[Peer]) -> None:
    """Within 10 s; 99 don't."""
    with client(node.port) as peer:
        for _ in range(99):
            peer.send("NONSENSE")
        assert [one.words for one in peer.settle()] == [("bad-request",)] * 99
        peer.send("NONSENSE")
        assert peer.ended() == 1008


def test_other_errors_do_not_close(node: kit.Engine) -> None:
    """Errors of well-formed messages don't count."""
    with WebsocketsPeer(node.port) as peer:
        for _ in range(150):
            assert peer.ask(f"TO {node.node}.0", "x") == "no-such-peer"
        assert peer.settle() == []


def test_client_libraries_get_the_close_code(node: kit.Engine, client: type[Peer]) -> None:
    """A protocol error ends in a Close frame that the libraries can read."""
    with client(node.port) as peer:
        peer.send(b"x" * (65536 + 1))
        with pytest.raises(Closed) as closed:
            peer.receive(10)
        assert closed.value.code == 1009
