/* Unmasking, runs of ASCII, and a UTF-8 automaton. SSE2 where the target has it, else 8 bytes at a time. Nothing
 * needs alignment; nothing is read or written outside [p, p + n). */
#ifndef SE_SIMD_H
#define SE_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define SE_HIGH_BITS 0x8080808080808080ULL

static inline uint32_t se_load32(const uint8_t *p)
{
    uint32_t word;
    memcpy(&word, p, sizeof(word));
    return word;
}

static inline uint64_t se_load64(const uint8_t *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof(word));
    return word;
}

/* -- unmasking (RFC 6455 5.3) -- */

/* The key rotated for payload byte `phase`: byte j of the result is key[(phase + j) % 4]. */
static inline uint32_t se_turn_key(uint32_t key, size_t phase)
{
    unsigned bits = (unsigned)(phase & 3) * 8;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return key >> bits | key << ((32 - bits) & 31);
#else
    return key << bits | key >> ((32 - bits) & 31);
#endif
}

static inline uint64_t se_twice(uint32_t key)
{
    return (uint64_t)key << 32 | key;
}

/* Up to 7 bytes. The last 4 may overlap the first 4, so both are read before either is written. */
static inline void se_xor_few(uint8_t *p, size_t n, uint32_t key)
{
    if (n >= 4) {
        uint32_t first = se_load32(p) ^ key;
        uint32_t last = se_load32(p + n - 4) ^ se_turn_key(key, n);
        memcpy(p, &first, 4);
        memcpy(p + n - 4, &last, 4);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint32_t turned = se_turn_key(key, i);
        uint8_t byte;
        memcpy(&byte, &turned, 1);
        p[i] ^= byte;
    }
}

/* 8 bytes or more. The last word may overlap one of the loop, so it is read first and written last. */
static inline void se_xor_words(uint8_t *p, size_t n, uint32_t key)
{
    size_t end = n - 8;
    uint64_t twice = se_twice(key), last = se_load64(p + end) ^ se_twice(se_turn_key(key, end));
    for (size_t i = 0; i < end; i += 8) {
        uint64_t word = se_load64(p + i) ^ twice;
        memcpy(p + i, &word, 8);
    }
    memcpy(p + end, &last, 8);
}

#ifdef __SSE2__
/* As se_xor_words, for 16 bytes or more. */
static inline void se_xor_blocks(uint8_t *p, size_t n, uint32_t key)
{
    size_t end = n - 16;
    __m128i mask = _mm_set1_epi32((int)key);
    __m128i last = _mm_xor_si128(_mm_loadu_si128((const __m128i *)(p + end)),
                                 _mm_set1_epi32((int)se_turn_key(key, end)));
    for (size_t i = 0; i < end; i += 16) {
        __m128i block = _mm_loadu_si128((const __m128i *)(p + i));
        _mm_storeu_si128((__m128i *)(p + i), _mm_xor_si128(block, mask));
    }
    _mm_storeu_si128((__m128i *)(p + end), last);
}
#endif

/* XORs p[i] with key[i % 4]. */
static inline void se_xor_mask(uint8_t *p, size_t n, const uint8_t *key)
{
    uint32_t word = se_load32(key);
#ifdef __SSE2__
    if (n >= 16) {
        se_xor_blocks(p, n, word);
        return;
    }
#endif
    if (n >= 8)
        se_xor_words(p, n, word);
    else
        se_xor_few(p, n, word);
}

/* -- ASCII -- */

#ifdef __SSE2__
static inline unsigned se_high_bits(const uint8_t *p)
{
    return (unsigned)_mm_movemask_epi8(_mm_loadu_si128((const __m128i *)p));
}

/* The length of the run of ASCII that p starts with, rounded down to a multiple of 64. */
static inline size_t se_ascii_lines(const uint8_t *p, size_t n)
{
    size_t i = 0;
    for (; n - i >= 64; i += 64) {
        const __m128i *block = (const __m128i *)(p + i);
        __m128i low = _mm_or_si128(_mm_loadu_si128(block), _mm_loadu_si128(block + 1));
        __m128i high = _mm_or_si128(_mm_loadu_si128(block + 2), _mm_loadu_si128(block + 3));
        if (_mm_movemask_epi8(_mm_or_si128(low, high)))
            break;
    }
    return i;
}
#endif

/* The length of the run of ASCII that p starts with. */
static inline size_t se_ascii_prefix(const uint8_t *p, size_t n)
{
    size_t i = 0;
#ifdef __SSE2__
    i = se_ascii_lines(p, n);
    for (; n - i >= 16; i += 16) {
        unsigned bits = se_high_bits(p + i);
        if (bits)
            return i + (size_t)__builtin_ctz(bits);
    }
    if (i != 0 && i != n) { /* the rest lies in the last 16 bytes; the first of these are known to be ASCII */
        unsigned bits = se_high_bits(p + n - 16);
        return bits ? n - 16 + (size_t)__builtin_ctz(bits) : n;
    }
#endif
    while (n - i >= 8 && !(se_load64(p + i) & SE_HIGH_BITS))
        i += 8;
    while (i < n && p[i] < 0x80)
        i++;
    return i;
}

/* -- the UTF-8 automaton (Unicode 15, table 3-7) --
 * A byte's table entry packs the successors of all nine states, six bits each. A state is the shift that brings its
 * successor down, so a byte costs one load and one shift, and no branch. A state says what must follow. */

enum {
    SE_UTF8_DONE = 0,   /* nothing: between two characters */
    SE_UTF8_BAD = 6,    /* malformed: no byte leads out of it */
    SE_UTF8_TAIL1 = 12, /* one byte 80..BF */
    SE_UTF8_TAIL2 = 18, /* two */
    SE_UTF8_TAIL3 = 24, /* three */
    SE_UTF8_E0 = 30,    /* A0..BF, one more: no overlong form */
    SE_UTF8_ED = 36,    /* 80..9F, one more: no surrogate */
    SE_UTF8_F0 = 42,    /* 90..BF, two more: no overlong form */
    SE_UTF8_F4 = 48     /* 80..8F, two more: nothing above U+10FFFF */
};

#define SE_FROM(state, next) ((uint64_t)SE_UTF8_##next << SE_UTF8_##state)
#define SE_LEAD(next)                                                                                   \
    (SE_FROM(DONE, next) | SE_FROM(BAD, BAD) | SE_FROM(TAIL1, BAD) | SE_FROM(TAIL2, BAD) |              \
     SE_FROM(TAIL3, BAD) | SE_FROM(E0, BAD) | SE_FROM(ED, BAD) | SE_FROM(F0, BAD) | SE_FROM(F4, BAD))
#define SE_CONT(e0, ed, f0, f4)                                                                         \
    (SE_FROM(DONE, BAD) | SE_FROM(BAD, BAD) | SE_FROM(TAIL1, DONE) | SE_FROM(TAIL2, TAIL1) |            \
     SE_FROM(TAIL3, TAIL2) | SE_FROM(E0, e0) | SE_FROM(ED, ed) | SE_FROM(F0, f0) | SE_FROM(F4, f4))

static const uint64_t se_utf8_next[256] = {
    [0x00 ... 0x7f] = SE_LEAD(DONE),
    [0x80 ... 0x8f] = SE_CONT(BAD, TAIL1, BAD, TAIL2),
    [0x90 ... 0x9f] = SE_CONT(BAD, TAIL1, TAIL2, BAD),
    [0xa0 ... 0xbf] = SE_CONT(TAIL1, BAD, TAIL2, BAD),
    [0xc0 ... 0xc1] = SE_LEAD(BAD),
    [0xc2 ... 0xdf] = SE_LEAD(TAIL1),
    [0xe0] = SE_LEAD(E0),
    [0xe1 ... 0xec] = SE_LEAD(TAIL2),
    [0xed] = SE_LEAD(ED),
    [0xee ... 0xef] = SE_LEAD(TAIL2),
    [0xf0] = SE_LEAD(F0),
    [0xf1 ... 0xf3] = SE_LEAD(TAIL3),
    [0xf4] = SE_LEAD(F4),
    [0xf5 ... 0xff] = SE_LEAD(BAD),
};

/* Returns the state after p, starting from `state`. */
static inline uint32_t se_utf8_step(uint32_t state, const uint8_t *p, size_t n)
{
    uint64_t next = state;
    for (size_t i = 0; i < n; i++)
        next = se_utf8_next[p[i]] >> (next & 63);
    return (uint32_t)(next & 63);
}

#endif
