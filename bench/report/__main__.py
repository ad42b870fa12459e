"""Fills the tables of docs/performance.md and docs/sizing.md, and draws docs/plots, from bench/results.

    python bench/report                   # both pages and the plots
    python bench/report performance       # one of performance, sizing, plots

A page's text is written by hand; what is between `<!-- table: NAME -->` and `<!-- end -->` is replaced.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from report import performance, sizing
from report.tables import Missing, fill, page

PAGES = {"performance": performance.tables, "sizing": sizing.tables}


def main() -> int:
    """0; 1 if a result that a page needs is not kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parts = [*PAGES, "plots"]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)} (default: all)")
    chosen = parser.parse_args().parts or parts
    if unknown := set(chosen) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    for part in chosen:
        if part == "plots":
            from report import plots  # needs matplotlib

            plots.draw()
            continue
        try:
            page(part).write_text(fill(page(part).read_text(encoding="utf-8"), PAGES[part]()), encoding="utf-8")
        except Missing as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
