"""on_connect and on_disconnect: the peer, its user and rights, and its close code."""

import asyncio

from minted import Guest
from peers import BarePeer
from signal_py import Engine, Grant, Peer, Request, Rights

from .program import come, in_thread, port_of


def test_hooks_get_user_and_rights() -> None:
    """on_disconnect gets those of the last renewal. A Peer is a str, the address."""
    grants = {
        "ann": Grant("ann", sub=["a.*", "b"], pub=[], to=False, max_rooms=3),
        "bob": Grant("bob"),
        "": Grant(None, pub=["x.>"]),
        "new": Grant("ann", sub=["c"]),
    }
    rights = {
        "ann": Rights(("a.*", "b"), (), False, 3),
        "bob": Rights(),
        "": Rights(pub=("x.>",)),
        "new": Rights(sub=("c",)),
    }

    async def authorize(request: Request) -> Grant:
        return grants[request.token]

    async def main() -> None:
        came: list[Peer] = []
        went: list[tuple[Peer, int]] = []
        async with Engine(
            loops=2,
            authorize=authorize,
            on_connect=came.append,
            on_disconnect=lambda peer, code: went.append((peer, code)),
        ) as engine:
            for token in ("ann", "bob", ""):
                guest = await in_thread(lambda token=token: Guest(port_of(engine), token=token))
                await come(lambda: len(came) == 1)
                peer = came.pop()
                assert (peer, peer.user, peer.rights) == (guest.address, grants[token].user, rights[token])
                assert isinstance(peer, str) and {peer: 1}[guest.address] == 1
                if token == "ann":
                    assert await in_thread(guest.ask, "AUTH new") == "ok"
                await in_thread(guest.close)
                await come(lambda: len(went) == 1)
                (peer, code) = went.pop()
                assert (peer, peer.user, code) == (guest.address, grants[token].user, 1000)
                assert peer.rights == rights["new" if token == "ann" else token]
            assert engine.stats()["total"]["events_lost"] == 0

    asyncio.run(main())


def test_hooks_without_tokens() -> None:
    async def main() -> None:
        came: list[Peer] = []
        async with Engine(loops=1, on_connect=came.append) as engine:
            peer = await in_thread(BarePeer, port_of(engine))
            await come(lambda: len(came) == 1)
            assert (came[0], came[0].user, came[0].rights) == (peer.address, None, Rights())
            await in_thread(peer.close)

    asyncio.run(main())


def test_hooks_get_each_peer_once() -> None:
    async def main() -> None:
        came: list[str] = []
        went: list[tuple[str, int]] = []
        async with Engine(
            nats="off",
            loops=3,
            on_connect=came.append,
            on_disconnect=lambda peer, code: went.append((peer, code)),
        ) as engine:
            peers = [await in_thread(BarePeer, port_of(engine)) for _ in range(6)]
            await come(lambda: len(came) == 6)
            assert set(came) == {peer.address for peer in peers}
            assert went == []
            for peer in peers[1:]:
                await in_thread(peer.close)
            await come(lambda: len(went) == 5)
            assert set(went) == {(peer.address, 1000) for peer in peers[1:]}
            assert engine.disconnect(peers[0].address)
            assert await in_thread(peers[0].ended) == 4009
            await come(lambda: len(went) == 6)
            assert went[5] == (peers[0].address, 4009)
            assert not engine.disconnect(peers[1].address)

    asyncio.run(main())
