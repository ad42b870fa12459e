"""What the NATS link writes: messages, receipts, subscriptions."""

import re

from hypothesis import given
from hypothesis import strategies as st

from signal_core import probe

names = st.from_regex(rb"[a-z0-9]{1,16}", fullmatch=True)
ours = st.builds(b"%b.%b".__mod__, st.tuples(names, st.from_regex(rb"[a-z0-9]{1,32}", fullmatch=True)))
refs = st.one_of(st.just(b""), st.from_regex(rb"[A-Za-z0-9]{1,16}", fullmatch=True))
rooms = st.text(alphabet="ab-@=1", min_size=1, max_size=128).map(str.encode)
users = st.one_of(st.just(b""), rooms.filter(lambda room: len(room) < 128))
ttls = st.one_of(st.just(-1), st.integers(0, 86400000))
payloads = st.one_of(st.binary(max_size=40), st.binary(min_size=100, max_size=300))
ABSENT = probe.nats_headers_parse(b"")[1]  # the fields of a message without headers


@given(names, st.sampled_from([b"peer", b"room"]), rooms, ours, payloads, refs, refs, users, st.booleans(), ttls)
def test_a_message_to_publish(prefix, kind, target, me, payload, suffix_ref, ref, user, binary, ttl_ms):
    written, bound = probe.nats_put_hpub(
        prefix,
        kind,
        target,
        me,
        payload,
        suffix_ref=suffix_ref,
        ref=ref,
        user=user,
        binary=binary,
        ttl_ms=ttl_ms,
    )
    head, _, body = written.partition(b"\r\n\r\n")
    line, *headers = head.split(b"\r\n")
    subject = b".".join([prefix, kind, target] + [suffix_ref] * bool(suffix_ref))
    reply = [b".".join([prefix, b"peer", me, ref])] * bool(ref)
    size = len(written) - len(line) - 4
    words = [b"HPUB", subject, *reply, b"%d" % (size - len(payload)), b"%d" % size]
    assert line.split(b" ") == words
    assert body == payload + b"\r\n"
    assert len(written) - len(payload) - 2 <= bound
    expected = {b"Signal-From": me, b"Signal-User": user, b"Signal-Type": b"binary" if binary else b""}
    expected[b"Signal-Ttl"] = b"" if ttl_ms < 0 else b"%d" % ttl_ms
    assert headers[0] == b"NATS/1.0"
    assert dict(line.split(b": ") for line in headers[1:]) == {k: v for k, v in expected.items() if v}


@given(rooms, ours, payloads, refs, users, st.booleans(), ttls)
def test_published_messages_are_read_back(room, me, payload, ref, user, binary, ttl_ms):
    """A server passes `HPUB <rest>` on as `HMSG`, with the same sizes and bytes."""
    written, _ = probe.nats_put_hpub(
        b"signal", b"room", room, me, payload, ref=ref, user=user, binary=binary, ttl_ms=ttl_ms
    )
    subject, rest = written.removeprefix(b"HPUB ").split(b" ", 1)
    consumed, op = probe.nats_parse(b"HMSG " + subject + b" 7 " + rest)
    assert consumed == len(written) + 2
    assert (op["subject"], op["sid"], op["payload"]) == (b"signal.room." + room, 7, payload)
    assert op["reply"] == (b"signal.peer." + me + b"." + ref if ref else None)
    fields = {"sender": me, "user": user or None, "ttl_ms": ttl_ms, "binary": binary}
    fields["type"] = b"binary" if binary else None
    assert probe.nats_headers_parse(op["headers"]) == (1, ABSENT | fields)


@given(st.from_regex(rb"[!-~]{1,200}", fullmatch=True), st.from_regex(rb"[a-z-]{1,20}", fullmatch=True))
def test_a_receipt(reply, code):
    headers = b"NATS/1.0\r\nSignal-Receipt: %b\r\n\r\n" % code
    expected = b"HPUB %b %d %d\r\n%b\r\n" % (reply, len(headers), len(headers), headers)
    assert probe.nats_put_receipt(reply, code) == expected


@given(rooms, st.integers(0, 2**64 - 1))
def test_subscriptions(room, sid):
    assert probe.nats_put_sub(b"signal.room.", room, sid) == b"SUB signal.room.%b %d\r\n" % (room, sid)
    assert probe.nats_put_unsub(sid) == b"UNSUB %d\r\n" % sid


def test_headers_are_within_the_bound():
    """With the longest value of each. The address and the user are counted apart."""
    written, bound = probe.nats_put_hpub(
        b"p", b"peer", b"t", b"me", b"", ref=b"r", user=b"u", binary=True, ttl_ms=86400000
    )
    sizes = re.match(rb"HPUB \S+ \S+ (\d+) ", written)
    assert sizes is not None
    assert int(sizes[1]) == 85 + len(b"me") + len(b"u")
    assert bound >= len(written) - 2
