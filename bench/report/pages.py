"""The pages whose tables are made here."""

from __future__ import annotations

from pathlib import Path

from contenders import HERE
from report import performance, sizing
from report.tables import Missing, fill
from results import RESULTS

PAGES = {"performance": performance.tables, "sizing": sizing.tables}

__all__ = ["PAGES", "Missing", "file_of", "filled"]


def file_of(page: str) -> Path:
    """Where a page is."""
    return HERE.parent / "docs" / f"{page}.md"


def filled(page: str, folder: Path = RESULTS) -> str:
    """A page's text as it stands, with the tables of the results in a folder."""
    return fill(file_of(page).read_text(encoding="utf-8"), PAGES[page](folder))
