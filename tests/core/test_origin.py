"""Rules for the header Origin, against fnmatch."""

import fnmatch

from hypothesis import given
from hypothesis import strategies as st

from signal_core import probe

HOST = st.lists(st.text("ab-", min_size=1, max_size=3), min_size=1, max_size=4).map(".".join)


@given(HOST, HOST, st.sampled_from(["", ":1"]), st.booleans(), st.booleans())
def test_wildcards_in_origins(host: str, base: str, port: str, below: bool, loud: bool) -> None:
    origin = f"https://{host}.{base}{port}" if below else f"https://{host}{port}"
    rule = f"https://*.{base}{port}"
    wanted = fnmatch.fnmatchcase(origin, rule)
    assert probe.origin_matches(rule.encode(), (origin.upper() if loud else origin).encode()) == wanted
    assert probe.origin_matches(f"https://{host}".encode(), f"https://{host}".encode())
