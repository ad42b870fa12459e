"""The record layer of TLS 1.3 (RFC 8446 §5), from the end of the handshake on. Pure: bytes in, bytes or an alert out.

A record is opened and sealed where it lies. A nonce is never used twice: the number of a record is counted before the
record is sealed, and a number that is used up is refused. The caller asks for new keys long before that
(tls_record_wears).
"""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy
from signal_core.base.limits cimport TLS_RECORD, TLS_RECORDS_PER_KEY
from signal_core.base.sys cimport SE_ASSERT, SE_STATIC_ASSERT

cdef extern from "se_crypto.h" nogil:
    enum:
        SE_AEAD_FORGED
        SE_AEAD_GOOD
        SE_AEAD_NONCE
        SE_AEAD_TAG
        SE_HASH_MOST
    bint se_crypto_load()
    void* se_aead_new()
    void se_aead_free(void* aead)
    bint se_aead_seal(void* aead, int suite, const uint8_t* key, const uint8_t* nonce, const uint8_t* head,
                      size_t head_size, uint8_t* p, size_t n)
    int se_aead_open(void* aead, int suite, const uint8_t* key, const uint8_t* nonce, const uint8_t* head,
                     size_t head_size, uint8_t* p, size_t n)
    size_t se_suite_hash(int suite)
    size_t se_suite_key(int suite)
    bint se_expand_label(int suite, const uint8_t* secret, const char* label, uint8_t* out, size_t n)
    void se_wipe(void* p, size_t n)

cdef enum:
    # Content types (§5.1)
    TLS_ALERT = 21
    TLS_HANDSHAKE = 22
    TLS_DATA = 23

    # Alerts (§6)
    ALERT_CLOSE_NOTIFY = 0
    ALERT_UNEXPECTED_MESSAGE = 10
    ALERT_BAD_RECORD_MAC = 20
    ALERT_RECORD_OVERFLOW = 22
    ALERT_ILLEGAL_PARAMETER = 47
    ALERT_DECODE_ERROR = 50
    ALERT_INTERNAL_ERROR = 80
    ALERT_USER_CANCELED = 90

    TLS_HEAD = 5              # bytes of a record's header
    TLS_ADDED = 22            # bytes that a sealed record has besides its plaintext: header, inner type, tag
    TLS_EXPANSION = 256       # bytes by which a ciphertext may exceed TLS_RECORD (§5.2)
    NUMBER_END = 0xffffffff   # a record with this number is never sealed or opened

cdef struct TlsKeys:          # one direction of a connection
    uint8_t secret[48]        # 48 application traffic secret: as long as the suite's hash
    uint8_t key[32]           # 32 as long as the cipher's
    uint8_t iv[12]            # 12
    uint32_t number           # 4  sequence number of the next record

cdef struct TlsRecord:        # what an opened record contains; or why it could not be opened
    uint8_t* data             # plaintext, within the record
    uint32_t size             # ... its bytes
    uint8_t type              # TLS_ALERT, TLS_HANDSHAKE or TLS_DATA
    uint8_t alert             # ALERT_* for the peer


cdef inline void tls_record_check_layout() noexcept nogil:
    SE_STATIC_ASSERT(sizeof(TlsKeys) == 96)
    SE_STATIC_ASSERT(SE_HASH_MOST == 48)
    SE_STATIC_ASSERT(SE_AEAD_NONCE == 12)
    SE_STATIC_ASSERT(TLS_ADDED == TLS_HEAD + 1 + SE_AEAD_TAG)


# -- keys --

cdef inline bint tls_record_derive(TlsKeys* keys, int suite) noexcept nogil:
    """Derives key and IV from the secret (§7.3); the next record has number 0. False: libcrypto failed."""
    keys.number = 0
    return (se_expand_label(suite, keys.secret, b"key", keys.key, se_suite_key(suite))
            and se_expand_label(suite, keys.secret, b"iv", keys.iv, SE_AEAD_NONCE))


cdef inline bint tls_record_update(TlsKeys* keys, int suite) noexcept nogil:
    """Replaces the secret by the next one (§7.2), and derives from it. False: libcrypto failed."""
    return (se_expand_label(suite, keys.secret, b"traffic upd", keys.secret, se_suite_hash(suite))
            and tls_record_derive(keys, suite))


cdef inline bint tls_record_wears(const TlsKeys* keys) noexcept nogil:
    """Whether the keys have been used for so many records that they should be replaced (§5.5)."""
    return keys.number >= TLS_RECORDS_PER_KEY


cdef inline void tls_record_wipe(TlsKeys* keys) noexcept nogil:
    """Overwrites the keys. libcrypto must be loaded."""
    se_wipe(keys, sizeof(TlsKeys))


cdef inline void _nonce(const TlsKeys* keys, uint32_t number, uint8_t* out) noexcept nogil:
    """Writes the nonce of a record: its number in 64 bits, big-endian, padded on the left, XOR the IV (§5.3)."""
    memcpy(out, keys.iv, SE_AEAD_NONCE)
    out[8] ^= <uint8_t>(number >> 24)
    out[9] ^= <uint8_t>(number >> 16)
    out[10] ^= <uint8_t>(number >> 8)
    out[11] ^= <uint8_t>number


# -- sealing --

cdef inline size_t tls_record_seal(
    void* aead, TlsKeys* keys, int suite, uint8_t* record, size_t n, uint8_t type,
) noexcept nogil:
    """Seals the `n` bytes of plaintext, TLS_RECORD at most, that lie TLS_HEAD bytes behind `record`. Returns the bytes
    of the record, n + TLS_ADDED, for which there must be room. 0: the numbers are used up, or libcrypto failed; then
    nothing may be sent."""
    cdef uint8_t nonce[12]
    cdef size_t size = n + 1 + SE_AEAD_TAG
    cdef uint32_t number = keys.number
    SE_ASSERT(n <= TLS_RECORD)
    if number == NUMBER_END:
        return 0
    keys.number = number + 1
    _nonce(keys, number, nonce)
    record[0] = TLS_DATA
    record[1] = record[2] = 3
    record[3] = <uint8_t>(size >> 8)
    record[4] = <uint8_t>size
    record[TLS_HEAD + n] = type
    if not se_aead_seal(aead, suite, keys.key, nonce, record, TLS_HEAD, record + TLS_HEAD, n + 1):
        return 0
    return TLS_HEAD + size


# -- opening --

cdef inline int _fail(TlsRecord* out, uint8_t alert) noexcept nogil:
    out.alert = alert
    return -1


cdef inline int _head(const uint8_t* p, size_t most, TlsRecord* out) noexcept nogil:
    """Returns the bytes behind a header, or -1 with the alert. Plaintext records are an error after the handshake,
    change_cipher_spec included (§5). The version is ignored (§5.1)."""
    cdef int size = p[3] << 8 | p[4]
    if p[0] != TLS_DATA:
        return _fail(out, ALERT_UNEXPECTED_MESSAGE)
    if size > TLS_RECORD + TLS_EXPANSION or size > <int>most + 1 + SE_AEAD_TAG:
        return _fail(out, ALERT_RECORD_OVERFLOW)
    return size if size >= SE_AEAD_TAG else _fail(out, ALERT_BAD_RECORD_MAC)


cdef inline size_t _unpadded(const uint8_t* p, size_t n) noexcept nogil:
    """Returns the bytes without the zeros at their end, of which there may be 16 KiB: read 8 at a time."""
    cdef uint64_t word
    while n >= sizeof(word):
        memcpy(&word, p + n - sizeof(word), sizeof(word))
        if word:
            break
        n -= sizeof(word)
    while n and p[n - 1] == 0:
        n -= 1
    return n


cdef inline bint _inner(uint8_t* p, size_t n, TlsRecord* out) noexcept nogil:
    """Fills in what the `n` decrypted bytes contain: content, type, zeros (§5.2). False: it is not allowed (§5.4)."""
    n = _unpadded(p, n)
    if n == 0:
        return False
    out.data = p
    out.size = <uint32_t>n - 1
    out.type = p[n - 1]
    if out.type == TLS_DATA:
        return True
    return out.size != 0 and (out.type == TLS_HANDSHAKE or out.type == TLS_ALERT)


cdef inline int tls_record_open(
    void* aead, TlsKeys* keys, int suite, uint8_t* p, size_t n, size_t most, TlsRecord* out,
) noexcept nogil:
    """Opens the record that begins at `p`, in place. Returns its bytes; -2: it is incomplete; -1: it is bad, out.alert
    says why, and no further record can be opened.

    `most`: how many bytes of plaintext and padding it may have, TLS_RECORD at most. RFC 8449 §4 counts the type, too.
    """
    cdef uint8_t nonce[12]
    cdef int size, opened
    if n < TLS_HEAD:
        return -2
    size = _head(p, most, out)
    if size < 0:
        return -1
    if n - TLS_HEAD < <size_t>size:
        return -2
    if keys.number == NUMBER_END:
        return _fail(out, ALERT_INTERNAL_ERROR)
    _nonce(keys, keys.number, nonce)
    opened = se_aead_open(aead, suite, keys.key, nonce, p, TLS_HEAD, p + TLS_HEAD, <size_t>size - SE_AEAD_TAG)
    if opened != SE_AEAD_GOOD:
        return _fail(out, ALERT_BAD_RECORD_MAC if opened == SE_AEAD_FORGED else ALERT_INTERNAL_ERROR)
    keys.number += 1
    if not _inner(p + TLS_HEAD, <size_t>size - SE_AEAD_TAG, out):
        return _fail(out, ALERT_UNEXPECTED_MESSAGE)
    return TLS_HEAD + size
