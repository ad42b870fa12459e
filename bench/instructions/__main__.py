"""Counts the instructions that a loop's thread executes for one message, and compares them with the kept table.

    python bench/instructions                 # compares with bench/results/instructions.json; 1 where one rose
    python bench/instructions --save          # writes that table
    python bench/instructions --parts         # also prints where they are spent
    python bench/instructions relay fan-out   # only cases whose name has one of these words

A count does not depend on what else the machine does. See bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from contenders import HERE
from instructions.callgrind import Marks, by_line, by_part, missing
from instructions.cases import CASES, RUNS, Row, count_all
from instructions.table import KEPT, compare, table_of
from results import write
from servers import BenchError

SHOWN = 25  # lines of each list of --parts
GENERATED = HERE.parent / "build" / "cython-release" / "signal_core" / "engine.c"


def print_parts(rows: dict[str, Row]) -> None:
    """Prints where each row's instructions are spent: by part, then by line of the source."""
    marks = Marks(GENERATED.read_text(encoding="utf-8"))
    for name, row in rows.items():
        print(f"\n{name}: {row.profile.total / row.times:.1f}")
        for counts in (by_part(row.profile, marks), by_line(row.profile, marks)):
            for part, cost in counts.most_common(SHOWN):
                print(f"  {cost / row.times:9.1f}  {cost / row.profile.total:6.1%}  {part}")
            print()


def main() -> int:
    """0, or 1 if a count rose or nothing could be counted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", metavar="WORD", nargs="*", help="only cases whose name has one of these")
    parser.add_argument("--save", action="store_true", help="keep the table, instead of comparing with the kept one")
    parser.add_argument("--parts", action="store_true", help="print where the instructions are spent")
    options = parser.parse_args()
    words = options.words
    if words and options.save:
        parser.error("--save keeps the whole table: leave the words out")
    if absent := missing():
        print(f"not installed: {absent} (Debian: apt-get install valgrind)", file=sys.stderr)
        return 1
    try:
        rows = count_all([c for c in CASES if not words or any(word in name for word in words for name in c.rows)])
    except (BenchError, OSError) as error:
        print(f"nothing was counted: {error}", file=sys.stderr)
        return 1
    if options.parts:
        print_parts(rows)
    table = table_of(rows)
    kept = {**table, "counts": {}} if options.save else json.loads(KEPT.read_text(encoding="utf-8"))
    if words:
        kept["counts"] = {name: row for name, row in kept["counts"].items() if name in rows}
    lines, good = compare(kept, table)
    print("\n".join(lines))
    print(f"largest spread of {RUNS} runs: {max(row.spread for row in rows.values()):.2%}")
    if options.save:
        write(KEPT, table)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
