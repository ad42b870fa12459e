"""The lines of the keys of a TOML file."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_py.config import toml_lines
from signal_py.config.toml_lines import lines_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Values that span lines, with lines that look like keys, headers, comments and ends of strings.
VALUES = st.sampled_from(
    [
        "1",
        "'x' # = 1",
        '"a = 1"',
        '"""\nb = 2\n[table]\n"""',
        '"""x\n\\"\\"\\"\nc = 3\n"""',
        "'''\n\n# d = 4\n'''",
        "[\n  'a', # = [\n\n  'b = 5',\n]",
        "[ [\n1], [2,\n3] ]",
        "{ a = 1, b = [\n1\n] }",
        "'''x'''",
        '"\\""',
    ]
)
KEYS = st.sampled_from(["{}", '"{}"', "'{}'", "  {}", "{}.x", '{}."y = 1"', '\t"{}"'])
GAPS = st.lists(st.sampled_from(["", "# comment = 1", "  ", '\t# """']), max_size=2)


@given(st.lists(st.tuples(GAPS, KEYS, VALUES), max_size=8), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_each_key_has_the_line_that_it_begins_on(
    statements: list[tuple[list[str], str, str]], newline: str, ends: bool
) -> None:
    lines: list[str] = []
    wanted = {}
    for number, (gap, key, value) in enumerate(statements):
        lines += gap
        wanted[f"k{number}"] = len(lines) + 1
        lines += f"{key.format(f'k{number}')} = {value}".split("\n")
    text = newline.join(lines) + (newline if ends else "")
    tomllib.loads(text)
    assert lines_of(text) == wanted


def test_tables() -> None:
    """Keys below a header are not top-level."""
    text = "a = 1\n[b.c]\nd = 2\na = 3\n\n[[e]]\nf = 1\n[[e]]\n[b]\n"
    assert lines_of(text) == {"a": 1, "b": 2, "e": 6}


def test_a_key_with_special_characters() -> None:
    assert lines_of('x = [\n1,\n]\n"a#b" = 1\n') == {"x": 1, "a#b": 4}


def test_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too large has no line."""
    monkeypatch.setattr(toml_lines, "MAX_PARSED", 40)
    assert lines_of("a = 1\nb = [\n" + "'x = 1',\n" * 20 + "]\nc = 1\n") == {"a": 1}
