"""Markdown tables, and the pages that have them between `<!-- table: NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from contenders import HERE
from results import Figures, spread

NONE = "–"
MARKED = re.compile(r"<!-- table: ([\w-]+) -->\n.*?<!-- end -->", re.DOTALL)


class Missing(Exception):
    """A result that a page needs is not kept; the text says which command makes it."""


def page(name: str) -> Path:
    """The file of a page."""
    return HERE.parent / "docs" / f"{name}.md"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]], text_columns: int = 1) -> str:
    """A table whose first columns are text; an empty cell has a dash."""
    heads = list(heads)
    rule = ["---"] * text_columns + ["---:"] * (len(heads) - text_columns)
    return "".join("| " + " | ".join(cell or NONE for cell in cells) + " |\n" for cells in [heads, rule, *rows])


def cells(found: Figures, names: Iterable[str]) -> list[str]:
    """The spreads of these figures."""
    return [str(spread(found.get(name, [])) or "") for name in names]


def fill(text: str, tables: dict[str, str]) -> str:
    """The page with its tables; Missing if it names one that there is not."""

    def filled(mark: re.Match[str]) -> str:
        if mark[1] not in tables:
            raise Missing(f"no table is named {mark[1]}: there are {', '.join(tables)}")
        return f"<!-- table: {mark[1]} -->\n\n{tables[mark[1]]}\n<!-- end -->"

    return MARKED.sub(filled, text)


def machines(files: dict[str, Figures]) -> str:
    """A row for each file that is kept: on which machine and with which versions it was measured."""
    rows = []
    for name, kept in files.items():
        if not kept:
            continue
        machine, versions = kept["machine"], dict(kept["versions"])
        commit = versions.pop("commit", "")
        memory = int(machine["memory"].split()[0]) / 2**20
        cpu = machine["cpu"] or machine["architecture"]
        where = f"{cpu}, {machine['cores']} cores, {memory:.1f} GiB, Linux {machine['kernel']}"
        used = ", ".join(f"{what} {version}" for what, version in versions.items())
        rows.append([name, f"{kept['date'][:10]}, `{commit}`", f"`{kept['command']}`", where, used])
    return table(["results", "measured", "command", "machine", "versions"], rows, 5)
