"""Runs a command that may not call close_range(2), as in a container with an old seccomp profile:
`python no_close_range.py COMMAND…`. Without it, loops have no descriptor tables of their own."""

import ctypes
import errno
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
CLOSE_RANGE = 436
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
# seccomp(2): the number of the system call is the first field of the data.
STEPS = [(LOAD, 0, 0, 0), (JUMP_EQUAL, 0, 1, CLOSE_RANGE), (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_void_p)]


if __name__ == "__main__":
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in STEPS))
    program = Program(len(STEPS), ctypes.cast(code, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
    ):
        sys.exit(f"seccomp: {os.strerror(ctypes.get_errno())}")
    os.execvp(sys.argv[1], sys.argv[1:])
