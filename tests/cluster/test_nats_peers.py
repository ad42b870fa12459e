"""NATS clients as peers: exactly what they receive, send and answer."""

from queue import Empty

import nats.errors
import pytest

import kit
from peers import BarePeer, several
from wire import LIMIT, fresh

from .bus import Bus

# -- what a NATS client receives --


@pytest.mark.parametrize("payload", ["", "12:00", "κόσμε\n\r\n", bytes(range(256)), b""])
def test_pub_as_nats_sees_it(nodes: list[kit.Engine], bus: Bus, payload: str | bytes) -> None:
    room = fresh("a.")
    queue = bus.subscribe(f"signal.room.{room}")
    for node in nodes:
        with BarePeer(node.port) as peer:
            peer.say(f"PUB {room}", payload)
            msg = queue.get(timeout=LIMIT)
            assert msg.subject == f"signal.room.{room}"
            assert msg.data == (payload if isinstance(payload, bytes) else payload.encode())
            typed = {"Signal-Type": "binary"} if isinstance(payload, bytes) else {}
            assert msg.headers == {"Signal-From": peer.address} | typed
            assert msg.reply == ""


def test_the_reply_subject_is_set_exactly_with_a_ref(nodes: list[kit.Engine], bus: Bus) -> None:
    queue = bus.subscribe("signal.room.asked")
    with BarePeer(nodes[1].port) as peer:
        for i in range(5):
            peer.say(f"PUB asked ref=R{i}", "x")
            peer.say("PUB asked", "x")
            assert queue.get(timeout=LIMIT).reply == f"signal.peer.{peer.address}.R{i}"
            assert queue.get(timeout=LIMIT).reply == ""


def test_the_ttl_header_is_set_if_the_client_gave_one(nodes: list[kit.Engine], bus: Bus) -> None:
    queue = bus.subscribe("signal.room.hurry")
    with BarePeer(nodes[2].port) as peer:
        peer.say("PUB hurry ttl=4000", "x")
        headers = queue.get(timeout=LIMIT).headers or {}
        assert headers.keys() == {"Signal-From", "Signal-Ttl"} and 0 < int(headers["Signal-Ttl"]) <= 4000


def test_to_as_nats_sees_it(nodes: list[kit.Engine], bus: Bus) -> None:
    """The message comes on the peer's subject, the receipt on the reply subject."""
    with BarePeer(nodes[0].port) as a, BarePeer(nodes[1].port) as b:
        there, back = bus.subscribe(f"signal.peer.{b.address}"), bus.subscribe(f"signal.peer.{a.address}.>")
        a.say(f"TO {b.address} ref=q", b"\x00\xff")
        msg = there.get(timeout=LIMIT)
        assert (msg.data, msg.reply) == (b"\x00\xff", f"signal.peer.{a.address}.q")
        assert msg.headers == {"Signal-From": a.address, "Signal-Type": "binary"}
        receipt = back.get(timeout=LIMIT)
        assert (receipt.subject, receipt.data) == (f"signal.peer.{a.address}.q", b"")
        assert (receipt.headers or {})["Signal-Receipt"] == "ok"
        a.expect("OK", "q")
        b.say(f"TO {a.address} re=q", "yes")
        answer = back.get(timeout=LIMIT)
        assert (answer.subject, answer.data, answer.reply) == (f"signal.peer.{a.address}.q", b"yes", "")
        assert answer.headers == {"Signal-From": b.address}


def test_local_messages_to_a_peer_stay_local(nodes: list[kit.Engine], bus: Bus) -> None:
    """TO within a node does not use NATS. A room's message is published once."""
    queue, direct = bus.subscribe("signal.room.>"), bus.subscribe("signal.peer.>")
    with several(nodes[2].port, 5, "home") as peers:
        for peer in peers[1:]:
            assert peers[0].ask(f"TO {peer.address}", "local") == "ok"
        assert peers[0].ask("PUB home", "once") == "ok"
        msg = queue.get(timeout=LIMIT)
        assert (msg.subject, msg.data) == ("signal.room.home", b"once")
        bus.flush()
        for one in (queue, direct):
            with pytest.raises(Empty):
                one.get_nowait()


# -- a service that answers --


def test_a_service_answers_a_browser(nodes: list[kit.Engine], bus: Bus) -> None:
    """`PUB time ref=7` comes back as `FROM - re=7`."""
    queue = bus.subscribe("signal.room.time")
    for node in nodes:
        with BarePeer(node.port) as browser:
            browser.say("PUB time ref=7", "what time?")
            browser.expect("OK", "7")
            bus.publish(queue.get(timeout=LIMIT).reply, b"12:00")
            got = browser.expect("FROM", "-", re="7")
            assert (got.payload, got.binary) == (b"12:00", False)


def test_services_may_answer_more_than_once(nodes: list[kit.Engine], bus: Bus) -> None:
    """Answers are messages, not receipts: all arrive, with the sender if it is named."""
    queue = bus.subscribe("signal.room.time")
    with BarePeer(nodes[2].port) as browser:
        browser.say("PUB time ref=a", "?")
        browser.expect("OK", "a")
        reply = queue.get(timeout=LIMIT).reply
        bus.publish(reply, b"1", headers={"Signal-From": "clock.1", "Signal-Type": "binary", "X-Other": "y"})
        bus.publish(reply, b"2", headers={"X-Other": "y"})
        got = browser.expect("FROM", "clock.1", re="a")
        assert (got.payload, got.binary) == (b"1", True)
        assert browser.expect("FROM", "-", re="a").payload == b"2"


def test_a_peer_answers_a_room(nodes: list[kit.Engine]) -> None:
    """Members that got the room's message answer with `TO <peer> re=7`."""
    with (
        BarePeer(nodes[0].port) as asker,
        BarePeer(nodes[1].port, "who") as near,
        BarePeer(nodes[2].port, "who") as far,
    ):
        asker.say("PUB who ref=7", "who is there?")
        asker.expect("OK", "7")
        for member in (near, far):
            member.expect("MSG", "who", asker.address, ref="7")
            member.say(f"TO {asker.address} re=7", "me")
            assert asker.expect("FROM", member.address, re="7").payload == b"me"


# -- what a NATS client sends --


@pytest.mark.parametrize(
    "data, headers, binary",
    [
        (b"plain", None, False),
        (b"", None, False),
        ("κόσμε".encode(), None, False),
        (b"\xff\x00", None, True),
        (b"\xe2\x82", None, True),
        (b"plain", {"Signal-Type": "binary"}, True),
        (b"x" * 60000, None, False),
        (bytes(range(256)) * 200, {"X": "y"}, True),
    ],
)
def test_published_by_nats(
    nodes: list[kit.Engine], bus: Bus, data: bytes, headers: dict[str, str] | None, binary: bool
) -> None:
    """Text if it is UTF-8, else binary. The sender is `-`."""
    for node in nodes:
        with several(node.port, 4, "news") as members:
            bus.publish("signal.room.news", data, headers=headers)
            bus.publish(f"signal.peer.{members[0].address}", data, headers=headers)
            for member in members:
                got = member.expect("MSG", "news", "-")
                assert (got.payload, got.binary) == (data, binary)
            got = members[0].expect("FROM", "-")
            assert (got.payload, got.binary) == (data, binary)


def test_a_sender_that_names_itself(nodes: list[kit.Engine], bus: Bus) -> None:
    with BarePeer(nodes[0].port, "news") as member:
        reply = "signal.peer.svc.desk1.r9"
        bus.publish("signal.room.news", b"x", headers={"Signal-From": "svc.desk1"}, reply=reply)
        member.expect("MSG", "news", "svc.desk1", ref="r9")
        bus.publish(f"signal.peer.{member.address}", b"x", headers={"signal-from": "svc.desk1"}, reply=reply)
        member.expect("FROM", "svc.desk1", ref="r9")


def test_a_named_sender_is_answered(nodes: list[kit.Engine], bus: Bus) -> None:
    """`TO <peer> re=R` goes to the reply subject of its message."""
    desk = bus.subscribe("signal.peer.svc.>")
    with BarePeer(nodes[1].port) as peer:
        reply = "signal.peer.svc.desk1.r9"
        bus.publish(f"signal.peer.{peer.address}", b"x", headers={"Signal-From": "svc.desk1"}, reply=reply)
        peer.expect("FROM", "svc.desk1", ref="r9")
        assert (desk.get(timeout=LIMIT).headers or {})["Signal-Receipt"] == "ok"
        peer.say("TO svc.desk1 re=r9", "yes")
        msg = desk.get(timeout=LIMIT)
        assert (msg.subject, msg.data, msg.headers) == (reply, b"yes", {"Signal-From": peer.address})


def test_request_gets_a_receipt(nodes: list[kit.Engine], bus: Bus) -> None:
    """Also if the reply subject does not begin with `signal.`."""
    for node in nodes:
        with BarePeer(node.port) as peer:
            receipt = bus.request(f"signal.peer.{peer.address}", b"hello")
            assert (receipt.data, receipt.headers) == (b"", {"Signal-Receipt": "ok"})
            assert peer.expect("FROM", "-").payload == b"hello"
            gone = peer.address
        receipt = bus.request(f"signal.peer.{gone}", b"hello")
        assert (receipt.data, receipt.headers) == (b"", {"Signal-Receipt": "no-such-peer"})


def test_request_to_a_dead_node(bus: Bus) -> None:
    with pytest.raises(nats.errors.NoRespondersError):
        bus.request("signal.peer.nosuchnode.0123456789abc", b"x")


def test_a_room_gives_no_receipt(nodes: list[kit.Engine], bus: Bus) -> None:
    """Receipts are only for TO."""
    with BarePeer(nodes[0].port, "quiet") as member:
        inbox = bus.subscribe("answers.1")
        bus.publish("signal.room.quiet", b"x", reply="answers.1")
        member.expect("MSG", "quiet", "-")
        assert bus.request(f"signal.peer.{member.address}", b"y").headers == {"Signal-Receipt": "ok"}
        bus.flush()
        assert inbox.empty()


def test_a_ttl_from_nats(nodes: list[kit.Engine], bus: Bus) -> None:
    """A malformed one is ignored; with a good one, a message in time arrives."""
    with BarePeer(nodes[1].port) as peer:
        for ttl in ("5000", "soon", "-1", "", "99999999999999999999"):
            receipt = bus.request(f"signal.peer.{peer.address}", b"x", headers={"Signal-Ttl": ttl})
            assert receipt.headers == {"Signal-Receipt": "ok"}
            peer.expect("FROM", "-")


def test_nonsense_from_nats_is_ignored(nodes: list[kit.Engine], bus: Bus) -> None:
    """Subjects of no peer, receipts that nobody waits for, senders that are not addresses."""
    with BarePeer(nodes[2].port, "news") as peer:
        node = peer.address.split(".")[0]
        for tail in ("x", "x.y.z", f"{peer.address.split('.')[1]}.r.s", f"{peer.address.split('.')[1]}.r-s"):
            bus.publish(f"signal.peer.{node}.{tail}", b"x")
        for code in ("ok", "no-such-peer", "nonsense"):
            bus.publish(f"signal.peer.{peer.address}.unasked", b"", headers={"Signal-Receipt": code})
        for sender in ("", "x", "a b", "UPPER.x", "a.b.c", "a" * 300):
            bus.publish("signal.room.news", b"x", headers={"Signal-From": sender or " "})
            peer.expect("MSG", "news", "-")
        assert peer.settle() == []


def test_headers_that_come_back(nodes: list[kit.Engine], bus: Bus) -> None:
    """NATS clients may answer with the headers of the request: the answer is still not from the peer."""
    with BarePeer(nodes[0].port) as peer:
        bus.publish(f"signal.peer.{peer.address}.7", b"now", headers={"Signal-From": peer.address})
        assert peer.expect("FROM", "-", re="7").payload == b"now"
