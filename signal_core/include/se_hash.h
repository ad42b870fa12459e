/* SipHash-1-3 (Aumasson and Bernstein): keyed, so that clients cannot choose names that collide. */
#ifndef SE_HASH_H
#define SE_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SE_ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
#define SE_SIPROUND(a, b, c, d)                                                  \
    do {                                                                         \
        a += b; b = SE_ROTL(b, 13); b ^= a; a = SE_ROTL(a, 32);                  \
        c += d; d = SE_ROTL(d, 16); d ^= c;                                      \
        a += d; d = SE_ROTL(d, 21); d ^= a;                                      \
        c += b; b = SE_ROTL(b, 17); b ^= c; c = SE_ROTL(c, 32);                  \
    } while (0)

static inline uint64_t se_siphash13(const uint64_t key[2], const void *data, size_t n)
{
    const uint8_t *p = (const uint8_t *)data;
    uint64_t a = key[0] ^ 0x736f6d6570736575ULL, b = key[1] ^ 0x646f72616e646f6dULL;
    uint64_t c = key[0] ^ 0x6c7967656e657261ULL, d = key[1] ^ 0x7465646279746573ULL;
    uint64_t last = (uint64_t)n << 56, word;
    size_t left = n;
    for (; left >= 8; left -= 8, p += 8) {
        memcpy(&word, p, 8);
        d ^= word;
        SE_SIPROUND(a, b, c, d);
        a ^= word;
    }
    for (size_t i = 0; i < left; i++)
        last |= (uint64_t)p[i] << (8 * i);
    d ^= last;
    SE_SIPROUND(a, b, c, d);
    a ^= last;
    c ^= 0xff;
    SE_SIPROUND(a, b, c, d);
    SE_SIPROUND(a, b, c, d);
    SE_SIPROUND(a, b, c, d);
    return a ^ b ^ c ^ d;
}

#endif
