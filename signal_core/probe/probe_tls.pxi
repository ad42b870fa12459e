# Python wrappers and micro benchmarks of TLS 1.3's record layer. For probe.pyx.
# Input goes into a buffer of exactly its size, so that AddressSanitizer sees a byte read past it.

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from signal_core.base.span cimport span_of
from signal_core.base.sys cimport se_now_ns
from signal_core.wire.tls_post cimport (
    ALERT_SIZE, KEY_UPDATE_SIZE, TlsPost, tls_post_alert as c_tls_post_alert,
    tls_post_handshake as c_tls_post_handshake, tls_post_put_alert as c_tls_post_put_alert,
    tls_post_put_update as c_tls_post_put_update, tls_post_waits as c_tls_post_waits,
)
from signal_core.wire.tls_record cimport (
    TLS_ADDED, TLS_DATA, TLS_HEAD, TlsKeys, TlsRecord, se_aead_free, se_aead_new, se_crypto_load, se_suite_hash,
    se_suite_key, tls_record_check_layout, tls_record_derive, tls_record_open as c_tls_record_open, tls_record_seal,
    tls_record_update, tls_record_wears, tls_record_wipe,
)


cdef class TlsCiphers:
    """The aead of a loop, which its connections share."""
    cdef void* aead

    def __cinit__(self):
        if not se_crypto_load():
            raise ImportError("libcrypto is missing")
        self.aead = se_aead_new()
        if self.aead == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.aead != NULL:
            se_aead_free(self.aead)


cdef class TlsDirection:
    """One direction of a connection: its keys."""
    cdef TlsKeys keys
    cdef int suite
    cdef TlsCiphers ciphers

    def __cinit__(self, bytes secret, int suite, TlsCiphers ciphers):
        tls_record_check_layout()
        if <size_t>len(secret) != se_suite_hash(suite):
            raise ValueError("the secret has another size than the suite's hash")
        self.suite = suite
        self.ciphers = ciphers
        memcpy(self.keys.secret, <const char*>secret, len(secret))
        if not tls_record_derive(&self.keys, suite):
            raise RuntimeError("libcrypto failed")

    @property
    def number(self):
        return self.keys.number

    @number.setter
    def number(self, uint32_t value):
        self.keys.number = value

    @property
    def secret(self):
        return bytes(self.keys.secret[:se_suite_hash(self.suite)])

    @property
    def key(self):
        return bytes(self.keys.key[:se_suite_key(self.suite)])

    @property
    def iv(self):
        return bytes(self.keys.iv[:12])

    @property
    def wears(self):
        return tls_record_wears(&self.keys)

    @property
    def is_wiped(self):
        return bytes((<uint8_t*>&self.keys)[:sizeof(TlsKeys)]) == bytes(sizeof(TlsKeys))

    def wipe(self):
        tls_record_wipe(&self.keys)

    def update(self):
        if not tls_record_update(&self.keys, self.suite):
            raise RuntimeError("libcrypto failed")

    def seal(self, bytes plain, uint8_t type):
        """The record; None: it is refused."""
        cdef uint8_t* record = <uint8_t*>malloc(len(plain) + TLS_ADDED)
        cdef size_t size
        if record == NULL:
            raise MemoryError
        memcpy(record + TLS_HEAD, <const char*>plain, len(plain))
        size = tls_record_seal(self.ciphers.aead, &self.keys, self.suite, record, len(plain), type)
        made = bytes(record[:size]) if size else None
        free(record)
        return made

    def open(self, bytes data, size_t most):
        """Returns (result, type, plaintext), or (-1, alert, None), or (-2, None, None)."""
        cdef TlsRecord record
        cdef uint8_t* p = ws_copy(data)
        cdef int size
        memset(&record, 0, sizeof(record))
        size = c_tls_record_open(self.ciphers.aead, &self.keys, self.suite, p, len(data), most, &record)
        if size > 0:
            found = (size, record.type, bytes(record.data[:record.size]))
        else:
            found = (size, record.alert if size == -1 else None, None)
        free(p)
        return found


def tls_post_handshake(list records):
    """Handles the contents of successive records. Returns the last result, the alert, and whether the next must be a
    handshake record, too."""
    cdef TlsPost post
    cdef uint8_t alert = 0
    cdef uint8_t* p
    cdef int result = 0
    post.have = 0
    for content in records:
        p = ws_copy(content)
        result = c_tls_post_handshake(&post, span_of(p, len(content)), &alert)
        free(p)
        if result:
            break
    return result, alert, bool(c_tls_post_waits(&post))


def tls_post_alert(bytes content):
    """Returns the result and the alert."""
    cdef uint8_t alert = 0
    cdef uint8_t* p = ws_copy(content)
    cdef int result = c_tls_post_alert(span_of(p, len(content)), &alert)
    free(p)
    return result, alert


def tls_post_put_update(bint asks):
    cdef uint8_t out[KEY_UPDATE_SIZE]
    cdef size_t n = c_tls_post_put_update(out, asks)
    return bytes(out[:n])


def tls_post_put_alert(uint8_t alert):
    cdef uint8_t out[ALERT_SIZE]
    cdef size_t n = c_tls_post_put_alert(out, alert)
    return bytes(out[:n])


# -- benchmarks --

def bench_tls_record(uint64_t iterations, int suite=1, size_t plain=128, int connections=2):
    """Seals a record and opens it. With 1 connection the keys of the record before are kept; with 2, which take turns,
    each record is keyed anew."""
    cdef TlsCiphers ciphers = TlsCiphers()
    cdef TlsKeys send[2]
    cdef TlsKeys receive[2]
    cdef TlsRecord record
    cdef uint8_t* p = ws_copy(bytes(plain + TLS_ADDED))
    cdef uint64_t i, begun
    cdef size_t size, failed = 0
    memset(send, 0, sizeof(send))
    send[1].secret[0] = 1
    for i in range(2):
        tls_record_derive(&send[i], suite)
        receive[i] = send[i]
    begun = se_now_ns()
    for i in range(iterations):
        size = tls_record_seal(ciphers.aead, &send[i % connections], suite, p, plain, TLS_DATA)
        failed += c_tls_record_open(ciphers.aead, &receive[i % connections], suite, p, size, plain, &record) < 0
        PROBE_KEEP(p)
    begun = se_now_ns() - begun
    free(p)
    if failed:
        raise RuntimeError("a record was not opened")
    return begun / <double>iterations
