/* Character classes and runs of them, short copies, and the base32 of addresses. SSE2 where the target has it, else
 * byte by byte. Nothing needs alignment; nothing is read or written outside [p, p + n). */
#ifndef SE_TEXT_H
#define SE_TEXT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* -- classes -- */

enum {
    SE_LOWER = 1, /* a-z 0-9 */
    SE_ALNUM = 2, /* a-z 0-9 A-Z */
    SE_ROOM = 4   /* 0x21-0x7e but '*' and '>' */
};

/* for HTTP */
enum {
    SE_HOST = 1,   /* a host's name without escapes: unreserved and sub-delims (RFC 3986 section 2) */
    SE_METHOD = 2, /* a method: tchar (RFC 9110 section 5.6.2) */
    SE_TARGET = 4, /* 0x21-0x7e but '#' */
    SE_BASE64 = 8  /* a digit of base64 (RFC 4648 section 4) */
};

static const uint8_t se_class[256] = {
    ['!' ... ')'] = SE_ROOM, ['+' ... '/'] = SE_ROOM,            ['0' ... '9'] = SE_ROOM | SE_ALNUM | SE_LOWER,
    [':' ... '='] = SE_ROOM, ['?' ... '@'] = SE_ROOM,            ['A' ... 'Z'] = SE_ROOM | SE_ALNUM,
    ['[' ... '`'] = SE_ROOM, ['a' ... 'z'] = SE_ROOM | SE_ALNUM | SE_LOWER, ['{' ... '~'] = SE_ROOM,
};

static const uint8_t se_http_class[256] = {
    ['!'] = 7,          ['"'] = SE_TARGET, ['#'] = SE_METHOD, ['$'] = 7,         ['%'] = SE_METHOD | SE_TARGET,
    ['&' ... '\''] = 7, ['('] = 5,         [')'] = 5,         ['*'] = 7,         ['+'] = 15,
    [','] = 5,          ['-' ... '.'] = 7, ['/'] = SE_TARGET | SE_BASE64,
    ['0' ... '9'] = 15, [':'] = SE_TARGET, [';'] = 5,         ['<'] = SE_TARGET, ['='] = 5,
    ['>' ... '@'] = SE_TARGET,             ['A' ... 'Z'] = 15, ['['] = SE_TARGET, ['\\'] = SE_TARGET,
    [']'] = SE_TARGET,  ['^'] = SE_METHOD | SE_TARGET,        ['_'] = 7,         ['`'] = SE_METHOD | SE_TARGET,
    ['a' ... 'z'] = 15, ['{'] = SE_TARGET, ['|'] = SE_METHOD | SE_TARGET,        ['}'] = SE_TARGET,
    ['~'] = 7,
};

/* The length of the run of bytes of an HTTP class that p starts with. */
static inline size_t se_http_run(const char *p, size_t n, uint8_t which)
{
    size_t i = 0;
    while (i < n && (se_http_class[(uint8_t)p[i]] & which))
        i++;
    return i;
}

static inline size_t se_host_run(const char *p, size_t n)
{
    return se_http_run(p, n, SE_HOST);
}

static inline size_t se_method_run(const char *p, size_t n)
{
    return se_http_run(p, n, SE_METHOD);
}

static inline size_t se_target_run(const char *p, size_t n)
{
    return se_http_run(p, n, SE_TARGET);
}

static inline size_t se_base64_run(const char *p, size_t n)
{
    return se_http_run(p, n, SE_BASE64);
}

#ifdef __SSE2__
/* 0xff for each byte of `block` that is in first..last, which are ASCII. */
static inline __m128i se_in_range(__m128i block, char first, char last)
{
    /* shifted so that the range begins at the lowest signed byte: one comparison then checks both ends */
    __m128i moved = _mm_add_epi8(block, _mm_set1_epi8((char)(-128 - first)));
    return _mm_cmplt_epi8(moved, _mm_set1_epi8((char)(-128 + last - first + 1)));
}
#endif

/* The length of the run of a-z0-9 that p starts with. */
static inline size_t se_lower_run(const char *p, size_t n)
{
    size_t i = 0;
#ifdef __SSE2__
    for (; n - i >= 16; i += 16) {
        __m128i block = _mm_loadu_si128((const __m128i *)(p + i));
        __m128i in = _mm_or_si128(se_in_range(block, '0', '9'), se_in_range(block, 'a', 'z'));
        unsigned out = (unsigned)_mm_movemask_epi8(in) ^ 0xffff;
        if (out)
            return i + (size_t)__builtin_ctz(out);
    }
#endif
    while (i < n && (se_class[(uint8_t)p[i]] & SE_LOWER))
        i++;
    return i;
}

/* The length of the run of bytes above 0x20 that p starts with: a word of a head or of a NATS line. */
static inline size_t se_token_run(const char *p, size_t n)
{
    size_t i = 0;
#ifdef __SSE2__
    for (; n - i >= 16; i += 16) {
        __m128i block = _mm_loadu_si128((const __m128i *)(p + i)), least = _mm_set1_epi8(' ' + 1);
        unsigned out = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_max_epu8(block, least), block)) ^ 0xffff;
        if (out)
            return i + (size_t)__builtin_ctz(out);
    }
#endif
    while (i < n && (uint8_t)p[i] > ' ')
        i++;
    return i;
}

/* Whether n bytes, 4 to 8, equal `lower` (lower-case letters and '-') in either case. Not exact: CR equals '-'. */
static inline int se_same_name(const char *p, const char *lower, size_t n)
{
    uint32_t first, last, want_first, want_last;
    memcpy(&first, p, 4);
    memcpy(&last, p + n - 4, 4);
    memcpy(&want_first, lower, 4);
    memcpy(&want_last, lower + n - 4, 4);
    return (((first | 0x20202020U) ^ want_first) | ((last | 0x20202020U) ^ want_last)) == 0;
}

/* memcpy, out of line: inlined, the compiler suspects that it writes more than 32 bytes into a smaller buffer. */
__attribute__((noinline, unused)) static void se_copy_long(char *restrict out, const char *restrict p, size_t n)
{
    memcpy(out, p, n);
}

/* memcpy for texts that are mostly shorter than 32 bytes: names, refs, addresses. */
__attribute__((always_inline)) static inline void se_copy_short(char *restrict out, const char *restrict p, size_t n)
{
    if (n > 32) {
        se_copy_long(out, p, n);
    } else if (n >= 16) { /* two blocks that may overlap, as below */
        memcpy(out, p, 16);
        memcpy(out + n - 16, p + n - 16, 16);
    } else if (n >= 8) {
        memcpy(out, p, 8);
        memcpy(out + n - 8, p + n - 8, 8);
    } else if (n >= 4) {
        memcpy(out, p, 4);
        memcpy(out + n - 4, p + n - 4, 4);
    } else if (n) {
        out[0] = p[0];
        out[n / 2] = p[n / 2];
        out[n - 1] = p[n - 1];
    }
}

/* -- base32: digits and letters without i, l, o and u -- */

static const char se_base32_text[33] = "0123456789abcdefghjkmnpqrstvwxyz";

#define SE_NOT_BASE32 0x80 /* no value has this bit */
static const uint8_t se_base32_value[256] = {
    [0 ... '0' - 1] = SE_NOT_BASE32,
    ['0'] = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9,
    ['9' + 1 ... 'a' - 1] = SE_NOT_BASE32,
    ['a'] = 10, 11, 12, 13, 14, 15, 16, 17, SE_NOT_BASE32, 18, 19, SE_NOT_BASE32, 20, 21, SE_NOT_BASE32,
    ['p'] = 22, 23, 24, 25, 26, SE_NOT_BASE32, 27, 28, 29, 30, 31,
    ['z' + 1 ... 255] = SE_NOT_BASE32,
};

#endif
