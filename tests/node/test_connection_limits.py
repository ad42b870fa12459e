"""Connections of one user, and of one address behind trusted proxies: one too many gets 429."""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import kit
from minted import SECRET, Guest, bearer, knock, token
from peers import ledgers_hold
from wire import Wire, closing, fresh, request, until

AUTH = {"auth": "jwt", "auth_key": SECRET, "auth_leeway": 0, "auth_grace": 0}
TRUSTED = ["127.0.0.0/8", "10.0.0.0/8", "2001:db8:ffff::/48"]


# -- of one user --


@pytest.fixture(scope="module", params=[1, 3], ids=["1loop", "3loops"])
def bounded(request: pytest.FixtureRequest) -> Iterator[kit.Engine]:
    """An engine on which a user may have two connections."""
    with kit.engine(loops=request.param, max_connections_per_user=2, **AUTH) as engine:
        yield engine
        ledgers_hold(engine.stats()["total"])


def test_one_connection_too_many_of_a_user(bounded: kit.Engine) -> None:
    """It gets 429, is counted, and joins no room. Other connections and users are not affected."""
    user, before = fresh("u"), bounded.total("user_limited")
    with contextlib.ExitStack() as stack:
        has = [stack.enter_context(Guest(bounded.port, token=token(user))) for _ in range(2)]
        for _ in range(6):  # on whichever loop
            answer = knock(bounded.port, "/?room=lobby", bearer(token(user)))
            assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        assert bounded.total("user_limited") == before + 6
        assert bounded.total("memberships") == 2
        other = stack.enter_context(Guest(bounded.port, token=token(fresh("u"))))
        assert other.ask(f"TO @{user}", "both") == "ok"
        assert [guest.read().payload for guest in has] == [b"both"] * 2


@pytest.mark.parametrize("how", ["closed", "lost", "token ends"])
def test_a_connection_that_ends_frees_the_users_quota(bounded: kit.Engine, how: str) -> None:
    user = fresh("u")
    with Guest(bounded.port, token=token(user)):
        last = Guest(bounded.port, token=token(user, ttl=1.2 if how == "token ends" else 60))
        assert knock(bounded.port, "/", bearer(token(user))).status == 429
        if how == "closed":
            last.wire.send(closing(1000))
        elif how == "lost":
            last.wire.socket.close()
        until(lambda: knock(bounded.port, "/", bearer(token(user))).status == 101, "the quota is free again")
        last.wire.socket.close()
    until(lambda: bounded.total("connections") == 0)
    guests = [Guest(bounded.port, token=token(user)) for _ in range(2)]
    assert knock(bounded.port, "/", bearer(token(user))).status == 429
    for guest in guests:
        guest.close()


@pytest.mark.parametrize(("path", "status"), [("/?room=theirs", 403), ("/?room=$x", 400)])
def test_a_client_refused_after_it_was_counted_frees_the_quota(bounded: kit.Engine, path: str, status: int) -> None:
    """Its rooms are checked after its user was counted. The user's room stays."""
    user = fresh("u")
    with Guest(bounded.port, token=token(user)):
        for _ in range(4):
            assert knock(bounded.port, path, bearer(token(user, rooms={"sub": ["mine"]}))).status == status
            until(lambda: bounded.total("memberships") == 1, "it has left its user's room")
        with Guest(bounded.port, token=token(user)):
            assert knock(bounded.port, "/", bearer(token(user))).status == 429


def test_clients_without_a_user_are_not_counted(bounded: kit.Engine) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(Guest(bounded.port, token=token()))


def test_a_renewal_counts_nothing(bounded: kit.Engine) -> None:
    user = fresh("u")
    with Guest(bounded.port, token=token(user)) as guest:
        for _ in range(4):
            assert guest.ask(f"AUTH {token(user)}") == "ok"
        with Guest(bounded.port, token=token(user)):
            assert knock(bounded.port, "/", bearer(token(user))).status == 429
            assert guest.ask(f"AUTH {token(user)}") == "ok"


def send_all(wires: list[Wire], data: bytes) -> None:
    for wire in wires:
        wire.send(data)


def test_many_at_once(bounded: kit.Engine) -> None:
    """Forty handshakes of one user race on all loops: exactly two are accepted."""
    user, given = fresh("u"), Counter[int]()
    wires = [Wire(bounded.port) for _ in range(40)]
    hello = request("/", bearer(token(user)))
    threads = [threading.Thread(target=send_all, args=(wires[i::4], hello)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for wire in wires:
        given[wire.read_answer().status] += 1
    assert given == {101: 2, 429: 38}
    for wire in wires:
        wire.socket.close()
    until(lambda: bounded.total("connections") == 0)
    assert bounded.total("rooms") == 0


def test_a_user_is_not_bounded_by_default() -> None:
    with kit.engine(loops=2, **AUTH) as engine, contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(Guest(engine.port, token=token("ann")))
        assert engine.total("user_limited") == 0


def test_the_limit_is_for_each_node() -> None:
    """The limit is for one node: on two nodes, a user may have twice as many connections."""
    with kit.nats() as server, contextlib.ExitStack() as stack:
        settings = {"nats": server.url, "max_connections_per_user": 1, **AUTH}
        nodes = [stack.enter_context(kit.engine(**settings)) for _ in range(2)]
        for node in nodes:
            stack.enter_context(Guest(node.port, token=token("ann")))
        for node in nodes:
            assert knock(node.port, "/", bearer(token("ann"))).status == 429


# -- of one address behind proxies --


def forwarded(*lines: str) -> list[str]:
    return [f"X-Forwarded-For: {line}" for line in lines]


def arrive(port: int, stack: contextlib.ExitStack, lines: list[str], **more: Any) -> int:
    """The status of a handshake; the stack keeps its connection open. `more`: host, source."""
    wire = stack.enter_context(Wire(port, **more))
    wire.send(request("/", *lines))
    return wire.read_answer().status


@pytest.fixture(scope="module", params=[1, 3], ids=["1loop", "3loops"])
def proxied(request: pytest.FixtureRequest) -> Iterator[kit.Engine]:
    """An engine behind trusted proxies, on which an address may have two connections."""
    with kit.engine(loops=request.param, max_connections_per_address=2, trusted_proxies=TRUSTED) as engine:
        yield engine
        until(lambda: engine.total("connections") == 0)


@pytest.mark.parametrize(
    ("first", "same", "other"),
    [
        (["192.0.2.7"], ["192.0.2.7"], ["192.0.2.8"]),
        (["192.0.2.7"], ["::ffff:192.0.2.7"], ["::ffff:192.0.2.8"]),
        (["192.0.2.7"], ["192.0.2.7:4711"], ["192.0.2.8:4711"]),
        (["6.6.6.6, 192.0.2.7"], ["7.7.7.7, 192.0.2.7"], ["6.6.6.6, 192.0.2.8"]),
        (["192.0.2.7, 10.1.2.3, 127.0.0.9"], ["192.0.2.7"], ["192.0.2.8, 10.1.2.3"]),
        (["192.0.2.7", "10.1.2.3"], ["8.8.8.8, 192.0.2.7"], ["192.0.2.7", "192.0.2.8"]),
        (["2001:db8::1"], ["2001:db8:0:0:5:6:7:8"], ["2001:db8:0:1::1"]),
        (["[2001:db8::1]:443"], ["2001:DB8::2, [2001:db8:ffff::1]:443"], ["[2001:db8:1::1]:443"]),
        (["10.1.2.3"], ["10.1.2.3"], ["10.1.2.4"]),
        # IPv4 addresses embedded in IPv6: RFC 6052, RFC 2765, RFC 8215.
        (["64:ff9b::192.0.2.7"], ["192.0.2.7"], ["64:ff9b::192.0.2.8"]),
        (["::ffff:0:192.0.2.7"], ["192.0.2.7"], ["::ffff:0:192.0.2.8"]),
        (["64:ff9b:1:ab::192.0.2.7"], ["192.0.2.7"], ["64:ff9b:1:ab::192.0.2.8"]),
        (["64:ff9b:1:c000:2:700::"], ["64:ff9b:1:c000:2:700::"], ["64:ff9b:1:c000:2:800::"]),
        (["192.0.2.7, 64:ff9b::10.1.2.3"], ["192.0.2.7"], ["192.0.2.8, 64:ff9b:1::10.1.2.3"]),
        (["64:ff9b:2::1"], ["64:ff9b:2::2"], ["64:ff9b:2:1::1"]),  # embeds no IPv4 address
    ],
)
def test_forwarded_addresses_count(proxied: kit.Engine, first: list[str], same: list[str], other: list[str]) -> None:
    """The client's address counts, in any form and after any number of hops, and not the proxy's."""
    until(lambda: proxied.total("connections") == 0)
    before = proxied.total("address_limited")
    with contextlib.ExitStack() as stack:
        assert [arrive(proxied.port, stack, forwarded(*first)) for _ in range(2)] == [101, 101]
        assert [arrive(proxied.port, stack, forwarded(*same)) for _ in range(2)] == [429, 429]
        assert [arrive(proxied.port, stack, forwarded(*other)) for _ in range(3)] == [101, 101, 429]
        assert proxied.total("address_limited") == before + 3


@pytest.mark.parametrize("lines", [[], ["nonsense"], ["192.0.2.7, unknown"], [""]])
def test_connections_of_a_proxy_are_not_limited(proxied: kit.Engine, lines: list[str]) -> None:
    """Those for which it names no client."""
    with contextlib.ExitStack() as stack:
        assert [arrive(proxied.port, stack, forwarded(*lines)) for _ in range(8)] == [101] * 8


def test_a_forwarded_client_that_leaves_frees_the_quota(proxied: kit.Engine) -> None:
    until(lambda: proxied.total("connections") == 0)
    lines = forwarded("203.0.113.9")
    with contextlib.ExitStack() as stack:
        assert [arrive(proxied.port, stack, lines) for _ in range(3)] == [101, 101, 429]
    until(lambda: proxied.total("connections") == 0)
    with contextlib.ExitStack() as stack:
        assert [arrive(proxied.port, stack, lines) for _ in range(3)] == [101, 101, 429]


def test_only_trusted_proxies_are_believed() -> None:
    """The header of another client neither hides its address nor uses the quota of another address."""
    settings = {"max_connections_per_address": 2, "trusted_proxies": ["127.0.0.2"], "loops": 3}
    with kit.engine(**settings) as engine, contextlib.ExitStack() as stack:
        spoofed = [arrive(engine.port, stack, forwarded(f"192.0.2.{i}")) for i in range(4)]
        assert spoofed == [101, 101, 429, 429]
        proxy = {"source": "127.0.0.2"}
        assert [arrive(engine.port, stack, forwarded("192.0.2.0"), **proxy) for _ in range(3)] == [101, 101, 429]
        # An address that a trusted proxy names is the same as one that connects directly.
        assert arrive(engine.port, stack, forwarded("127.0.0.1"), **proxy) == 429


def test_clients_of_ipv6() -> None:
    """Behind a trusted proxy on IPv6, and behind one that is not trusted."""
    settings = {"listen": ["[::1]:0"], "max_connections_per_address": 2, "trusted_proxies": ["2001:db8::/32"]}
    with kit.engine(**settings) as engine, contextlib.ExitStack() as stack:
        lines = forwarded("192.0.2.7")  # of one that is not trusted
        assert [arrive(engine.port, stack, lines, host="::1") for _ in range(3)] == [101, 101, 429]
    settings["trusted_proxies"] = ["::1"]
    with kit.engine(**settings) as engine, contextlib.ExitStack() as stack:
        assert [arrive(engine.port, stack, lines, host="::1") for _ in range(3)] == [101, 101, 429]
        assert [arrive(engine.port, stack, [], host="::1") for _ in range(3)] == [101] * 3


def test_a_client_with_a_token_is_counted_once() -> None:
    """It counts while it waits for its verdict. A refusal frees the quota; acceptance does not count it again."""
    settings = {"max_connections_per_address": 2, "trusted_proxies": TRUSTED, **AUTH}
    with kit.engine(loops=2, **settings) as engine:
        for _ in range(3):
            assert knock(engine.port, "/", *forwarded("192.0.2.7"), bearer("bad")).status == 401
            until(lambda: engine.total("connections") == 0)
        with contextlib.ExitStack() as stack:
            lines = [*forwarded("192.0.2.7"), bearer(token("ann"))]
            assert [arrive(engine.port, stack, lines) for _ in range(3)] == [101, 101, 429]
            assert engine.total("auth_granted") == 2
