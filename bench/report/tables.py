"""Markdown tables, and what stands between the marks of a page: `<!-- table: NAME -->` to `<!-- end -->`."""

from __future__ import annotations

import re

from results import Figures, Spread

NONE = "–"
MARKED = re.compile(r"<!-- table: ([\w-]+) -->\n.*?<!-- end -->", re.DOTALL)


class Missing(Exception):
    """A result that a page needs is not kept; the text says which command makes it."""


def table(heads: list[str], rows: list[list[str]], text_columns: int = 1) -> str:
    """A table, numbers to the right but in the first columns; a cell without text has a dash."""
    rule = ["---"] * text_columns + ["---:"] * (len(heads) - text_columns)
    return "".join("| " + " | ".join(cell or NONE for cell in cells) + " |\n" for cells in [heads, rule, *rows])


def shown(found: Spread | None) -> str:
    """A figure, or nothing."""
    return str(found) if found else ""


def fill(text: str, tables: dict[str, str]) -> str:
    """The page with its tables; Missing where it marks one that there is none of."""

    def filled(mark: re.Match[str]) -> str:
        if mark[1] not in tables:
            raise Missing(f"no table is named {mark[1]}: there are {', '.join(tables)}")
        return f"<!-- table: {mark[1]} -->\n\n{tables[mark[1]]}\n<!-- end -->"

    return MARKED.sub(filled, text)


def machine_row(name: str, kept: Figures) -> list[str]:
    """What a file's results were measured on and with."""
    machine, versions = kept["machine"], dict(kept["versions"])
    commit = versions.pop("commit", "")
    memory = int(machine["memory"].split()[0]) / 2**20
    cpu = machine["cpu"] or machine["architecture"]
    where = f"{cpu}, {machine['cores']} cores, {memory:.1f} GiB, Linux {machine['kernel']}"
    used = ", ".join(f"{what} {version}" for what, version in versions.items())
    return [name, f"{kept['date'][:10]}, `{commit}`", f"`{kept['command']}`", where, used]


def machines(files: dict[str, Figures]) -> str:
    """A row for each file that is kept."""
    rows = [machine_row(name, kept) for name, kept in files.items() if kept]
    return table(["results", "measured", "command", "machine", "versions"], rows, 5)
