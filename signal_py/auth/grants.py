"""Requests and grants of authorizers, and the encoding of rights for the core. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from signal_py.auth.headers import Headers, cookies_of

TOKEN = r"[!-)+-\-/-=?-~]+"  # one token of a room's name: visible ASCII except `*`, `>` and the dot
USER = re.compile(rf"{TOKEN}(?:\.{TOKEN})*")
PATTERN = re.compile(rf"(?:(?:{TOKEN}|\*)\.)*(?:{TOKEN}|\*|>)")
USER_MAX = 127  # bytes; with its `@` it is the name of a room
PATTERN_MAX = 128  # bytes
RIGHTS_MAX = 16384  # bytes of all patterns of one connection
COUNT_MAX = 65535  # maximum number of patterns, and of rooms
NO_BOUND = 0xFFFFFFFF
LIFE_MAX = 1 << 47  # milliseconds, thousands of years; a longer grant never expires
REFUSALS = (401, 403)

RIGHT_TO, RIGHT_SUB_ALL, RIGHT_PUB_ALL = 1, 2, 4

Verdict = tuple[int, int, bytes, bytes, int]
"""For the core: connection, 0 or the HTTP status of a refusal, user, rights, milliseconds until expiry (0: never)."""


@dataclass(frozen=True)
class Request:
    """A client that wants to connect, or an open connection that renews its token (`renewal`).

    token    the token; "" if the client sent none
    remote   the client's numeric address; behind trusted proxies, the address that they report, and `unix` for none
    origin   the header Origin; "" if there is none
    path     the path of the URL
    query    the query of the URL as it was sent, without the token
    renewal  whether an open connection has sent AUTH. origin, path, query and headers are then empty, and `remote` is
             the address of the socket
    user     on a renewal, the user of the connection. A Grant for another user does not renew
    headers  all headers of the handshake, by name in any case

    A browser sends cookies with a WebSocket that any page opens. A program that identifies users by cookie must list
    its own pages in `origins`.
    """

    token: str = field(repr=False)
    remote: str
    origin: str = ""
    path: str = ""
    query: str = ""
    renewal: bool = False
    user: str | None = None
    headers: Headers = field(default_factory=Headers, repr=False, compare=False)

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies by name. If several have the same name, the first one counts."""
        return cookies_of(self.headers.get("cookie", ""))


@dataclass(frozen=True)
class Grant:
    """Admits a client, with these rights.

    user       the name of the user: a valid room name of at most 127 characters; None: no user
    sub        patterns of the rooms that it may join; `*` matches one token, a final `>` one or more; None: any room
    pub        patterns of the rooms that it may publish to; None: any room
    to         whether it may send to peers and users
    max_rooms  how many rooms it may be in, at most the setting `max_rooms`; None: the setting
    expires    when the grant expires, in the time of time.time(); None: never
    """

    user: str | None = None
    sub: Sequence[str] | None = None
    pub: Sequence[str] | None = None
    to: bool = True
    max_rooms: int | None = None
    expires: float | None = None


@dataclass(frozen=True)
class Rights:
    """The rights of a connection. By default it may do everything.

    sub        as in Grant
    pub        as in Grant
    to         as in Grant
    max_rooms  as in Grant
    """

    sub: tuple[str, ...] | None = None
    pub: tuple[str, ...] | None = None
    to: bool = True
    max_rooms: int | None = None


@dataclass(frozen=True)
class Refusal:
    """Refuses a client.

    reason  for the log; the client does not see it
    status  401: another token may be accepted. 403: no token will be
    """

    reason: str = ""
    status: int = 401


class GrantError(ValueError):
    """Claims or a Grant that can't be used. The text says why; `claim` is the name of the claim."""

    def __init__(self, claim: str, text: str) -> None:
        super().__init__(text)
        self.claim = claim


def grant_of(claims: Mapping[str, Any]) -> Grant:
    """Returns the grant of a token's claims. Raises GrantError.

    An absent claim sets no limit: without `rooms`, any room; without `to`, it may send; without `max_rooms`, the
    setting applies. If `rooms` has only one of `sub` and `pub`, the other allows nothing.
    """
    for name in ("sub", "rooms", "max_rooms"):
        if name in claims and claims[name] is None:
            raise GrantError(name, f"{name} is null: leave it out if there is no limit")
    rooms = claims.get("rooms")
    sub = pub = rooms
    if isinstance(rooms, dict):
        if unknown := set(rooms) - {"sub", "pub"}:
            raise GrantError("rooms", f"rooms has {', '.join(sorted(map(str, unknown)))}: only sub and pub are allowed")
        sub, pub = rooms.get("sub", []), rooms.get("pub", [])
        if sub is None or pub is None:
            raise GrantError("rooms", "a list of rooms is null: leave it out, or list rooms")
    return Grant(claims.get("sub"), sub, pub, claims.get("to", True), claims.get("max_rooms"), claims.get("exp"))


def verdict_of(connection: int, grant: Grant, now: float) -> Verdict:
    """Encodes a grant for the core. Raises GrantError for one that can't be used."""
    return connection, 0, _user(grant.user), _rights(grant), _life(grant.expires, now)


def _user(user: object) -> bytes:
    if user is None:
        return b""
    if not isinstance(user, str) or len(user) > USER_MAX or not USER.fullmatch(user):
        raise GrantError("sub", f"the user is not a valid room name of at most {USER_MAX} characters")
    return user.encode()


def _life(expires: object, now: float) -> int:
    """Returns the milliseconds until a grant expires, at least 1; 0 for never."""
    if expires is None:
        return 0
    if isinstance(expires, bool) or not isinstance(expires, int | float) or expires != expires:
        raise GrantError("exp", "the expiry time is not a number")
    left = expires - now if abs(expires) < LIFE_MAX else expires  # `expires` may be too large for a float
    if left <= 0:
        return 1
    return max(1, int(left * 1000)) if left < LIFE_MAX // 1000 else 0


def _rights(grant: Grant) -> bytes:
    """The rights as the core takes them (signal_core/tables/acl.pxd); empty if nothing is limited."""
    bound = grant.max_rooms
    if grant.sub is None and grant.pub is None and grant.to is True and bound is None:
        return b""
    if not isinstance(grant.to, bool):
        raise GrantError("to", "to is neither true nor false")
    if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int) or bound < 0):
        raise GrantError("max_rooms", "max_rooms is not a number of rooms")
    sub, pub = _patterns(grant.sub), _patterns(grant.pub)
    flags = RIGHT_TO * grant.to | RIGHT_SUB_ALL * (grant.sub is None) | RIGHT_PUB_ALL * (grant.pub is None)
    most = NO_BOUND if bound is None else min(bound, COUNT_MAX)
    head = bytes([flags]) + most.to_bytes(4, "big") + len(sub).to_bytes(2, "big") + len(pub).to_bytes(2, "big")
    text = b"".join([head, *sub, *pub])
    if len(text) > RIGHTS_MAX:
        raise GrantError("rooms", f"the patterns of rooms take more than {RIGHTS_MAX} bytes")
    return text


@lru_cache(256)
def rights_of(text: bytes) -> Rights:
    """Decodes the rights that `_rights` encoded."""
    if not text:
        return Rights()
    patterns, at = [], 9
    while at < len(text):
        patterns.append(text[at + 1 : at + 1 + text[at]].decode())
        at += 1 + text[at]
    count, most = int.from_bytes(text[5:7], "big"), int.from_bytes(text[1:5], "big")
    return Rights(
        None if text[0] & RIGHT_SUB_ALL else tuple(patterns[:count]),
        None if text[0] & RIGHT_PUB_ALL else tuple(patterns[count:]),
        bool(text[0] & RIGHT_TO),
        None if most == NO_BOUND else most,
    )


def _patterns(given: object) -> list[bytes]:
    """Encodes patterns, each after its size in one byte."""
    if given is None:
        return []
    if not isinstance(given, list | tuple):
        raise GrantError("rooms", "the rooms are not a list")
    for pattern in given:
        if not isinstance(pattern, str) or len(pattern) > PATTERN_MAX or not PATTERN.fullmatch(pattern):
            raise GrantError("rooms", "a pattern of rooms is malformed")
    if len(given) > COUNT_MAX:
        raise GrantError("rooms", f"there are more than {COUNT_MAX} patterns of rooms")
    return [bytes([len(pattern)]) + pattern.encode() for pattern in given]
