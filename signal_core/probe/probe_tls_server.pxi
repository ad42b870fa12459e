# Python wrappers of TLS handshakes of clients. For probe.pyx.
# Input goes into a buffer of exactly its size, so that AddressSanitizer sees a byte read past it.

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

cdef extern from "se_tls_server.h":
    struct se_server_taken:
        uint8_t client[48]
        uint8_t server[48]
        uint32_t written
        uint8_t suite
        uint8_t resumed
    struct se_server_io:
        size_t out_size
        char* reason
        uint8_t* out
    int se_server_load()
    se_server_io* se_server_io_new()
    void se_server_io_free(se_server_io* io)
    void* se_server_set_new(const char* cert, const char* key, const char** wrong, char* reason, size_t room)
    void se_server_set_free(void* server_set)
    void* se_server_session_new(void* server_set, se_server_io* io)
    void se_server_session_free(void* ssl)
    void se_server_taken_wipe(se_server_taken* taken)
    int se_server_step(
        se_server_io* io, void* ssl, const uint8_t* data, size_t n, size_t* used, se_server_taken* taken)


cdef class TlsServerIo:
    """The memory BIO of a loop, which its handshakes share."""
    cdef se_server_io* io

    def __cinit__(self):
        if not se_server_load():
            raise ImportError("libssl is missing")
        self.io = se_server_io_new()
        if self.io == NULL:
            raise MemoryError

    def __dealloc__(self):
        se_server_io_free(self.io)


cdef class TlsServerSet:
    """A certificate and its key. ValueError: (which file is wrong, why)."""
    cdef void* made

    def __cinit__(self, str cert, str key):
        cdef const char* wrong
        cdef char reason[200]
        if not se_server_load():
            raise ImportError("libssl is missing")
        self.made = se_server_set_new(cert.encode(), key.encode(), &wrong, reason, sizeof(reason))
        if self.made == NULL:
            raise ValueError(wrong.decode(), reason.decode())

    def __dealloc__(self):
        if self.made != NULL:
            se_server_set_free(self.made)


cdef class TlsServerSession:
    """A client's handshake."""
    cdef void* ssl
    cdef TlsServerIo io
    cdef se_server_taken taken

    def __cinit__(self, TlsServerSet server_set, TlsServerIo io):
        self.io = io
        self.ssl = se_server_session_new(server_set.made, io.io)
        if self.ssl == NULL:
            raise MemoryError

    def step(self, bytes data):
        """Returns the result, the bytes used, the bytes to send, and why it failed."""
        cdef size_t used = 0
        cdef size_t n = len(data)
        cdef uint8_t* exact = <uint8_t*>malloc(n)
        if exact == NULL and n:
            raise MemoryError
        memcpy(exact, <const char*>data, n)
        result = se_server_step(self.io.io, self.ssl, exact, n, &used, &self.taken)
        free(exact)
        return result, used, bytes(self.io.io.out[:self.io.io.out_size]), self.io.io.reason.decode()

    @property
    def secrets(self):
        """The client's and the server's, 48 bytes each."""
        return bytes(self.taken.client[:48]), bytes(self.taken.server[:48])

    @property
    def state(self):
        """Suite, whether it was resumed, and records written under the server's secret."""
        return self.taken.suite, bool(self.taken.resumed), self.taken.written

    def __dealloc__(self):
        if self.ssl != NULL:
            se_server_session_free(self.ssl)
            se_server_taken_wipe(&self.taken)
