"""Fills the tables of docs/performance.md and docs/sizing.md, and draws docs/plots, from what bench/results has.

    python bench/report                   # both pages and the plots
    python bench/report performance       # ... one of performance, sizing, plots

A page's text is written by hand; between `<!-- table: NAME -->` and `<!-- end -->` is what stands here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from report import pages


def main() -> int:
    """0; 1 where a result that a page needs is not kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parts = [*pages.PAGES, "plots"]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)} (default: all)")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    for part in options.parts or parts:
        if part == "plots":
            from report import plots  # needs matplotlib

            plots.draw()
            continue
        try:
            text = pages.filled(part)
        except pages.Missing as error:
            print(error, file=sys.stderr)
            return 1
        pages.file_of(part).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
