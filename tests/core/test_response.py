"""Answers to a request: 101, health checks, OPTIONS and refusals, with wsproto as the client."""

import base64
import hashlib
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, RejectConnection, Request

from handshakes import accepted, plain, request
from signal_core import probe

# -- 101 --


protocol_names = st.from_regex(r"[a-z0-9.]{1,10}", fullmatch=True)


@given(st.lists(protocol_names, max_size=3), st.booleans(), st.text("abc", max_size=20))
def test_wsproto_accepts_the_answer(others, ours, room):
    protocols = [*others, *(["signal.v1"] if ours else [])]
    client = WSConnection(ConnectionType.CLIENT)
    data = client.send(Request(host="a.example", target="/?room=" + room, subprotocols=protocols))
    client.receive_data(accepted(data)["accept"])
    (event,) = client.events()
    assert isinstance(event, AcceptConnection)
    assert event.subprotocol == ("signal.v1" if "signal.v1" in protocols else None)


@given(st.binary(min_size=16, max_size=16))
def test_accept_is_the_hash_of_any_key(nonce):
    key = base64.b64encode(nonce)
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    answer = accepted(request(Sec_WebSocket_Key=key.decode()))["accept"]
    assert b"\r\nSec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n" in answer
    assert len(answer) <= 256


def test_sha1_and_base64():
    for size in range(300):
        data = bytes(i * 7 + size & 255 for i in range(size))
        assert probe.sha1(data) == hashlib.sha1(data).digest()
        assert probe.base64(data) == base64.b64encode(data)


# -- health checks, HEAD and OPTIONS --


@pytest.mark.parametrize(
    "data",
    [
        plain("GET /healthz HTTP/1.1"),
        plain("GET /healthz HTTP/1.0", host=""),
        plain("GET /healthz?verbose HTTP/1.1"),
        plain("GET /healthz HTTP/1.1", extra="Connection: upgrade\r\n"),
        plain("GET /healthz HTTP/1.1", extra="Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n"),
    ],
)
def test_health_check(data):
    verdict, fields = probe.upgrade_parse(data)
    assert (verdict, fields["status"]) == (len(data), 200)
    assert fields["answer"] == probe.upgrade_refuse(200)
    assert fields["answer"].endswith(b"\r\n\r\nok\n")


def test_head_of_a_health_check_has_no_body():
    get, head = (probe.upgrade_parse(plain(f"{method} /healthz HTTP/1.1"))[1] for method in ("GET", "HEAD"))
    assert (get["status"], head["status"]) == (200, 200)
    assert get["answer"] == head["answer"] + b"ok\n"
    refused = probe.upgrade_parse(plain("HEAD / HTTP/1.1"))[1]
    assert refused["answer"].endswith(b"\r\n\r\n")


def test_head_is_get_without_a_body():
    """RFC 9110 §9.3.2: the same headers, Content-Length too."""
    for path in ("/", "/healthz", "/nope"):
        get, head = (probe.upgrade_parse(plain(f"{method} {path} HTTP/1.1"))[1] for method in ("GET", "HEAD"))
        before, _, body = get["answer"].partition(b"\r\n\r\n")
        assert body and head["answer"] == before + b"\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        plain("OPTIONS / HTTP/1.1"),
        plain("OPTIONS /?room=a HTTP/1.1"),
        plain("OPTIONS /healthz HTTP/1.1"),
        plain("OPTIONS * HTTP/1.1"),
        plain("OPTIONS * HTTP/1.0", host=""),
        request("OPTIONS / HTTP/1.1"),
    ],
)
def test_options(data):
    """RFC 9110 §9.3.7: Allow names the methods. A 204 has neither a body nor Content-Length."""
    verdict, fields = probe.upgrade_parse(data)
    assert (verdict, fields["status"]) == (len(data), 204)
    assert fields["answer"] == b"HTTP/1.1 204 No Content\r\nAllow: GET, HEAD, OPTIONS\r\nConnection: close\r\n\r\n"


# -- refusals --


def answer_of(status: int) -> tuple[str, dict[str, str], str]:
    """Status line, headers and body of a refusal."""
    head, body = probe.upgrade_refuse(status).decode().split("\r\n\r\n", 1)
    line, *lines = head.split("\r\n")
    headers = dict(row.split(": ", 1) for row in lines)
    assert len(headers) == len(lines)
    return line, headers, body


STATUSES = (200, 400, 401, 403, 404, 405, 408, 414, 426, 429, 431, 500, 503, 505)

# Python calls 414 otherwise; this is its name in RFC 9110.
REASONS = {status: HTTPStatus(status).phrase for status in STATUSES} | {414: "URI Too Long"}


@pytest.mark.parametrize("status", REASONS)
def test_refusals_are_complete_answers(status):
    line, headers, body = answer_of(status)
    assert line == f"HTTP/1.1 {status} {REASONS[status]}"
    assert int(headers["Content-Length"]) == len(body)
    assert body.endswith("\n")
    assert body.count("\n") == 1
    assert len(probe.upgrade_refuse(status)) <= 512
    assert headers["Connection"] == ("Upgrade, close" if status == 426 else "close")
    assert headers.get("Retry-After") == ("1" if status in (429, 503) else None)
    assert headers.get("Allow") == ("GET, HEAD, OPTIONS" if status == 405 else None)
    assert headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)
    assert headers.get("Upgrade") == ("websocket" if status == 426 else None)
    assert headers.get("Sec-WebSocket-Version") == ("13" if status == 426 else None)


def test_a_small_buffer_gets_no_answer():
    assert probe.upgrade_refuse(400, 511) == b""


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 414, 426, 429, 431, 503, 505])
def test_wsproto_understands_a_refusal(status):
    client = WSConnection(ConnectionType.CLIENT)
    client.send(Request(host="a.example", target="/"))
    client.receive_data(probe.upgrade_refuse(status))
    event = next(client.events())
    assert isinstance(event, RejectConnection)
    assert event.status_code == status
