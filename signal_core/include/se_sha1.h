/* SHA-1 (RFC 3174) and base64 (RFC 4648) for the WebSocket handshake; not for secrets. */
#ifndef SE_SHA1_H
#define SE_SHA1_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SE_SHA1_SIZE 20
#define SE_SHA1_ROTL(x, b) ((x) << (b) | (x) >> (32 - (b)))

static inline uint32_t se_get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline void se_put32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

static inline uint32_t se_sha1_mix(unsigned round, uint32_t b, uint32_t c, uint32_t d)
{
    if (round < 20)
        return ((b & c) | (~b & d)) + 0x5a827999U;
    if (round < 40)
        return (b ^ c ^ d) + 0x6ed9eba1U;
    if (round < 60)
        return ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdcU;
    return (b ^ c ^ d) + 0xca62c1d6U;
}

static inline void se_sha1_block(uint32_t h[5], const uint8_t *p)
{
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (unsigned i = 0; i < 16; i++)
        w[i] = se_get32(p + 4 * i);
    for (unsigned i = 16; i < 80; i++) {
        uint32_t x = w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16];
        w[i] = SE_SHA1_ROTL(x, 1);
    }
    for (unsigned i = 0; i < 80; i++) {
        uint32_t sum = SE_SHA1_ROTL(a, 5) + se_sha1_mix(i, b, c, d) + e + w[i];
        e = d;
        d = c;
        c = SE_SHA1_ROTL(b, 30);
        b = a;
        a = sum;
    }
    h[0] += a;
    h[1] += b;
    h[2] += c;
    h[3] += d;
    h[4] += e;
}

/* Writes the digest of n bytes to out[SE_SHA1_SIZE]. */
static inline void se_sha1(const uint8_t *p, size_t n, uint8_t *out)
{
    uint32_t h[5] = {0x67452301U, 0xefcdab89U, 0x98badcfeU, 0x10325476U, 0xc3d2e1f0U};
    uint8_t end[128] = {0}; /* one block or two: the remaining bytes, 0x80, zeros, the length in bits */
    size_t left = n % 64, size = left < 56 ? 64 : 128;
    for (size_t i = 0; i + 64 <= n; i += 64)
        se_sha1_block(h, p + i);
    if (left)
        memcpy(end, p + n - left, left);
    end[left] = 0x80;
    se_put32(end + size - 8, (uint32_t)((uint64_t)n >> 29));
    se_put32(end + size - 4, (uint32_t)((uint64_t)n << 3));
    for (size_t i = 0; i < size; i += 64)
        se_sha1_block(h, end + i);
    for (unsigned i = 0; i < 5; i++)
        se_put32(out + 4 * i, h[i]);
}

/* Encodes n bytes with padding; returns the characters written, (n + 2) / 3 * 4. */
static inline size_t se_base64_put(const uint8_t *p, size_t n, char *out)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *start = out;
    for (size_t i = 0; i < n; i += 3) {
        size_t left = n - i;
        uint32_t bits = (uint32_t)p[i] << 16;
        bits |= left > 1 ? (uint32_t)p[i + 1] << 8 : 0;
        bits |= left > 2 ? (uint32_t)p[i + 2] : 0;
        *out++ = alphabet[bits >> 18];
        *out++ = alphabet[bits >> 12 & 63];
        *out++ = left > 1 ? alphabet[bits >> 6 & 63] : '=';
        *out++ = left > 2 ? alphabet[bits & 63] : '=';
    }
    return (size_t)(out - start);
}

#endif
