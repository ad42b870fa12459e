"""The headers of a handshake, for an authorizer. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class Headers(Mapping[str, str]):
    """A mapping of header names, in any case, to values. Iteration yields names in lower case.

    Headers with the same name are joined to one value, separated by commas (RFC 9110 §5.3), or by semicolons for
    Cookie. Bytes that are not ASCII are decoded as Latin-1.
    """

    def __init__(self, pairs: Mapping[str, str] | None = None) -> None:
        """Takes the headers of a mapping.

        pairs  values by name
        """
        self._values = {name.lower(): value for name, value in (pairs or {}).items()}

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Headers({', '.join(self._values)})"  # without values, which may be secret


def headers_of(head: str) -> Headers:
    """Parses the head of a request, which the core has already validated."""
    found: dict[str, str] = {}
    for line in head.lstrip("\r\n").split("\n")[1:]:
        name, colon, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t\r")
        if colon:
            separator = "; " if name == "cookie" else ", "
            found[name] = f"{found[name]}{separator}{value}" if name in found else value
    return Headers(found)


def cookies_of(header: str) -> dict[str, str]:
    """Parses a Cookie header. Removes quotation marks around a value (RFC 6265 §4.2.1).

    If several cookies have one name, the first counts: browsers send the most specific path first (§5.4).
    """
    found: dict[str, str] = {}
    for pair in header.split(";"):
        name, equals, value = pair.strip(" \t").partition("=")
        if equals:
            quoted = len(value) > 1 and value[0] == value[-1] == '"'
            found.setdefault(name.rstrip(" \t"), value[1:-1] if quoted else value)
    return found
