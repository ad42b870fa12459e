"""What bench/instructions makes of callgrind's output, and when it says that a count rose; nothing is counted."""

import copy
import json
from collections import Counter
from typing import Any

import pytest

from instructions import callgrind, table
from instructions.cases import CASES

# A thread's dump: send_all (lines 21 and 24 of engine.c, one line of a header) calls memcpy, whose cost of 7 stands
# behind `calls=` as part of the caller's whole, and once more where memcpy is.
DUMP = """\
# callgrind format
version: 1
thread: 3

desc: Trigger: dump

positions: line
events: Ir
summary: 42

ob=/lib/libc.so.6
fl=/src/memcpy.S
fn=memcpy
300 4
301 3

ob=/signal_core/engine.so
fl=/build/engine.c
fn=__pyx_f_11signal_core_6thread_thread_main
21 10
fi=/signal_core/include/se_simd.h
5 8
fe=/build/engine.c
24 17
cob=/lib/libc.so.6
cfi=/src/memcpy.S
cfn=memcpy
calls=2 300
24 7

totals: 42
"""
GENERATED = """\
static int f(void) {

  /* "signal_core/delivery/queue.pxd":40
 * an earlier line
 */
""" + "  int a;\n" * 16 + """\
  /* "signal_core/conn.pxd":7
 * another
 */
  send();
"""


def counted(**counts: float) -> dict[str, Any]:
    about = {"compiler": "gcc 12", "valgrind": "valgrind-3.19.0", "libc": "glibc 2.36", "cpu": "avx2", "python": "3.11"}
    return {"about": about, "counts": {name: {"instructions": n, "spread": 0.001} for name, n in counts.items()}}


def test_parse_counts_what_each_line_did_itself() -> None:
    profile = callgrind.parse(DUMP)
    assert profile.total == 42 == sum(profile.lines.values())
    assert profile.is_loop
    loop = "__pyx_f_11signal_core_6thread_thread_main"
    assert profile.lines == {
        ("/src/memcpy.S", "memcpy", 300): 4,
        ("/src/memcpy.S", "memcpy", 301): 3,
        ("/build/engine.c", loop, 21): 10,
        ("/signal_core/include/se_simd.h", loop, 5): 8,
        ("/build/engine.c", loop, 24): 17,
    }


def test_a_thread_of_python_is_no_loop() -> None:
    assert not callgrind.parse(DUMP.replace("thread_thread_main", "engine_start")).is_loop


def test_profiles_add_up() -> None:
    both = callgrind.Profile()
    both.add(callgrind.parse(DUMP))
    both.add(callgrind.parse(DUMP))
    assert both.total == 84 == sum(both.lines.values())


def test_parts_are_modules_headers_and_functions_of_libraries() -> None:
    marks = callgrind.Marks(GENERATED)
    profile = callgrind.parse(DUMP)
    assert callgrind.by_part(profile, marks) == Counter(
        {"queue.pxd": 10, "conn.pxd": 17, "se_simd.h": 8, "memcpy()": 7}
    )
    assert callgrind.by_line(profile, marks) == Counter({"queue.pxd:40": 10, "conn.pxd:7": 17})


def test_a_line_before_every_mark_is_the_unit_itself() -> None:
    assert callgrind.Marks(GENERATED).source(1) == ("engine", 0)


def test_a_rise_of_six_percent_fails() -> None:
    lines, good = table.compare(counted(relay=1000.0, echo=500.0), counted(relay=1060.0, echo=500.0))
    assert not good
    assert any(line.startswith("relay") and line.endswith("+6.00%  ROSE") for line in lines)
    assert any(line.startswith("FAILED") and line.endswith(": relay") for line in lines)


@pytest.mark.parametrize(("now", "word"), [(1049.0, "more"), (1005.0, ""), (995.0, ""), (900.0, "less")])
def test_a_smaller_rise_or_a_fall_does_not(now: float, word: str) -> None:
    lines, good = table.compare(counted(relay=1000.0), counted(relay=now))
    assert good
    assert lines[1].split()[4:] == ([word] if word else [])
    assert len(lines) == 2


@pytest.mark.parametrize("key", table.COMPARABLE)
def test_a_rise_with_other_tools_is_a_warning(key: str) -> None:
    now = counted(relay=1060.0)
    now["about"][key] = "another"
    lines, good = table.compare(counted(relay=1000.0), now)
    assert good
    assert any("WARNING" in line for line in lines)
    assert any(line.startswith(f"{key}: ") and "'another'" in line for line in lines)


@pytest.mark.parametrize("key", ["python", "options", "packages"])
def test_what_is_ours_or_of_no_matter_excuses_no_rise(key: str) -> None:
    now = counted(relay=1060.0)
    now["about"][key] = "another"
    assert not table.compare(counted(relay=1000.0), now)[1]


def test_a_row_that_is_gone_fails_and_a_new_one_does_not() -> None:
    both, one = counted(relay=1000.0, echo=500.0), counted(relay=1000.0)
    lines, good = table.compare(both, one)
    assert not good and any(line.startswith("echo") and line.endswith("gone") for line in lines)
    lines, good = table.compare(one, both)
    assert good and any(line.startswith("echo") and line.endswith("new") for line in lines)


@pytest.mark.parametrize(
    ("extension", "compiler"),
    [
        (b"\0x\0GNU C11 12.2.0 -O3 -std=gnu11\0y\0", ("GNU C11 12.2.0", "-O3 -std=gnu11")),
        (b"\0x\0Debian clang version 14.0.6\0y\0", ("Debian clang version 14.0.6", "")),
        (b"\0x\0", ("unknown", "")),
    ],
)
def test_compiler_is_told_by_the_extension(extension: bytes, compiler: tuple[str, str]) -> None:
    assert table.compiler_of(extension) == compiler


def test_the_kept_tables_agree() -> None:
    kept = json.loads(table.KEPT.read_text(encoding="utf-8"))
    assert set(kept["counts"]) == {name for case in CASES for name in case.rows}
    changed = copy.deepcopy(kept)
    for row in changed["counts"].values():
        row["instructions"] *= 1.06
    assert not table.compare(kept, changed)[1]
    assert table.compare(kept, kept)[1]
