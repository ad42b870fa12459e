"""Origins of web pages: a list of exact and wildcard hosts, checked before any token."""

from collections.abc import Iterator

import pytest

import kit
from minted import SECRET, bearer, knock, token

ORIGINS = ["https://app.example.org", "https://*.example.com", "http://localhost:3000"]


@pytest.fixture(scope="module")
def listed() -> Iterator[kit.Engine]:
    with kit.engine(origins=ORIGINS, loops=2) as engine:
        yield engine


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.org",
        "https://a.example.com",
        "https://a.b.example.com",
        "http://localhost:3000",
        "HTTPS://APP.example.ORG",
    ],
)
def test_listed(listed: kit.Engine, origin: str) -> None:
    assert knock(listed.port, "/", f"Origin: {origin}").status == 101


@pytest.mark.parametrize(
    "origin",
    [
        "http://app.example.org",
        "https://app.example.org:8443",
        "https://app.example.org.evil.net",
        "https://example.com",
        "https://.example.com",
        "https://.a.example.com",
        "https://evil.net/.example.com",
        "https://evil.net:1.example.com",
        "https://evilexample.com",
        "http://localhost",
        "null",
    ],
)
def test_not_listed(listed: kit.Engine, origin: str) -> None:
    before = listed.stats()["total"]
    assert knock(listed.port, "/", f"Origin: {origin}").status == 403
    after = listed.stats()["total"]
    assert after["origins_refused"] == before["origins_refused"] + 1
    assert after["handshakes_refused"] == before["handshakes_refused"] + 1


def test_clients_without_an_origin_connect(listed: kit.Engine) -> None:
    assert knock(listed.port).status == 101


def test_any_origin_by_default() -> None:
    with kit.engine() as engine:
        assert knock(engine.port, "/", "Origin: https://anything.example").status == 101


def test_origins_are_checked_before_tokens() -> None:
    """A page that may not connect learns nothing about its token, which is not verified."""
    with kit.engine(auth="jwt", auth_key=SECRET, origins="https://app.example.org") as engine:
        for given in (token("ann"), "nonsense"):
            assert knock(engine.port, "/", bearer(given), "Origin: https://evil.net").status == 403
        counted = engine.stats()["total"]
        assert (counted["auth_granted"], counted["auth_refused"]) == (0, 0)
        assert knock(engine.port, "/", bearer(token("ann")), "Origin: https://app.example.org").status == 101


@pytest.mark.parametrize("origin", ["app.example.org", "https://app.example.org/", "https://a.*.org", "https://", "*"])
def test_bad_origins_in_the_setting(origin: str) -> None:
    done = kit.run("serve", "--origins", origin)
    assert done.returncode == 2 and "is not an origin" in done.stderr
