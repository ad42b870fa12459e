"""Offers of permessage-deflate (RFC 7692 §7): each form has its answer; the websockets package as a second opinion."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.exceptions import NegotiationError
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import parse_extension

import wire
from signal_core import probe

NONE, ANY = 0, 16
NAME = "permessage-deflate"

OFFERS = {
    # §7.1.1, §7.1.2
    "permessage-deflate": ANY,
    "permessage-deflate; server_no_context_takeover": ANY,
    "permessage-deflate; client_no_context_takeover": ANY,
    "permessage-deflate; client_max_window_bits": ANY,
    "permessage-deflate; client_max_window_bits=8": ANY,
    "permessage-deflate; client_max_window_bits=15": ANY,
    'permessage-deflate; client_max_window_bits="10"': ANY,
    **{f"permessage-deflate; server_max_window_bits={bits}": bits for bits in range(8, 16)},
    'permessage-deflate; server_max_window_bits="9"': 9,
    'permessage-deflate; server_max_window_bits="1\\0"': 10,
    "permessage-deflate;server_max_window_bits = 12 ;client_no_context_takeover": 12,
    # invalid, and declined
    "permessage-deflate; server_max_window_bits": NONE,
    "permessage-deflate; server_max_window_bits=7": NONE,
    "permessage-deflate; server_max_window_bits=16": NONE,
    "permessage-deflate; server_max_window_bits=08": NONE,
    "permessage-deflate; server_max_window_bits=1a": NONE,
    "permessage-deflate; server_max_window_bits=010": NONE,
    "permessage-deflate; server_max_window_bits=266": NONE,
    'permessage-deflate; server_max_window_bits=""': NONE,
    'permessage-deflate; server_max_window_bits="1\\\\0"': NONE,
    "permessage-deflate; client_max_window_bits=16": NONE,
    "permessage-deflate; client_max_window_bits=0": NONE,
    "permessage-deflate; server_no_context_takeover=1": NONE,
    "permessage-deflate; client_no_context_takeover=true": NONE,
    'permessage-deflate; client_no_context_takeover=""': NONE,
    "permessage-deflate; unknown": NONE,
    "permessage-deflate; Server_no_context_takeover": NONE,
    "permessage-deflate; client_max_window_bits; client_max_window_bits=10": NONE,
    "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10": NONE,
    "permessage-deflate; server_no_context_takeover; server_no_context_takeover": NONE,
    "permessage-deflate; client_no_context_takeover; client_no_context_takeover": NONE,
    # other extensions
    "": NONE,
    "permessage-bzip2": NONE,
    "x-permessage-deflate": NONE,
    "permessage-deflate2": NONE,
    "permessage-bzip2; a=1; b, permessage-deflate": ANY,
    'foo; bar="permessage-deflate, ;\\"", permessage-deflate; server_max_window_bits=11': 11,
    # several offers, in order of preference
    "permessage-deflate; server_max_window_bits=10, permessage-deflate": 10,
    "permessage-deflate, permessage-deflate; server_max_window_bits=10": ANY,
    "permessage-deflate; unknown, permessage-deflate; server_max_window_bits=10": 10,
    "permessage-deflate; server_max_window_bits=7, , permessage-deflate": ANY,
    # malformed: what comes before counts
    "permessage-deflate;": NONE,
    "permessage-deflate; ;": NONE,
    "permessage-deflate; a=": NONE,
    'permessage-deflate; server_max_window_bits="10': NONE,
    'permessage-deflate; server_max_window_bits="10\\': NONE,
    "permessage-deflate server_no_context_takeover": NONE,
    "permessage-deflate; =1, permessage-deflate": NONE,
    "permessage/deflate, permessage-deflate": NONE,
}


@pytest.mark.parametrize(("offer", "window"), OFFERS.items())
def test_each_form_of_an_offer_has_its_answer(offer: str, window: int):
    assert probe.deflate_offer(offer.encode()) == window


def handshake(*offers: str, deflate: bool = True) -> list[str]:
    """The extensions in the answer to these headers."""
    request = wire.request("/", *[f"Sec-WebSocket-Extensions: {offer}" for offer in offers])
    result, fields = probe.upgrade_parse(request, deflate=deflate)
    assert result == len(request)
    lines = fields["accept"].decode().split("\r\n")
    assert lines[-2:] == ["", ""]
    return [line.partition(": ")[2] for line in lines if line.startswith("Sec-WebSocket-Extensions: ")]


ANSWER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


def test_the_answer_names_both_takeovers_and_a_window_that_was_asked_for():
    assert handshake("permessage-deflate; client_max_window_bits") == [ANSWER]
    assert handshake("permessage-deflate; server_max_window_bits=9") == [f"{ANSWER}; server_max_window_bits=9"]
    assert handshake("permessage-deflate; server_max_window_bits=15") == [f"{ANSWER}; server_max_window_bits=15"]


def test_no_answer_without_a_valid_offer_or_with_deflate_off():
    assert handshake() == handshake("permessage-deflate; x") == handshake(NAME, deflate=False) == []


def test_several_headers_are_one_list():
    assert handshake("permessage-deflate; x", "permessage-deflate; server_max_window_bits=9", NAME) == [
        f"{ANSWER}; server_max_window_bits=9"
    ]


parameters = st.tuples(
    st.sampled_from(
        [f"{side}_{name}" for side in ("server", "client") for name in ("no_context_takeover", "max_window_bits", "x")]
    ),
    st.one_of(st.none(), st.integers(0, 20).map(str), st.sampled_from(["", "08", "a", "15"])),
)
extensions = st.tuples(st.sampled_from([NAME, "other"]), st.lists(parameters, max_size=4))


def second_opinion(offers: list[tuple[str, list[tuple[str, str | None]]]]) -> int:
    """What the websockets package makes of these offers."""
    factory = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)
    for name, params in offers:
        if name == NAME:
            try:
                answer, _ = factory.process_request_params(params, [])
            except NegotiationError:
                continue
            return int(dict(answer).get("server_max_window_bits") or ANY)
    return NONE


@given(st.lists(extensions, min_size=1, max_size=3), st.sampled_from(["; ", ";", " ; "]), st.booleans())
@example([(NAME, [("server_max_window_bits", "9")])], ";", True)
def test_as_another_implementation_decides(offers, separator: str, quoted: bool):
    def text(name: str, value: str | None) -> str:
        if value is None:
            return name
        return f'{name}="{value}"' if quoted or not value else f"{name}={value}"

    header = ", ".join(separator.join([name, *[text(*one) for one in params]]) for name, params in offers)
    if not any(value == "" for _, params in offers for _, value in params):
        assert parse_extension(header) == offers
    assert probe.deflate_offer(header.encode()) == second_opinion(offers)


@given(st.binary(max_size=80))
@example(b'permessage-deflate; a="\\')
def test_no_bytes_are_read_beyond_the_header(data: bytes):
    assert probe.deflate_offer(data) in (NONE, *range(8, 17))


@given(st.sampled_from(sorted(OFFERS)), st.integers(0, 60))
def test_every_part_of_an_offer_is_read_without_error(offer: str, end: int):
    assert probe.deflate_offer(offer.encode()[:end]) in (NONE, *range(8, 17))
