/* Raw deflate of whole messages (RFC 7692 §7.2), by the system's zlib. It is loaded at first use: an engine without
 * compression needs none, and the build needs no headers. Source: zlib.h, whose struct is part of its ABI. */
#ifndef SE_ZLIB_H
#define SE_ZLIB_H

#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "se_library.h"

/* zlib's constants. */
enum {
    SE_Z_NO_FLUSH = 0,
    SE_Z_SYNC_FLUSH = 2,
    SE_Z_FULL_FLUSH = 3,
    SE_Z_OK = 0,
    SE_Z_STREAM_END = 1,
    SE_Z_MEM_ERROR = -4,
    SE_Z_BUF_ERROR = -5,
    SE_Z_DEFLATED = 8,
    SE_Z_AT_BLOCK = 128, /* z_stream.data_type: inflate is between two blocks */
};

/* Result of se_inflate. */
enum {
    SE_INFLATED = 1, /* the whole message */
    SE_INFLATE_FULL = 0, /* the output has no room: call it again */
    SE_INFLATE_BAD = -1,
    SE_INFLATE_MEMORY = -2,
};

typedef struct {
    const uint8_t *next_in;
    unsigned avail_in;
    unsigned long total_in;
    uint8_t *next_out;
    unsigned avail_out;
    unsigned long total_out;
    const char *msg;
    void *state; /* NULL: it is not made */
    void *(*zalloc)(void *, unsigned, unsigned);
    void (*zfree)(void *, void *);
    void *opaque;
    int data_type;
    unsigned long adler;
    unsigned long reserved;
} se_zstream;

_Static_assert(sizeof(void *) != 8 || sizeof(se_zstream) == 112, "the layout of zlib's z_stream");

/* zlib's functions: all pointers are set, or none. */
static struct {
    int (*deflateInit2_)(se_zstream *, int, int, int, int, int, const char *, int);
    int (*deflateReset)(se_zstream *);
    int (*deflate)(se_zstream *, int);
    int (*deflateEnd)(se_zstream *);
    int (*inflateInit2_)(se_zstream *, int, const char *, int);
    int (*inflateReset)(se_zstream *);
    int (*inflate)(se_zstream *, int);
    int (*inflateEnd)(se_zstream *);
    const char *(*zlibVersion)(void);
} se_z;

/* The last bytes of a message's stream, which are not sent. */
static const uint8_t se_deflate_tail[4] = {0, 0, 0xff, 0xff};

/* Whether zlib is loaded; loads it if not. Call it with the GIL. */
static inline int se_zlib_load(void)
{
    static const char *const libraries[] = {"libz.so.1", NULL};
    static const char *const names[] = {
        "deflateInit2_", "deflateReset", "deflate", "deflateEnd", "inflateInit2_",
        "inflateReset", "inflate", "inflateEnd", "zlibVersion",
    };
    _Static_assert(sizeof names == sizeof se_z, "a name for each function");
    return se_z.deflate != NULL || se_library_load(libraries, names, sizeof names / sizeof *names, &se_z) != NULL;
}

/* zlib's allocator: adds the bytes to the counter `opaque`, and keeps their number before them. */
static void *se_zlib_alloc(void *opaque, unsigned items, unsigned size)
{
    size_t bytes = (size_t)items * size;
    size_t *block = malloc(bytes + 16);
    if (block == NULL)
        return NULL;
    *block = bytes;
    *(uint64_t *)opaque += bytes;
    return (char *)block + 16;
}

static void se_zlib_free(void *opaque, void *p)
{
    size_t *block = (size_t *)((char *)p - 16);
    *(uint64_t *)opaque -= *block;
    free(block);
}

static inline void se_zlib_prepare(se_zstream *z, uint64_t *bytes)
{
    memset(z, 0, sizeof(*z));
    z->zalloc = se_zlib_alloc;
    z->zfree = se_zlib_free;
    z->opaque = bytes;
}

/* Makes a state that compresses; `bytes` counts its memory. Returns 0 without memory. */
static inline int se_deflate_open(se_zstream *z, int level, int window_bits, int memory, uint64_t *bytes)
{
    se_zlib_prepare(z, bytes);
    return se_z.deflateInit2_(z, level, SE_Z_DEFLATED, -window_bits, memory, 0, se_z.zlibVersion(), sizeof(*z)) ==
           SE_Z_OK;
}

/* Makes a state that decompresses any window; `bytes` counts its memory. Returns 0 without memory. */
static inline int se_inflate_open(se_zstream *z, uint64_t *bytes)
{
    se_zlib_prepare(z, bytes);
    return se_z.inflateInit2_(z, -15, se_z.zlibVersion(), sizeof(*z)) == SE_Z_OK;
}

static inline void se_deflate_close(se_zstream *z)
{
    if (z->state != NULL)
        se_z.deflateEnd(z);
    z->state = NULL;
}

static inline void se_inflate_close(se_zstream *z)
{
    if (z->state != NULL)
        se_z.inflateEnd(z);
    z->state = NULL;
}

/* Compresses a message by itself, such that a window of `window` bytes is enough to decompress it: a full flush after
 * as many bytes forgets them. Returns the bytes written; 0: they are more than `room`, less SE_DEFLATE_SPARE. */
enum { SE_DEFLATE_SPARE = 5 };

static inline size_t se_deflate(se_zstream *z, const uint8_t *p, size_t n, size_t window, uint8_t *out, size_t room)
{
    if (room > UINT_MAX)
        room = UINT_MAX;
    se_z.deflateReset(z);
    z->next_in = p;
    z->next_out = out;
    z->avail_out = (unsigned)room;
    while (n) {
        unsigned part = (unsigned)(n < window ? n : window);
        n -= part;
        z->avail_in = part;
        if (se_z.deflate(z, n ? SE_Z_FULL_FLUSH : SE_Z_SYNC_FLUSH) != SE_Z_OK || z->avail_out == 0)
            return 0;
    }
    room -= z->avail_out;
    if (room <= sizeof se_deflate_tail || memcmp(z->next_out - 4, se_deflate_tail, sizeof se_deflate_tail) != 0)
        return 0;
    return room - sizeof se_deflate_tail;
}

/* Begins to decompress a message. `p` is read until se_inflate returns something else than SE_INFLATE_FULL. */
static inline void se_inflate_begin(se_zstream *z, const uint8_t *p, size_t n)
{
    se_z.inflateReset(z);
    z->next_in = p;
    z->avail_in = (unsigned)n;
}

/* Decompresses into z->next_out, z->avail_out bytes at most. `tailed` is 0 at a message's first call. A message may
 * have final blocks, and more after them (RFC 7692 §7.2.3.4). */
static inline int se_inflate(se_zstream *z, int *tailed)
{
    for (;;) {
        int result = se_z.inflate(z, SE_Z_NO_FLUSH);
        if (result == SE_Z_STREAM_END) {
            if (*tailed)
                return SE_INFLATE_BAD;
            if (z->avail_in == 0)
                return SE_INFLATED;
            se_z.inflateReset(z);
            continue;
        }
        if (result == SE_Z_MEM_ERROR)
            return SE_INFLATE_MEMORY;
        if (result != SE_Z_OK && result != SE_Z_BUF_ERROR)
            return SE_INFLATE_BAD;
        if (z->avail_out == 0)
            return SE_INFLATE_FULL;
        if (*tailed)
            return z->data_type & SE_Z_AT_BLOCK ? SE_INFLATED : SE_INFLATE_BAD;
        *tailed = 1;
        z->next_in = se_deflate_tail;
        z->avail_in = sizeof se_deflate_tail;
    }
}

#endif
