"""The log's thread: nobody waits for a descriptor that takes nothing, and dropped lines are counted in the log."""

import contextlib
import errno
import fcntl
import os
import random
import re
import threading
import time
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

import kit
from signal_py.base.log_writer import LINE_MOST, LineStream, LineWriter, write_within

PIPE = 16384  # bytes that the pipes of these tests hold: more than a page, since poll() looks for a free one


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """A small pipe: its read end and its write end."""
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, PIPE)
    try:
        yield ends
    finally:
        for end in ends:
            with contextlib.suppress(OSError):
                os.close(end)


def missing(lines: int) -> bytes:
    return b"missing %d\n" % lines


def read_all(descriptor: int) -> bytes:
    found = b""
    while chunk := os.read(descriptor, 65536):
        found += chunk
    return found


def accounted(lines: list[bytes], most: int) -> list[int]:
    """The numbers of the lines, -n for `missing n`; asserts that each of 0 to `most` is there once, in order."""
    at, found = 0, []
    for line in lines:
        number = int(line.rpartition(b" ")[2])
        found.append(-number if line.startswith(b"missing") else number)
        if line.startswith(b"missing"):
            at += number
        else:
            assert number == at, lines
            at += 1
    assert at == most, lines
    return found


def test_dropped_lines_are_counted_where_they_are_missing() -> None:
    with pipe() as (ours, theirs):
        writer = LineWriter(theirs, missing, pending=20000)
        start = time.monotonic()
        for number in range(5000):
            writer.put(b"%s %d\n" % (b"x" * 40, number))
        assert time.monotonic() - start < kit.PATIENCE and writer.dropped > 3000
        read: list[bytes] = []
        reader = threading.Thread(target=lambda: read.append(read_all(ours)))
        reader.start()
        kit.until(lambda: writer._untold == 0, "they are counted")
        assert writer.dropped < 5000
        writer.put(b"y 5000\n")
        writer.close(kit.PATIENCE)
        os.close(theirs)
        reader.join()
        found = accounted(read[0].splitlines(), 5001)
        assert [number for number in found if number < 0] == [-writer.dropped]
        assert found[-1] == 5000


@settings(max_examples=30)
@given(st.lists(st.integers(1, 9000), max_size=60), st.integers(2000, 30000), st.integers(0, 1000))
def test_every_line_is_written_or_counted(sizes: list[int], pending: int, seed: int) -> None:
    """With lines of any size, and any reader."""
    chance = random.Random(seed)
    with pipe() as (ours, theirs):
        read: list[bytes] = []

        def slowly() -> None:
            while chunk := os.read(ours, chance.randint(1, 3000)):
                read.append(chunk)

        reader = threading.Thread(target=slowly)
        writer = LineWriter(theirs, missing, pending)
        for number, size in enumerate(sizes):
            if number == len(sizes) // 2:
                reader.start()
            writer.put(b"%s %d\n" % (b"x" * size, number))
        if not reader.ident:
            reader.start()
        writer.close(kit.PATIENCE)
        os.close(theirs)
        reader.join()
        accounted(b"".join(read).splitlines(), len(sizes))


def test_lines_dropped_while_others_are_counted() -> None:
    with pipe() as (ours, theirs):

        def slow_missing(lines: int) -> bytes:
            if not counting.is_set():  # another line is dropped meanwhile
                counting.set()
                writer.put(b"c 2\n")
            return missing(lines)

        counting = threading.Event()
        writer = LineWriter(theirs, slow_missing, pending=100)
        with writer._stirred:  # all at once
            writer.put(b"a 0\n")
            writer.put(b"b" * 100 + b" 1\n")
        assert counting.wait(kit.PATIENCE)
        kit.until(lambda: not writer._full, "it takes lines again")
        with writer._stirred:
            writer.put(b"d 3\n")
            writer.put(b"e" * 100 + b" 4\n")
        writer.close(kit.PATIENCE)
        os.close(theirs)
        assert accounted(read_all(ours).splitlines(), 5)[-2:] == [3, -1]


def test_lines_dropped_last_are_counted_at_the_end() -> None:
    with pipe() as (ours, theirs):
        counting, closing = threading.Event(), threading.Event()

        def slow_missing(lines: int) -> bytes:
            if not counting.is_set():
                writer.put(b"b" * 100 + b" 1\n")
                counting.set()
                assert closing.wait(kit.PATIENCE)
            return missing(lines)

        writer = LineWriter(theirs, slow_missing, pending=100)
        writer.put(b"a" * 100 + b" 0\n")
        assert counting.wait(kit.PATIENCE)
        ended = threading.Thread(target=writer.close, args=(kit.PATIENCE,))
        ended.start()
        kit.until(lambda: writer._end is not None, "it is being closed")
        closing.set()
        ended.join()
        os.close(theirs)
        assert accounted(read_all(ours).splitlines(), 2) == [-1, -1]


def test_close_waits_no_longer_than_its_timeout() -> None:
    with pipe() as (_, theirs):
        writer = LineWriter(theirs, missing)
        for _ in range(100):
            writer.put(b"x" * 1000 + b"\n")
        writer.close(0.2)
        writer._thread.join(kit.PATIENCE)
        assert not writer._thread.is_alive()
        assert 80 <= writer.dropped <= 100
        writer.put(b"late\n")
        assert writer.dropped <= 101


def test_a_full_disk() -> None:
    """Lines that could not be written are counted before the next one that can."""
    with pipe() as (ours, theirs):
        held = os.open("/dev/full", os.O_WRONLY)
        assert refuses(held) == errno.ENOSPC
        writer = LineWriter(held, missing)
        for number in range(3):
            writer.put(b"x %d\n" % number)
        kit.until(lambda: writer.dropped == 3, "they are dropped")
        os.dup2(theirs, held)
        writer.put(b"x 3\n")
        writer.close(kit.PATIENCE)
        os.close(held)
        os.close(theirs)
        assert read_all(ours) == b"missing 3\nx 3\n"


def test_a_reader_that_is_gone_and_a_descriptor_that_is_closed() -> None:
    with pipe() as (ours, theirs):
        writer = LineWriter(theirs, missing)
        os.close(ours)
        writer.put(b"x\n")
        kit.until(lambda: writer.dropped == 1, "nobody can read it")
        held = os.dup(theirs)
        writer.close(kit.PATIENCE)
        writer = LineWriter(held, missing)
        os.close(held)
        writer.put(b"x\n")
        kit.until(lambda: writer.dropped == 1, "it can't be written")
        writer.close(kit.PATIENCE)


def refuses(descriptor: int) -> int | None:
    try:
        os.write(descriptor, b"x")
    except OSError as error:
        return error.errno
    return None


def test_a_pipe_that_does_not_block() -> None:
    with pipe() as (ours, theirs):
        os.set_blocking(theirs, False)
        os.write(theirs, b"x" * (PIPE - 100) + b"\n")
        writer = LineWriter(theirs, missing)
        writer.put(b"y" * 2000 + b"\n")
        read: list[bytes] = []
        reader = threading.Thread(target=lambda: read.append(read_all(ours)))
        reader.start()
        writer.close(kit.PATIENCE)
        os.close(theirs)
        reader.join()
        assert read[0].splitlines()[1] == b"y" * 2000 and writer.dropped == 0


def test_printed_text_is_written_in_whole_lines() -> None:
    with pipe() as (ours, theirs):
        writer = LineWriter(theirs, missing)
        stream = LineStream(writer, theirs)
        print("one", "two", sep="\n", end="", file=stream)
        print(" and half", file=stream)
        print("\udc80 no end", end="", file=stream)
        stream.flush()
        assert stream.fileno() == theirs and not stream.isatty()
        writer.close(kit.PATIENCE)
        os.close(theirs)
        assert read_all(ours) == b"one\ntwo and half\n\\udc80 no end\n"


def test_an_endless_line_is_cut() -> None:
    """Otherwise it would be kept, and copied with each printed piece."""
    with pipe() as (ours, theirs):
        writer = LineWriter(theirs, missing)
        stream = LineStream(writer, theirs)
        for _ in range(40):
            assert stream.write("x" * 4000) == 4000
        read: list[bytes] = []
        reader = threading.Thread(target=lambda: read.append(read_all(ours)))
        reader.start()
        writer.close(kit.PATIENCE)
        os.close(theirs)
        reader.join()
        assert read[0] == (b"x" * LINE_MOST + b"\n") * 2


def test_write_within_gives_up_in_time() -> None:
    with pipe() as (ours, theirs):
        write_within(theirs, b"x" * PIPE, kit.PATIENCE)
        write_within(theirs, b"lost", 0.1)
        os.close(theirs)
        assert re.fullmatch(b"x{%d}" % PIPE, read_all(ours))
