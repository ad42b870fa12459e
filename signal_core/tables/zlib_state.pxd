"""The state of zlib on a loop, which all its connections share: each message is compressed on its own.

zlib_state_deflater and zlib_state_inflater make its two halves at first use. thread_end (thread.pxd) frees it. No
other thread touches it. `bytes` counts what zlib allocates: about 310 KB with both halves.
"""

from libc.stdint cimport uint64_t, uint8_t
from libc.stdlib cimport calloc, free
from signal_core.base.limits cimport DEFLATE_MEMORY, INFLATE_PLAIN
from signal_core.tables.conn_table cimport Buffer

cdef extern from "se_zlib.h" nogil:
    ctypedef struct se_zstream:
        const uint8_t* next_in
        unsigned int avail_in
        uint8_t* next_out
        unsigned int avail_out
        void* state
    enum:
        SE_DEFLATE_SPARE
        SE_INFLATED
        SE_INFLATE_FULL
        SE_INFLATE_BAD
        SE_INFLATE_MEMORY
    bint se_zlib_load()
    bint se_deflate_open(se_zstream* z, int level, int window_bits, int memory, uint64_t* bytes)
    bint se_inflate_open(se_zstream* z, uint64_t* bytes)
    void se_deflate_close(se_zstream* z)
    void se_inflate_close(se_zstream* z)
    size_t se_deflate(se_zstream* z, const uint8_t* p, size_t n, size_t window, uint8_t* out, size_t room)
    void se_inflate_begin(se_zstream* z, const uint8_t* p, size_t n)
    int se_inflate(se_zstream* z, int* tailed)

cdef struct ZlibState:
    se_zstream deflate        # 112  compresses at `level`
    se_zstream inflate        # 112
    uint64_t bytes            # 8  allocated, this struct included
    Buffer* large             # 8  the decompressed message at hand, if it does not fit `plain`; else NULL
    int level                 # 4
    uint8_t plain[INFLATE_PLAIN]  # 16384  the decompressed message at hand


cdef inline ZlibState* _state(ZlibState** state) noexcept nogil:
    if state[0] == NULL:
        state[0] = <ZlibState*>calloc(1, sizeof(ZlibState))
        if state[0] != NULL:
            state[0].bytes = sizeof(ZlibState)
    return state[0]


cdef inline se_zstream* zlib_state_deflater(ZlibState** state, int level) noexcept nogil:
    """Returns what compresses at this level, 1 to 9. NULL without memory."""
    cdef ZlibState* z = _state(state)
    if z == NULL:
        return NULL
    if z.deflate.state != NULL and z.level != level:
        se_deflate_close(&z.deflate)
    if z.deflate.state == NULL and not se_deflate_open(&z.deflate, level, 15, DEFLATE_MEMORY, &z.bytes):
        return NULL
    z.level = level
    return &z.deflate


cdef inline ZlibState* zlib_state_inflater(ZlibState** state) noexcept nogil:
    """Returns the state, ready to decompress. NULL without memory."""
    cdef ZlibState* z = _state(state)
    if z == NULL or z.inflate.state == NULL and not se_inflate_open(&z.inflate, &z.bytes):
        return NULL
    return z


cdef inline void zlib_state_end(ZlibState* z) noexcept nogil:
    """Frees the state; no effect on NULL."""
    if z != NULL:
        se_deflate_close(&z.deflate)
        se_inflate_close(&z.inflate)
        free(z)
