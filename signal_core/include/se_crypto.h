/* The ciphers and the key derivation of TLS 1.3's record layer, by the system's OpenSSL. It is loaded at first use: an
 * engine without TLS needs none, and the build needs no headers. An aead belongs to one thread at a time.
 * Source: RFC 8446 §5.2 and §7.1, RFC 5869 §2.3, OpenSSL's manual, section 3. */
#ifndef SE_CRYPTO_H
#define SE_CRYPTO_H

#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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

static inline int se_crypto_bind(void *library)
{
    static const char *const names[] = {
        "EVP_CIPHER_CTX_new", "EVP_CIPHER_CTX_free", "EVP_CIPHER_CTX_ctrl", "EVP_CipherInit_ex", "EVP_CipherUpdate",
        "EVP_CipherFinal_ex", "EVP_aes_128_gcm", "EVP_aes_256_gcm", "EVP_chacha20_poly1305", "EVP_sha256", "EVP_sha384",
        "HMAC", "OPENSSL_cleanse",
    };
    void *found[sizeof names / sizeof *names];
    _Static_assert(sizeof found == sizeof se_evp, "a name for each function");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        found[i] = dlsym(library, names[i]);
        if (found[i] == NULL)
            return 0;
    }
    memcpy(&se_evp, found, sizeof found);
    return 1;
}

/* Whether libcrypto 1.1 or newer is loaded; loads it if not. Call it with the GIL. */
static inline int se_crypto_load(void)
{
    static const char *const libraries[] = {"libcrypto.so.3", "libcrypto.so.1.1", "libcrypto.so"};
    for (size_t i = 0; se_evp.HMAC == NULL && i < sizeof libraries / sizeof *libraries; i++) {
        void *library = dlopen(libraries[i], RTLD_NOW | RTLD_LOCAL);
        if (library != NULL && !se_crypto_bind(library))
            dlclose(library);
    }
    return se_evp.HMAC != NULL;
}

/* A context for each suite and direction: 0 opens, 1 seals. */
struct se_aead {
    void *contexts[SE_SUITES][2];
};

static inline void se_aead_free(void *aead)
{
    struct se_aead *a = (struct se_aead *)aead;
    for (int suite = 1; a != NULL && suite < SE_SUITES; suite++) {
        se_evp.EVP_CIPHER_CTX_free(a->contexts[suite][0]);
        se_evp.EVP_CIPHER_CTX_free(a->contexts[suite][1]);
    }
    free(a);
}

/* Returns an aead, for se_aead_free. NULL: no memory, or libcrypto does not have one of the ciphers. */
static inline void *se_aead_new(void)
{
    const void *(*const ciphers[SE_SUITES])(void) = {
        NULL, se_evp.EVP_aes_128_gcm, se_evp.EVP_aes_256_gcm, se_evp.EVP_chacha20_poly1305};
    struct se_aead *a = (struct se_aead *)calloc(1, sizeof *a);
    for (int suite = 1; a != NULL && suite < SE_SUITES; suite++) {
        for (int seals = 0; seals < 2; seals++) {
            void *context = a->contexts[suite][seals] = se_evp.EVP_CIPHER_CTX_new();
            if (context == NULL || !se_evp.EVP_CipherInit_ex(context, ciphers[suite](), NULL, NULL, NULL, seals)) {
                se_aead_free(a);
                return NULL;
            }
        }
    }
    return a;
}

/* Encrypts `n` bytes in place and writes their tag behind them. `head` is authenticated, too. The context is keyed anew
 * each time: that is cheaper than to keep one for every connection. False: libcrypto failed. */
static inline int se_aead_seal(void *aead, int suite, const uint8_t *key, const uint8_t *nonce, const uint8_t *head,
                               size_t head_size, uint8_t *p, size_t n)
{
    void *context = ((struct se_aead *)aead)->contexts[suite][1];
    int size;
    return se_evp.EVP_CipherInit_ex(context, NULL, NULL, key, nonce, 1) &&
           se_evp.EVP_CipherUpdate(context, NULL, &size, head, (int)head_size) &&
           se_evp.EVP_CipherUpdate(context, p, &size, p, (int)n) && size == (int)n &&
           se_evp.EVP_CipherFinal_ex(context, p + n, &size) &&
           se_evp.EVP_CIPHER_CTX_ctrl(context, SE_EVP_CTRL_AEAD_GET_TAG, SE_AEAD_TAG, p + n);
}

/* Decrypts `n` bytes in place; their tag lies behind them. False: they are not authentic, and undefined from then on. */
static inline int se_aead_open(void *aead, int suite, const uint8_t *key, const uint8_t *nonce, const uint8_t *head,
                               size_t head_size, uint8_t *p, size_t n)
{
    void *context = ((struct se_aead *)aead)->contexts[suite][0];
    uint8_t rest[SE_AEAD_TAG];
    int size;
    return se_evp.EVP_CipherInit_ex(context, NULL, NULL, key, nonce, 0) &&
           se_evp.EVP_CIPHER_CTX_ctrl(context, SE_EVP_CTRL_AEAD_SET_TAG, SE_AEAD_TAG, p + n) &&
           se_evp.EVP_CipherUpdate(context, NULL, &size, head, (int)head_size) &&
           se_evp.EVP_CipherUpdate(context, p, &size, p, (int)n) && size == (int)n &&
           se_evp.EVP_CipherFinal_ex(context, rest, &size) == 1;
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

static inline void se_wipe(void *p, size_t n)
{
    se_evp.OPENSSL_cleanse(p, n);
}

#endif
