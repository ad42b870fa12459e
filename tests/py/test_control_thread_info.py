"""How the control thread reads INFO of a NATS server: odd values, servers that can't be used, TLS."""

import json

import pytest

from scripted_core import PATIENCE, WHERE, connected, control_thread, info

ODD = [
    {name: value}
    for name, values in {
        "max_payload": [None, -1, 0, 255, 1 << 31, 1 << 70, 1e300, 1048576.5, True, "1048576", [], {}],
        "headers": [None, 1, "yes"],
        "tls_required": [None, 1],
        "tls_available": [None, "no"],
        "nonce": [None, 7, "x" * 5000],
        "connect_urls": [None, 7, "a:1", [None], [["a:1"]]],
        "ldm": [None, 1],
    }.items()
    for value in values
]
DEEP = b'{"headers":true,"max_payload":1048576,"x":' + b"[" * 30000 + b"]" * 30000 + b"}"


@pytest.mark.parametrize("odd", ODD, ids=str)
@pytest.mark.parametrize("later", [False, True])
def test_odd_values_of_info(odd: dict[str, object], later: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The server is given up, at its first INFO or a later one, with one log line that names the member."""
    with caplog.at_level("INFO", "signal_py"), control_thread(WHERE) as (core, made):
        if later:
            connected(core)
            core.report("link-up")
            made.first.result(PATIENCE)
        else:
            core.report("link-want", "")
            core.next_call()
        core.report("link-info", info(**odd))
        assert core.next_call() == ("fail",)
        core.report("link-down" if later else "link-want", "given up")
        core.report("link-want", "given up")
        core.next_call()
    assert core.taken == 1 + later
    lines = [record for record in caplog.records if record.levelname != "INFO"]
    assert len(lines) == 1 and not lines[0].exc_info
    assert next(iter(odd)) in lines[0].fields["reason"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("greeting", [info(headers=False), b"{", b"[]", b"\xff", DEEP, b"1" * 60000])
def test_servers_that_can_not_be_used(greeting: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with control_thread(WHERE) as (core, made):
        core.report("link-want", "")
        core.next_call()
        core.report("link-info", greeting)
        assert core.next_call() == ("fail",)
        core.report("link-want", "given up")
        assert made.first.result(PATIENCE) == "away"
    assert "given up" not in caplog.text


def test_a_tls_url_is_never_used_without_tls() -> None:
    with control_thread("tls://127.0.0.1") as (core, _):
        core.report("link-want", "")
        core.next_call()
        core.report("link-info", info())
        assert core.next_call() == ("fail",)


@pytest.mark.parametrize(
    ("url", "greeting", "name"),
    [
        (WHERE, info(tls_required=True), ("127.0.0.1", True)),
        ("tls://127.0.0.1", info(tls_available=True), ("127.0.0.1", True)),
        ("tls://localhost", info(tls_required=True), ("localhost", False)),
    ],
)
def test_tls_if_either_end_requires_it(url: str, greeting: bytes, name: tuple[str, bool]) -> None:
    with control_thread(url) as (core, _):
        core.report("link-want", "")
        core.next_call()
        core.report("link-info", greeting)
        verb, line, _, tls = core.next_call()
        assert (verb, tls) == ("connect", (*name, "", "", ""))
        assert json.loads(line[8:])["tls_required"] is True


def test_no_tls_if_the_server_only_offers_it() -> None:
    with control_thread(WHERE) as (core, _):
        core.report("link-want", "")
        core.next_call()
        core.report("link-info", info(tls_available=True))
        assert core.next_call()[3] is None
