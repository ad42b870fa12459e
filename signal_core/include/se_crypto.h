/* The ciphers and the key derivation of TLS 1.3's record layer, by the system's OpenSSL. It is loaded at first use: an
 * engine without TLS needs none, and the build needs no headers. An aead belongs to one thread at a time.
 * Source: RFC 8446 §5.2 and §7.1, RFC 5869 §2.3, OpenSSL's manual, section 3. */
#ifndef SE_CRYPTO_H
#define SE_CRYPTO_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "se_library.h"

/* The cipher suites, by the low byte of their number (RFC 8446 §B.4). */
enum {
    SE_AES_128_GCM_SHA256 = 1,
    SE_AES_256_GCM_SHA384 = 2,
    SE_CHACHA20_POLY1305_SHA256 = 3,
    SE_SUITES = 4,
};

enum {
    SE_AEAD_NONCE = 12,
    SE_AEAD_TAG = 16,
    SE_HASH_MOST = 48,  /* bytes of SHA-384 */
    SE_LABEL_MOST = 64, /* bytes of an HkdfLabel and the counter behind it */
    SE_KEY_MOST = 32,

    /* Results of se_aead_open */
    SE_AEAD_GOOD = 1,
    SE_AEAD_FORGED = 0,
    SE_AEAD_FAILED = -1, /* libcrypto failed */

    SE_EVP_CTRL_AEAD_GET_TAG = 0x10, /* evp.h: part of OpenSSL's ABI */
    SE_EVP_CTRL_AEAD_SET_TAG = 0x11,
};

/* OpenSSL's functions: all pointers are set, or none. */
static struct {
    void *(*EVP_CIPHER_CTX_new)(void);
    void (*EVP_CIPHER_CTX_free)(void *);
    int (*EVP_CIPHER_CTX_ctrl)(void *, int, int, void *);
    int (*EVP_CipherInit_ex)(void *, const void *, void *, const unsigned char *, const unsigned char *, int);
    int (*EVP_CipherUpdate)(void *, unsigned char *, int *, const unsigned char *, int);
    int (*EVP_CipherFinal_ex)(void *, unsigned char *, int *);
    const void *(*EVP_aes_128_gcm)(void);
    const void *(*EVP_aes_256_gcm)(void);
    const void *(*EVP_chacha20_poly1305)(void);
    const void *(*EVP_sha256)(void);
    const void *(*EVP_sha384)(void);
    unsigned char *(*HMAC)(const void *, const void *, int, const unsigned char *, size_t, unsigned char *,
                           unsigned int *);
    void (*OPENSSL_cleanse)(void *, size_t);
} se_evp;

/* Whether libcrypto 1.1 or newer is loaded; loads it if not. Call it with the GIL. */
static inline int se_crypto_load(void)
{
    static const char *const libraries[] = {"libcrypto.so.3", "libcrypto.so.1.1", "libcrypto.so", NULL};
    static const char *const names[] = {
        "EVP_CIPHER_CTX_new", "EVP_CIPHER_CTX_free", "EVP_CIPHER_CTX_ctrl", "EVP_CipherInit_ex", "EVP_CipherUpdate",
        "EVP_CipherFinal_ex", "EVP_aes_128_gcm", "EVP_aes_256_gcm", "EVP_chacha20_poly1305", "EVP_sha256", "EVP_sha384",
        "HMAC", "OPENSSL_cleanse",
    };
    _Static_assert(sizeof names == sizeof se_evp, "a name for each function");
    return se_evp.HMAC != NULL || se_library_load(libraries, names, sizeof names / sizeof *names, &se_evp) != NULL;
}

/* A context of OpenSSL, and the key that it has. */
struct se_cipher {
    void *context; /* NULL: libcrypto refuses the cipher, as in FIPS mode */
    int keyed;     /* 0: it has none yet */
    uint8_t key[SE_KEY_MOST];
};

/* The ciphers of a loop, for each suite and direction: 0 opens, 1 seals. Each keeps its last key until it gets another
 * one or is freed. */
struct se_aead {
    struct se_cipher ciphers[SE_SUITES][2];
};

/* Overwrites secrets. libcrypto must be loaded. */
static inline void se_wipe(void *p, size_t n)
{
    se_evp.OPENSSL_cleanse(p, n);
}

static inline void se_aead_free(void *aead)
{
    struct se_aead *a = (struct se_aead *)aead;
    if (a == NULL)
        return;
    for (int suite = 1; suite < SE_SUITES; suite++) {
        se_evp.EVP_CIPHER_CTX_free(a->ciphers[suite][0].context);
        se_evp.EVP_CIPHER_CTX_free(a->ciphers[suite][1].context);
    }
    se_wipe(a, sizeof *a);
    free(a);
}

/* Returns an aead, for se_aead_free. NULL: no memory. */
static inline void *se_aead_new(void)
{
    const void *(*const ciphers[SE_SUITES])(void) = {
        NULL, se_evp.EVP_aes_128_gcm, se_evp.EVP_aes_256_gcm, se_evp.EVP_chacha20_poly1305};
    struct se_aead *a = (struct se_aead *)calloc(1, sizeof *a);
    for (int suite = 1; a != NULL && suite < SE_SUITES; suite++) {
        for (int seals = 0; seals < 2; seals++) {
            void *context = se_evp.EVP_CIPHER_CTX_new();
            if (context == NULL) {
                se_aead_free(a);
                return NULL;
            }
            if (se_evp.EVP_CipherInit_ex(context, ciphers[suite](), NULL, NULL, NULL, seals))
                a->ciphers[suite][seals].context = context;
            else
                se_evp.EVP_CIPHER_CTX_free(context);
        }
    }
    return a;
}

/* Bytes of a suite's hash, and of its traffic secrets. */
static inline size_t se_suite_hash(int suite)
{
    return suite == SE_AES_256_GCM_SHA384 ? 48 : 32;
}

static inline size_t se_suite_key(int suite)
{
    return suite == SE_AES_128_GCM_SHA256 ? 16 : 32;
}

/* Whether two keys of `n` bytes, a multiple of 8, are the same. How long it takes tells nothing about them. */
static inline int se_same_key(const uint8_t *one, const uint8_t *other, size_t n)
{
    uint64_t differ = 0, a, b;
    for (size_t i = 0; i < n; i += sizeof a) {
        memcpy(&a, one + i, sizeof a);
        memcpy(&b, other + i, sizeof b);
        differ |= a ^ b;
    }
    return differ == 0;
}

/* Begins a record; `head` is authenticated. The cipher is keyed anew only for another key, which saves two fifths of a
 * short record's time when a connection's records follow each other (bench/micro.py --only tls_record). It is its bytes
 * that are compared: they change with a key update, and when another connection gets the memory of a closed one. */
static inline int se_aead_begin(struct se_cipher *cipher, int suite, const uint8_t *key, const uint8_t *nonce,
                                const uint8_t *head, size_t head_size)
{
    size_t n = se_suite_key(suite);
    int same = cipher->keyed && se_same_key(cipher->key, key, n), size;
    cipher->keyed = 0;
    if (cipher->context == NULL ||
        !se_evp.EVP_CipherInit_ex(cipher->context, NULL, NULL, same ? NULL : key, nonce, -1))
        return 0;
    if (!same)
        memcpy(cipher->key, key, n);
    cipher->keyed = 1;
    return se_evp.EVP_CipherUpdate(cipher->context, NULL, &size, head, (int)head_size);
}

/* Encrypts `n` bytes in place and writes their tag behind them. `head` is authenticated, too. False: libcrypto
 * failed. */
static inline int se_aead_seal(void *aead, int suite, const uint8_t *key, const uint8_t *nonce, const uint8_t *head,
                               size_t head_size, uint8_t *p, size_t n)
{
    struct se_cipher *cipher = &((struct se_aead *)aead)->ciphers[suite][1];
    int size;
    return se_aead_begin(cipher, suite, key, nonce, head, head_size) &&
           se_evp.EVP_CipherUpdate(cipher->context, p, &size, p, (int)n) && size == (int)n &&
           se_evp.EVP_CipherFinal_ex(cipher->context, p + n, &size) &&
           se_evp.EVP_CIPHER_CTX_ctrl(cipher->context, SE_EVP_CTRL_AEAD_GET_TAG, SE_AEAD_TAG, p + n);
}

/* Decrypts `n` bytes in place; their tag lies behind them. Returns SE_AEAD_*; unless that is SE_AEAD_GOOD, the bytes
 * are undefined. */
static inline int se_aead_open(void *aead, int suite, const uint8_t *key, const uint8_t *nonce, const uint8_t *head,
                               size_t head_size, uint8_t *p, size_t n)
{
    struct se_cipher *cipher = &((struct se_aead *)aead)->ciphers[suite][0];
    uint8_t rest[SE_AEAD_TAG];
    int size;
    if (!se_aead_begin(cipher, suite, key, nonce, head, head_size) ||
        !se_evp.EVP_CIPHER_CTX_ctrl(cipher->context, SE_EVP_CTRL_AEAD_SET_TAG, SE_AEAD_TAG, p + n) ||
        !se_evp.EVP_CipherUpdate(cipher->context, p, &size, p, (int)n) || size != (int)n)
        return SE_AEAD_FAILED;
    return se_evp.EVP_CipherFinal_ex(cipher->context, rest, &size) == 1 ? SE_AEAD_GOOD : SE_AEAD_FORGED;
}

/* Writes HKDF-Expand-Label(secret, label, "", n) to `out`, where n is at most the size of the hash: one block of HKDF.
 * `label` has at most 40 bytes, without "tls13 ". False: libcrypto failed. */
static inline int se_expand_label(int suite, const uint8_t *secret, const char *label, uint8_t *out, size_t n)
{
    uint8_t info[SE_LABEL_MOST] = {0, (uint8_t)n}, block[SE_HASH_MOST];
    size_t hash = se_suite_hash(suite), size = strlen(label), at = 3;
    unsigned int written = 0;
    info[2] = (uint8_t)(6 + size);
    memcpy(info + at, "tls13 ", 6);
    memcpy(info + at + 6, label, size);
    at += 6 + size;
    info[at++] = 0; /* no context */
    info[at++] = 1; /* the number of the block */
    int good = se_evp.HMAC(hash == 48 ? se_evp.EVP_sha384() : se_evp.EVP_sha256(), secret, (int)hash, info, at, block,
                           &written) != NULL;
    memcpy(out, block, n);
    se_evp.OPENSSL_cleanse(block, sizeof block);
    return good && written == hash;
}

#endif
