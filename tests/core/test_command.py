"""Head lines of signal.v1, against a model of the grammar in regular expressions."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from signal_core import probe

VERBS = {b"TO": 1, b"PUB": 2, b"SUB": 3, b"UNSUB": 4, b"PING": 5}
HEAD_MAX = 512
PING_TOKEN_MAX = HEAD_MAX - len(b"PING ")
PEER_TEXT = b"k7m2.0f3zq8m2v9w1x"

NAME = rb"(?:(?=[!-~]{1,128}(?: |\Z))[!-)+,\-/-=?-~]+(?:\.[!-)+,\-/-=?-~]+)*)"
REF = rb"[A-Za-z0-9]{1,16}"
OPTION = {
    "ref": rb"ref=" + REF,
    "re": rb"re=" + REF,
    "ttl": rb"ttl=[1-9][0-9]{0,7}",
    "presence": rb"presence",
}


def form(start: bytes, *options: str) -> re.Pattern[bytes]:
    either = b"|".join(OPTION[option] for option in options) or b"(?!)"
    return re.compile(start + rb"(?P<options>(?: (?:" + either + rb"))*)")


FORMS = [
    form(rb"(?P<verb>TO) (?P<arg>(?P<node>[a-z0-9]{1,16})\.[a-z0-9]{1,32})", "ref", "re", "ttl"),
    form(rb"(?P<verb>TO) (?P<arg>(?=[!-~]{1,128}(?: |\Z))@" + NAME + rb")", "ref", "ttl"),
    form(rb"(?P<verb>PUB) (?P<arg>(?![$@])" + NAME + rb")", "ref", "ttl"),
    form(rb"(?P<verb>SUB) (?P<arg>(?![$@])" + NAME + rb")", "ref", "presence"),
    form(rb"(?P<verb>UNSUB) (?P<arg>(?![$@])" + NAME + rb")", "ref"),
    form(rb"(?P<verb>PING)(?: (?P<arg>[!-~]{1,%d}))?" % PING_TOKEN_MAX),
]


def model_options(text: bytes) -> dict[bytes, bytes] | None:
    """Options by name; None if one comes twice."""
    pairs = [option.partition(b"=")[::2] for option in text.split(b" ")[1:]]
    options = dict(pairs)
    return options if len(options) == len(pairs) else None


def model(message: bytes) -> dict | None:
    """The fields of a message; None: bad-request."""
    head, _, payload = message.partition(b"\n")
    match = next((found for found in (each.fullmatch(head) for each in FORMS) if found), None)
    if len(head) > HEAD_MAX or match is None:
        return None
    options = model_options(match["options"])
    has_payload = match["verb"] in (b"TO", b"PUB")
    if options is None or int(options.get(b"ttl", b"1")) > 86400000 or (payload and not has_payload):
        return None
    return {
        "verb": VERBS[match["verb"]],
        "arg": match["arg"],
        "node_len": len(match.groupdict().get("node") or b""),
        "ref": options.get(b"ref"),
        "re": options.get(b"re"),
        "ttl_ms": int(options.get(b"ttl", b"-1")),
        "presence": b"presence" in options,
        "has_payload": has_payload,
        "payload": payload,
    }


def model_ref(message: bytes) -> bytes | None:
    """The ref that the ERR to a bad message names."""
    head, lf, _ = message[: HEAD_MAX + 1].partition(b"\n")
    words = head.split(b" ")
    words = words[2:] if words[0] in VERBS else words[1:]
    refs = [word for word in words if word.startswith(b"ref=")]
    if len(refs) != 1 or not re.fullmatch(rb"ref=" + REF, refs[0]):
        return None
    cut = not lf and len(message) > HEAD_MAX + 1
    return None if cut and words[-1] is refs[0] else refs[0][4:]


def check(message: bytes) -> int:
    verdict, fields = probe.head_parse(message)
    expected = model(message)
    if expected is None:
        assert verdict == -1
        assert fields["ref"] == model_ref(message)
    else:
        assert (verdict, fields) == (1, expected)
    return verdict


names = st.one_of(
    st.sampled_from([b"lobby", b"a=b", b"ref=1", b"a.b.c", b"$x", b"@u", b"x" * 128, b"x" * 129, b"a..b"]),
    st.from_regex(NAME, fullmatch=True),
    st.text(alphabet="ab.=*>$@", min_size=1, max_size=8).map(str.encode),
)
peers = st.one_of(
    st.just(PEER_TEXT),
    st.from_regex(rb"[a-z0-9]{1,17}\.[a-z0-9]{1,33}", fullmatch=True),
    names.map(b"@".__add__),
)
refs = st.one_of(st.from_regex(REF, fullmatch=True), st.sampled_from([b"", b"x" * 17, b"a.b", b"1"]))
numbers = st.one_of(
    st.integers(0, 10**9).map(lambda n: b"%d" % n),
    st.sampled_from([b"", b"0", b"01", b"-1", b"86400000", b"86400001", b"99999999", b"100000000", b"1x"]),
)
options = st.one_of(
    refs.map(b"ref=".__add__),
    refs.map(b"re=".__add__),
    numbers.map(b"ttl=".__add__),
    st.sampled_from([b"presence", b"presence=", b"ref", b"x=1", b"REF=1", b"refx=1", b""]),
)
verbs = st.sampled_from([*VERBS, b"TO", b"TO", b"PUB", b"to", b"HELLO", b"T", b"PINGS", b""])


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """About half of them good."""
    verb = draw(verbs)
    words = [verb]
    if verb != b"PING" or draw(st.booleans()):
        words.append(draw(peers if verb == b"TO" else names))
    return b" ".join(words + draw(st.lists(options, max_size=3)))


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    return draw(heads()) + draw(st.sampled_from([b"", b"\n", b"\n\n", b"\nref=9 x", b"\n" + b"p" * 600]))


@given(messages())
def test_the_grammar(message):
    check(message)


@given(messages(), st.data())
def test_the_grammar_with_one_byte_altered(message, data):
    at = data.draw(st.integers(0, len(message)))
    byte = data.draw(st.one_of(st.binary(max_size=1), st.sampled_from([b" ", b"\n", b"\t", b"=", b"."])))
    check(message[:at] + byte + message[at + data.draw(st.integers(0, 1)) :])


@given(st.one_of(st.binary(max_size=600), st.text(alphabet="TOPUBSINGref=ttl. \n1@", max_size=80).map(str.encode)))
def test_any_bytes(message):
    check(message)


@given(st.binary(max_size=700))
@example(b"")
@example(b"\n")
@example(b"SUB a\n")
def test_the_payload_follows_the_first_lf(payload):
    _, fields = probe.head_parse(b"TO " + PEER_TEXT + b"\n" + payload)
    assert (fields["arg"], fields["node_len"], fields["payload"]) == (PEER_TEXT, 4, payload)


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_the_token_of_a_ping(end):
    for size in (1, 15, 16, PING_TOKEN_MAX):
        assert check(b"PING " + b"t" * size + end) == 1
    assert check(b"PING " + b"t" * (PING_TOKEN_MAX + 1) + end) == -1
    good = {b for b in range(256) if probe.head_parse(b"PING a%cb" % b + end)[0] == 1} - {0x0A}
    assert good == set(range(0x21, 0x7F))


def test_no_lf_is_an_empty_payload():
    assert probe.head_parse(b"PUB a") == probe.head_parse(b"PUB a\n")


@pytest.mark.parametrize("tail", [b"", b"\n", b"\npayload"])
def test_every_option_of_an_address(tail):
    message = b"TO " + PEER_TEXT + b" ttl=86400000 re=Q2 ref=R1" + tail
    assert check(message) == 1
    _, fields = probe.head_parse(message)
    assert (fields["ref"], fields["re"], fields["ttl_ms"]) == (b"R1", b"Q2", 86400000)


@pytest.mark.parametrize(
    ("option", "good"),
    [
        (b"ttl=1", True),
        (b"ttl=86400000", True),
        (b"ttl=86400001", False),
        (b"ttl=0", False),
        (b"ttl=05", False),
        (b"ttl=00000001", False),
        (b"ttl=000000001", False),
        (b"ttl=+1", False),
        (b"ttl=-1", False),
        (b"ttl=1 ", False),
        (b"ttl=1.5", False),
        (b"ttl=", False),
        (b"ttl", False),
        (b"ref=" + b"r" * 16, True),
        (b"ref=" + b"r" * 17, False),
        (b"ref=", False),
        (b"re=" + b"r" * 16, True),
        (b"re=" + b"r" * 17, False),
        (b"re=", False),
        (b"presence", False),
        (b"ref=a  re=b", False),
        (b"ref=a re=b", True),
    ],
)
def test_options_of_an_address(option, good):
    assert check(b"TO " + PEER_TEXT + b" " + option + b"\npayload") == (1 if good else -1)


def test_the_first_argument_is_positional():
    assert check(b"PUB ref=1") == 1
    assert probe.head_parse(b"SUB presence")[1]["presence"] is False
    assert probe.head_parse(b"SUB ref=1 ref=2")[1]["ref"] == b"2"


@pytest.mark.parametrize(
    ("message", "ref"),
    [
        (b"JUMP ref=1", b"1"),
        (b"JUMP high ref=1\nx", b"1"),
        (b"TO nobody ref=1\nx", b"1"),
        (b"SUB a ref=1\nx", b"1"),
        (b"SUB  a ref=1", b"1"),
        (b"PUB a\x01 ref=1", b"1"),
        (b"PING a ref=1", b"1"),
        (b"PUB a ref=1 size=2", b"1"),
        (b"PUB a ref=1 ref=1", None),
        (b"PUB a ref=1 ref=", None),
        (b"PUB a size=2 ref=a-b", None),
        (b"PUB a size=2 ref=abcdefghijklmnopq", None),
        (b"PUB a size=2\nref=1", None),
        (b"TO ref=1", None),
        (b"", None),
        (b"\nTO x ref=1", None),
    ],
)
def test_the_ref_of_a_bad_head(message, ref):
    assert check(message) == -1
    assert probe.head_parse(message)[1]["ref"] == ref


@pytest.mark.parametrize("size", [HEAD_MAX - 1, HEAD_MAX, HEAD_MAX + 1, HEAD_MAX + 2, 5000])
@pytest.mark.parametrize("end", [b"", b"\n", b"\npayload"])
def test_the_bound_of_a_head(size, end):
    """The ref of a bad head is read, whether the head is just within the bound or longer."""
    message = (b"PUB a ref=7 ".ljust(size, b"x"))[:size] + end
    assert check(message) == -1
    assert probe.head_parse(message)[1]["ref"] == b"7"


@pytest.mark.parametrize("size", range(HEAD_MAX - 3, HEAD_MAX + 4))
@pytest.mark.parametrize("end", [b"", b"\n", b" x", b"9"])
def test_a_ref_at_the_bound(size, end):
    """A ref that may go on beyond the bound is not read."""
    check(b"PUB a ".ljust(size - 8, b"x") + b" ref=123" + end)
