"""Tokens (made by PyJWT) over real sockets: where they come from, what they allow, and for how long."""

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import jwt
import pytest

import kit
from minted import SECRET, Guest, bearer, knock, protocol_of, token
from peers import BarePeer, Closed, ledgers_hold
from wire import TEXT, Wire, frame, fresh, request, until


@pytest.fixture(scope="module", params=[1, 3], ids=["1loop", "3loops"])
def guarded(request: pytest.FixtureRequest) -> Iterator[kit.Engine]:
    """Takes tokens signed with SECRET. Without accept-yield, it also authenticates clients that leave at once."""
    settings = {"auth_leeway": 0, "auth_grace": 0, "loops": request.param, "accept_yield": "off"}
    with kit.engine(auth="jwt", auth_key=SECRET, **settings) as engine:
        yield engine
        ledgers_hold(engine.stats()["total"])


# -- where a token comes from --


def test_a_token_in_the_header(guarded: kit.Engine) -> None:
    with Guest(guarded.port, token=token("ann")) as guest:
        assert guest.hello["user"] == "ann"


@pytest.mark.parametrize("text", ["plain", "escaped"])
def test_a_token_in_the_url(guarded: kit.Engine, text: str) -> None:
    given = token("ann")
    path = "/?room=lobby&token=" + (given if text == "plain" else "".join(f"%{ord(c):02x}" for c in given[:40]))
    path += "" if text == "plain" else quote(given[40:])
    assert knock(guarded.port, path).status == 101


def test_a_token_in_a_subprotocol(guarded: kit.Engine) -> None:
    answer = knock(guarded.port, "/", f"Sec-WebSocket-Protocol: signal.v1, {protocol_of(token('ann'))}")
    assert (answer.status, answer.headers["sec-websocket-protocol"]) == (101, "signal.v1")
    mine, given = "Sec-WebSocket-Protocol: signal.v1", f"Sec-WebSocket-Protocol: {protocol_of(token('ann'))}"
    for lines in ([f"{given}, signal.v1"], [given, mine], [mine, given], [f"{given},chat", f"{mine}, other"]):
        answer = knock(guarded.port, "/", *lines)
        assert (answer.status, answer.headers["sec-websocket-protocol"]) == (101, "signal.v1"), lines
    assert knock(guarded.port, "/", f"{given}, signal.v2").status == 401
    answer = knock(guarded.port, "/", "Sec-WebSocket-Protocol: signal.v1, token.a~b")
    assert answer.status == 401


def test_tokens_are_not_logged() -> None:
    given = token("ann")
    with kit.engine(auth="jwt", auth_key=SECRET, log_level="debug") as engine:
        assert knock(engine.port, f"/?token={given}").status == 101
        assert knock(engine.port, f"/?token={given}x").status == 401
        until(lambda: b"refused a connection" in engine.log(), "the refusal is logged")
        assert given.encode() not in engine.log() and b"127.0.0.1" in engine.log()


def test_commands_send_a_token_and_do_not_show_it(guarded: kit.Engine) -> None:
    given = token("ann")
    done = kit.run("pub", "--url", guarded.url, "lobby", "hello", SIGNAL_ENGINE_TOKEN=given)
    assert done.returncode == 0, done.stderr
    done = kit.run("pub", "--url", f"{guarded.url}?token=secret", "lobby", "hello")
    assert done.returncode == 2 and "HTTP 401" in done.stderr
    assert "secret" not in done.stderr and "token=***" in done.stderr


def test_a_command_whose_handshake_is_refused_says_what_to_do(guarded: kit.Engine) -> None:
    long = "x" * 17000
    error = kit.complaint(kit.run("pub", "--url", guarded.url, "lobby", "hello", SIGNAL_ENGINE_TOKEN=long))
    assert "HTTP 431: the token or the URL is too long" in error and long not in error
    with kit.engine(max_connections_per_address=1) as engine, Wire(engine.port) as wire:
        assert wire.upgrade().status == 101
        error = kit.complaint(kit.run("pub", "--url", engine.url, "lobby", "hello"))
    assert "HTTP 429: this address or user has reached its connection limit" in error


# -- refused tokens --


def test_no_token(guarded: kit.Engine) -> None:
    before = guarded.stats()["total"]
    answer = knock(guarded.port)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    after = guarded.stats()["total"]
    assert after["auth_refused"] == before["auth_refused"] + 1
    assert after["handshakes_refused"] == before["handshakes_refused"] + 1


BAD = {
    "nonsense": lambda: "nonsense",
    "another key": lambda: token("ann", key="another secret of thirty-two bytes or so"),
    "no signature": lambda: jwt.encode({"sub": "ann"}, None, algorithm="none"),
    "expired": lambda: token("ann", ttl=-5),
    "not yet": lambda: token("ann", nbf=time.time() + 60),
    "nbf as text": lambda: token("ann", nbf=str(time.time() - 60)),
    "exp as text": lambda: token("ann", ttl=None, exp=str(int(time.time()) + 60)),
    "iat as text": lambda: token("ann", iat=str(int(time.time()))),
    "another algorithm": lambda: token("ann", algorithm="HS384"),
    "a user with a space": lambda: token("a b"),
    "a user with a star": lambda: token("a.*"),
    "a user with an empty token": lambda: token("a..b"),
    "an empty user": lambda: token(""),
    "a long user": lambda: token("a" * 128),
    "rooms that are not a list": lambda: token("ann", rooms="lobby"),
    "a room with a space": lambda: token("ann", rooms=["a b"]),
    "a partial star": lambda: token("ann", rooms=["a*"]),
    "rooms with an unknown key": lambda: token("ann", rooms={"sub": [], "read": []}),
    "max_rooms as text": lambda: token("ann", max_rooms="7"),
    "to as text": lambda: token("ann", to="yes"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_bad_tokens(guarded: kit.Engine, bad: Any) -> None:
    before = guarded.total("auth_refused")
    assert knock(guarded.port, "/", bearer(bad())).status == 401
    assert guarded.total("auth_refused") == before + 1


def test_clocks_may_differ_by_five_seconds() -> None:
    """By default. A future `iat` is no reason to refuse a token (RFC 7519 §4.1.6)."""
    with kit.engine(auth="jwt", auth_key=SECRET) as engine:

        def answer(**times: float) -> int:
            given = {name: int(time.time()) + seconds for name, seconds in times.items()}
            return knock(engine.port, "/", bearer(token("ann", ttl=None, **given))).status

        assert answer(iat=3600) == 101
        assert [answer(nbf=4), answer(nbf=60)] == [101, 401]
        assert [answer(exp=-2), answer(exp=-60)] == [101, 401]


def test_audience_and_issuer_and_leeway() -> None:
    rules = {"auth_audience": "chat", "auth_issuer": "us", "auth_leeway": 30}
    with kit.engine(auth="jwt", auth_key=SECRET, **rules) as engine:
        good = {"aud": ["chat", "mail"], "iss": "us"}
        assert knock(engine.port, "/", bearer(token("ann", **good))).status == 101
        assert knock(engine.port, "/", bearer(token("ann", ttl=-20, **good))).status == 101
        assert knock(engine.port, "/", bearer(token("ann", ttl=-40, **good))).status == 401
        assert knock(engine.port, "/", bearer(token("ann", iss="us"))).status == 401
        assert knock(engine.port, "/", bearer(token("ann", **good | {"aud": "mail"}))).status == 401
        assert knock(engine.port, "/", bearer(token("ann", **good | {"iss": "them"}))).status == 401


# -- users --


@pytest.mark.parametrize("user", ["ann", 'a"b\\c', "a.b@c=d", "u" * 127])
def test_messages_name_their_user(guarded: kit.Engine, user: str) -> None:
    room = fresh("r")
    with Guest(guarded.port, token=token(user)) as ann, Guest(guarded.port, token=token()) as bob:
        assert ann.hello["user"] == user and "user" not in bob.hello
        bob.join(room)
        assert ann.ask(f"TO {bob.address}", "hi") == "ok"
        bob.expect("FROM", ann.address, ref=next_ref(bob), user=user)
        assert ann.ask(f"PUB {room}", "all", ref="p1") == "ok"
        bob.expect("MSG", room, ann.address, ref="p1", user=user)
        bob.say(f"TO {ann.address}", "anon")
        ann.expect("FROM", bob.address)


def next_ref(peer: BarePeer) -> str:
    """The ref of the next message, which is kept for `read`."""
    got = peer.read()
    peer.early.insert(0, got)
    return got.options["ref"]


def test_a_user_reaches_its_other_connections(guarded: kit.Engine) -> None:
    user = fresh("u")
    guests = [Guest(guarded.port, token=token(user)) for _ in range(6)]
    with Guest(guarded.port, token=token(fresh("u"))) as other:
        assert guests[0].ask(f"TO @{user}", "to myself", ref="m1") == "ok"
        for guest in guests[1:]:
            guest.expect("FROM", guests[0].address, ref="m1", user=user)
        assert guests[0].settle() == []
        other.say(f"TO @{user}", "to you")
        for guest in guests:
            assert guest.read().payload == b"to you"
        assert other.settle() == []
    for guest in guests:
        guest.close()


@pytest.mark.parametrize("verb", ["SUB", "UNSUB", "PUB"])
def test_a_users_room_is_not_joined(guarded: kit.Engine, verb: str) -> None:
    with Guest(guarded.port, token=token("ann")) as ann:
        assert ann.ask(f"{verb} @ann") == "bad-request"


# -- rights --


def test_rooms_of_a_token(guarded: kit.Engine) -> None:
    before = guarded.stats()["total"]
    with Guest(guarded.port, token=token("ann", rooms=["a.*", "b.>", "c"])) as ann:
        for room in ("a.x", "b.x", "b.x.y", "c"):
            assert ann.ask(f"SUB {room}") == "ok" and ann.ask(f"PUB {room}", "x") == "ok"
        for room in ("a", "a.x.y", "b", "cc", "d"):
            assert ann.ask(f"SUB {room}") == "denied" and ann.ask(f"PUB {room}", "x") == "denied"
        ann.say("PUB d", "without a ref")
        ann.refused("denied")
        assert ann.ask(f"TO {ann.address}", "x") == "ok"
    after = guarded.stats()["total"]
    assert after["auth_denied"] == before["auth_denied"] + 11
    assert after["refused_denied"] == before["refused_denied"] + 6


def test_separate_rooms_for_sub_and_pub(guarded: kit.Engine) -> None:
    with Guest(guarded.port, token=token("ann", rooms={"sub": ["news.>"], "pub": ["ask"]})) as ann:
        assert [ann.ask("SUB news.x"), ann.ask("SUB ask")] == ["ok", "denied"]
        assert [ann.ask("PUB ask", "x"), ann.ask("PUB news.x", "x")] == ["ok", "denied"]
    with Guest(guarded.port, token=token("ann", rooms={"sub": [">"]})) as ann:
        assert [ann.ask("SUB any.room"), ann.ask("PUB any.room", "x")] == ["ok", "denied"]


def test_no_rooms_and_no_peers(guarded: kit.Engine) -> None:
    with Guest(guarded.port, token=token("ann", rooms=[], to=False)) as ann:
        assert [ann.ask("SUB a"), ann.ask("PUB a", "x")] == ["denied", "denied"]
        assert [ann.ask(f"TO {ann.address}", "x"), ann.ask("TO @bob", "x")] == ["denied", "denied"]


def test_rooms_of_the_url(guarded: kit.Engine) -> None:
    given = bearer(token("ann", rooms=["a.*"]))
    assert knock(guarded.port, "/?room=a.x&room=a.y", given).status == 101
    before = guarded.total("auth_denied")
    assert knock(guarded.port, "/?room=a.x&room=b", given).status == 403
    assert guarded.total("auth_denied") == before + 1


def test_how_many_rooms(guarded: kit.Engine) -> None:
    with Guest(guarded.port, token=token("ann", max_rooms=2)) as ann:
        assert [ann.ask("SUB a"), ann.ask("SUB b"), ann.ask("SUB c")] == ["ok", "ok", "too-many-rooms"]
        assert [ann.ask("UNSUB a"), ann.ask("SUB c"), ann.ask("SUB c")] == ["ok", "ok", "ok"]
    with Guest(guarded.port, token=token("ann", max_rooms=0)) as ann:
        assert ann.ask("SUB a") == "too-many-rooms"
    with (
        kit.engine(auth="jwt", auth_key=SECRET, max_rooms=1) as engine,
        Guest(engine.port, token=token("ann", max_rooms=9)) as ann,
    ):
        assert [ann.ask("SUB a"), ann.ask("SUB b")] == ["ok", "too-many-rooms"]


def test_the_same_rights_are_shared_and_freed(guarded: kit.Engine) -> None:
    """Many connections with a few different rights come and go: each keeps its rights."""
    for turn in range(2):
        guests = [Guest(guarded.port, token=token(f"u{i}", rooms=[f"r{i % 5}"])) for i in range(40)]
        for i, guest in enumerate(guests):
            assert guest.ask(f"SUB r{i % 5}") == "ok" and guest.ask(f"SUB r{(i + 1 + turn) % 5}") == "denied"
        for guest in guests:
            guest.close()


# -- expiry and renewal --


def test_an_expired_token_closes() -> None:
    """After its `exp` and auth-grace, not before."""
    with kit.engine(auth="jwt", auth_key=SECRET, auth_leeway=0, auth_grace=1.5) as engine:
        end = int(time.time()) + 2
        ann = Guest(engine.port, token=token("ann", ttl=None, exp=end))
        assert ann.ended() == 1008
        assert 1.4 < time.time() - end < 4
        assert engine.total("auth_expired") == 1


def test_a_token_that_lasts_longer_than_ticks_count() -> None:
    """2**32 ticks of 0.1 s are 13.6 years: such a token does not end now."""
    with kit.engine(auth="jwt", auth_key=SECRET, auth_grace=0) as engine:
        ann = Guest(engine.port, token=token("ann", ttl=None, exp=int(time.time()) + 2**32 // 10 + 2))
        bob = Guest(engine.port, token=token("bob", ttl=None, exp=int(time.time()) + 4))
        assert bob.ended() == 1008
        assert ann.ask(f"TO {ann.address}", "still here") == "ok"


def test_a_renewal_extends(guarded: kit.Engine) -> None:
    before = guarded.stats()["total"]
    with Guest(guarded.port, token=token("ann", ttl=2)) as ann:
        end = time.monotonic() + 2
        assert ann.ask(f"AUTH {token('ann')}") == "ok"
        until(lambda: time.monotonic() > end + 0.3, "the first token is over")
        assert ann.ask(f"TO {ann.address}", "still here") == "ok"
    after = guarded.stats()["total"]
    assert (after["auth_granted"], after["auth_expired"]) == (before["auth_granted"] + 2, before["auth_expired"])


def test_a_renewal_shortens(guarded: kit.Engine) -> None:
    ann = Guest(guarded.port, token=token("ann"))
    assert ann.ask(f"AUTH {token('ann', ttl=2)}") == "ok"
    assert ann.ended() == 1008


def test_a_renewal_with_another_user_is_denied(guarded: kit.Engine) -> None:
    with Guest(guarded.port, token=token("ann")) as ann:
        assert ann.ask(f"AUTH {token('bob')}") == "denied"
        assert ann.ask(f"AUTH {token()}") == "denied"
        ann.say(f"AUTH {token('bob')}")
        ann.refused("denied")
        assert ann.ask(f"AUTH {token('ann')}") == "ok"
        ann.say(f"AUTH {token('ann')}")
        assert ann.settle() == []


def test_a_bad_renewal_closes(guarded: kit.Engine) -> None:
    ann = Guest(guarded.port, token=token("ann"))
    assert ann.ask("AUTH nonsense") == "denied"
    assert ann.ended() == 4001


def test_a_renewal_changes_rights(guarded: kit.Engine) -> None:
    a, b = fresh("a"), fresh("b")
    with Guest(guarded.port, token=token("ann", rooms=[a, b])) as ann, Guest(guarded.port, token=token()) as bob:
        ann.join(a, b)
        assert ann.ask(f"AUTH {token('ann', rooms=[b])}") == "ok"
        for room in (a, b):
            assert bob.ask(f"PUB {room}", "x") == "ok"
        ann.expect("MSG", b, bob.address, ref=next_ref(ann))
        assert ann.settle() == [] and ann.ask(f"PUB {a}", "x") == "denied"
        assert ann.ask(f"AUTH {token('ann')}") == "ok"
        assert ann.ask(f"SUB {a}") == "ok"
        assert ann.ask("TO @ann", "still the same user") == "ok"


@pytest.mark.parametrize("size", [400, 512, 2000, 7900])
def test_a_long_token_renews(guarded: kit.Engine, size: int) -> None:
    given = token("ann", more="x" * 16)
    given = token("ann", more="x" * (16 + (size - len(given)) * 3 // 4))
    with Guest(guarded.port, token=token("ann")) as ann:
        assert ann.ask(f"AUTH {given}") == "ok"


@pytest.mark.parametrize("head", ["AUTH", "AUTH ", "AUTH a b", "AUTH x ref=a ref=b", "AUTH x\npayload", "AUTH x ttl=5"])
def test_a_malformed_renewal(guarded: kit.Engine, head: str) -> None:
    with Guest(guarded.port, token=token("ann")) as ann:
        ann.say(head)
        assert ann.read().words == ("bad-request",)


def test_a_renewal_without_auth_is_denied() -> None:
    with kit.engine() as engine, BarePeer(engine.port) as peer:
        assert peer.ask(f"AUTH {token('ann')}") == "denied"


# -- while a client waits for its verdict --


def test_frames_after_the_handshake_wait_for_the_verdict(guarded: kit.Engine) -> None:
    room = fresh("r")
    with Wire(guarded.port) as wire:
        heads = [f"SUB {room} ref=1", "PING a", f"PUB {room} ref=2\nx"]
        wire.send(request("/", bearer(token("ann"))) + b"".join(frame(TEXT, text.encode()) for text in heads))
        assert wire.read_answer().status == 101
        received = [wire.read_message()[1].split(b"\n")[0].decode() for _ in range(4)]
        assert received[0].startswith("HELLO ") and received[1:] == ["OK 1", "PONG a", "OK 2"]


@pytest.mark.parametrize("cuts", [[10], [60, 61], [200]])
def test_a_handshake_in_pieces(guarded: kit.Engine, cuts: list[int]) -> None:
    with Wire(guarded.port) as wire:
        wire.send_cut(request("/", bearer(token("ann"))), cuts)
        assert wire.read_answer().status == 101


def test_a_client_that_leaves_before_its_verdict(guarded: kit.Engine) -> None:
    before = guarded.total("auth_granted")
    for _ in range(20):
        with Wire(guarded.port) as wire:
            wire.send(request("/", bearer(token("ann"))))
    until(lambda: guarded.total("auth_granted") == before + 20, "all get their verdict")
    until(lambda: guarded.total("connections") == 0, "all are gone")


def test_a_refused_client_is_read_to_its_end(guarded: kit.Engine) -> None:
    """Bytes that come after a refusal do not reset the connection."""
    with Wire(guarded.port) as wire:
        wire.send(request("/", bearer("nonsense")) + frame(TEXT, b"PING") * 100)
        assert wire.read_answer().status == 401
        wire.send(frame(TEXT, b"PING") * 100)
        assert wire.read_end() == b""


def test_with_auth_off_tokens_are_ignored() -> None:
    with kit.engine() as engine:
        assert knock(engine.port, "/?token=nonsense", "Sec-WebSocket-Protocol: signal.v1, token.~").status == 101
        counted = engine.stats()["total"]
        assert [counted[name] for name in ("auth_granted", "auth_refused", "auth_failed")] == [0, 0, 0]
        assert counted["posted"] == 0


def test_a_user_is_gone_with_its_last_connection(guarded: kit.Engine) -> None:
    until(lambda: guarded.total("connections") == 0, "others have gone")
    before = guarded.total("rooms")
    with Guest(guarded.port, token=token("ann")), Guest(guarded.port, token=token("ann")):
        assert guarded.total("rooms") > before
    until(lambda: guarded.total("rooms") == before, "the user's room is gone")


def test_a_client_that_leaves_before_the_verdict_on_its_renewal(guarded: kit.Engine) -> None:
    for _ in range(20):
        ann = Guest(guarded.port, token=token("ann"))
        ann.say(f"AUTH {token('ann')} ref=1")
        ann.vanish()
    with Guest(guarded.port, token=token("ann")) as ann, pytest.raises(Closed):
        assert ann.ask("AUTH nonsense") == "denied"
        ann.receive(10)
