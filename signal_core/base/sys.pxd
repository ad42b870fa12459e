"""Declarations from the kernel, the C library and include/ that the data path uses."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t

cdef extern from "se_sys.h" nogil:
    ctypedef unsigned long pthread_t
    ctypedef void SE_COLD
    ctypedef void SE_INLINE
    void SE_STATIC_ASSERT(bint x)
    void SE_ASSERT(bint x)
    void SE_PREFETCH(const void* p)
    bint SE_RARE(bint x)
    int se_own_descriptors(int* keep, size_t n)
    int se_refuse_syns(int listener)
    int se_pass(int pair, int fd)
    int se_passed(int pair)
    bint se_peer_left(int fd)
    int se_descriptors()
    bint se_acknowledged(int fd, uint32_t* quiet_ms, uint32_t* bytes)
    int se_thread_start(pthread_t* thread, void* (*body)(void*) noexcept nogil, void* argument, const char* name)
    void se_malloc_steadily()
    bint se_malloc_trims()
    void se_malloc_trim()
    void se_pages_free(void* p, size_t n)
    void* se_widened(void* p, size_t known, size_t size)
    uint64_t se_now_ms()
    uint64_t se_now_ns()
    uint32_t se_top_bit(uint64_t v)
    bint se_waited(int schedstat, uint64_t* ns, uint64_t* turns)
    int pthread_join(pthread_t thread, void** result)

cdef extern from "se_atomic.h" nogil:
    uint64_t se_load_relaxed(const uint64_t* p)
    uint64_t se_load_acquire(const uint64_t* p)
    uint64_t se_load_seqcst(const uint64_t* p)
    void se_store_relaxed(uint64_t* p, uint64_t v)
    void se_store_release(uint64_t* p, uint64_t v)
    void se_store_seqcst(uint64_t* p, uint64_t v)
    uint64_t se_add_relaxed(uint64_t* p, uint64_t v)
    uint64_t se_sub_relaxed(uint64_t* p, uint64_t v)
    uint64_t se_add_seqcst(uint64_t* p, uint64_t v)
    uint16_t se_load16_seqcst(const uint16_t* p)
    uint16_t se_or16_seqcst(uint16_t* p, uint16_t v)
    uint16_t se_and16_seqcst(uint16_t* p, uint16_t v)
    uint64_t se_swap_seqcst(uint64_t* p, uint64_t v)
    uint8_t se_load8_acquire(const uint8_t* p)
    void se_store8_release(uint8_t* p, uint8_t v)
    bint se_count_below(uint32_t* p, uint32_t most)
    void se_uncount(uint32_t* p)
    bint se_cas_relaxed(uint64_t* p, uint64_t* expected, uint64_t v)
    void* se_pointer_acquire(void** p)
    void se_pointer_release(void** p, void* v)
    void* se_pointer_swap_acqrel(void** p, void* v)
    bint se_pointer_cas_seqcst(void** p, void** expected, void* v)
    void se_lock(uint64_t* p)
    void se_unlock(uint64_t* p)

cdef extern from "se_hash.h" nogil:
    uint64_t se_siphash13(const uint64_t* key, const void* data, size_t n)

cdef extern from "<errno.h>" nogil:
    int errno
    enum:
        EAGAIN
        EINTR
        EINPROGRESS
        EINVAL
        EBUSY
        ESHUTDOWN
        EMFILE
        ENFILE
        ENOMEM
        ENOBUFS

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    enum:
        EPOLLIN
        EPOLLET
        EPOLLEXCLUSIVE
        EPOLLOUT
        EPOLLERR
        EPOLLHUP
        EPOLL_CTL_ADD
        EPOLL_CTL_MOD
        EPOLL_CTL_DEL
        EPOLL_CLOEXEC
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    int epoll_wait "se_epoll_wait"(int epfd, epoll_event* events, int most, int timeout)

cdef extern from "<sys/eventfd.h>" nogil:
    enum:
        EFD_NONBLOCK
        EFD_CLOEXEC
    int eventfd(unsigned int initial, int flags)

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        pass
    struct in6_addr:
        pass
    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    enum:
        IPPROTO_TCP
        IPPROTO_IPV6
        IPV6_V6ONLY

cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        TCP_NODELAY

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t v)
    int inet_pton(int family, const char* text, void* out)
    const char* inet_ntop(int family, const void* address, char* out, unsigned int size)

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr:
        uint16_t sa_family
    struct sockaddr_storage:
        pass
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    enum:
        AF_INET
        AF_INET6
        AF_UNIX
        SOCK_STREAM
        SOCK_SEQPACKET
        SOCK_NONBLOCK
        SOCK_CLOEXEC
        SOL_SOCKET
        SO_REUSEADDR
        SO_REUSEPORT
        SO_SNDBUF
        SO_RCVBUF
        SO_ERROR
        SHUT_RD
        SHUT_WR
        MSG_NOSIGNAL
        MSG_DONTWAIT
        MSG_PEEK
    int socket(int domain, int type, int protocol)
    int socketpair(int domain, int type, int protocol, int* pair)
    int bind(int fd, const sockaddr* address, socklen_t n)
    int listen(int fd, int backlog)
    int connect(int fd, const sockaddr* address, socklen_t n)
    int accept4(int fd, sockaddr* address, socklen_t* n, int flags)
    int setsockopt(int fd, int level, int name, const void* value, socklen_t n)
    int getpeername(int fd, sockaddr* address, socklen_t* n)
    int getsockopt(int fd, int level, int name, void* value, socklen_t* n)
    int shutdown(int fd, int how)
    ssize_t recv "se_recv"(int fd, void* buffer, size_t n, int flags)
    ssize_t send "se_send"(int fd, const void* buffer, size_t n, int flags)
    ssize_t sendmsg "se_sendmsg"(int fd, const msghdr* message, int flags)

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)
    enum:
        FIONREAD

cdef extern from "<linux/sockios.h>" nogil:
    enum:
        SIOCOUTQ

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    ssize_t read(int fd, void* buffer, size_t n)
    ssize_t write(int fd, const void* buffer, size_t n)

cdef extern from "<fcntl.h>" nogil:
    int open(const char* path, int flags, ...)
    enum:
        O_RDONLY
        O_CLOEXEC

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void* buffer, size_t n, unsigned int flags)

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_READ
        PROT_WRITE
        MAP_PRIVATE
        MAP_ANONYMOUS
        MAP_NORESERVE
    void* MAP_FAILED
    void* mmap(void* address, size_t n, int protection, int flags, int fd, long offset)
    int munmap(void* address, size_t n)
