/* System calls, compiler attributes, glibc tuning and clocks that Cython cannot declare. */
#ifndef SE_SYS_H
#define SE_SYS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <limits.h>
#include <linux/filter.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2U
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif

#define SE_STATIC_ASSERT(x) _Static_assert(x, #x)
#define SE_PREFETCH(p) __builtin_prefetch(p)

/* A condition that hardly ever holds: the compiler moves its branch out of the way and inlines nothing there. */
#if defined(__has_builtin)
#if __has_builtin(__builtin_expect_with_probability)
#define SE_RARE(x) __builtin_expect_with_probability(!!(x), 0, 1.0)
#endif
#endif
#ifndef SE_RARE
#define SE_RARE(x) __builtin_expect(!!(x), 0)
#endif

/* Return types in place of void, for GCC, which otherwise inlines by size alone. SE_COLD: hardly ever called, so
 * compiled for size and apart from its callers; a branch that ends in a call of it counts as rare. SE_INLINE: on a hot
 * path, so inlined whatever its size. */
#define SE_COLD __attribute__((cold)) void
#define SE_INLINE __attribute__((always_inline)) void

#ifdef SE_DEBUG
#define SE_ASSERT(x)                                                                      \
    do {                                                                                  \
        if (!(x)) {                                                                       \
            fprintf(stderr, "signal_core: invariant broken: %s (%s:%d)\n", #x, __FILE__, __LINE__); \
            abort();                                                                      \
        }                                                                                 \
    } while (0)
#else
#define SE_ASSERT(x) ((void)0)
#endif

static inline int se_compare_int(const void *a, const void *b)
{
    return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b);
}

/* Gives the calling thread a private descriptor table with 0 to 2 and the n descriptors of `keep`, which it sorts.
 * Returns 0, or an errno if the kernel or a sandbox refuses; the table then stays shared. ThreadSanitizer confuses
 * equal numbers in two tables, so its build keeps the shared one. */
static inline int se_own_descriptors(int *keep, size_t n)
{
#ifdef __SANITIZE_THREAD__
    (void)keep, (void)n;
    return ENOSYS;
#endif
    qsort(keep, n, sizeof *keep, se_compare_int);
    unsigned first = n && keep[n - 1] >= 3 ? (unsigned)keep[n - 1] + 1 : 3;
    if (syscall(SYS_close_range, first, ~0U, CLOSE_RANGE_UNSHARE) != 0)
        return errno;
    unsigned next = 3;
    for (size_t i = 0; i < n; i++) {
        if (keep[i] < 3)
            continue;
        if ((unsigned)keep[i] > next)
            syscall(SYS_close_range, next, (unsigned)keep[i] - 1, 0U);
        next = (unsigned)keep[i] + 1;
    }
    return 0;
}

/* Makes the kernel drop every SYN to a listener from now on, and nothing else: handshakes under way complete. The
 * filter sees a segment from its TCP header on. Returns 0, or an errno if it cannot be attached. */
static inline int se_refuse_syns(int listener)
{
    enum { FLAGS = 13, SYN = 0x02, ACK = 0x10 }; /* RFC 9293 section 3.1 */
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, FLAGS),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, SYN | ACK),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYN, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, 0xffffffffU),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    return setsockopt(listener, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0 ? 0 : errno;
}

/* Sends a descriptor over a socket of socketpair(), for another descriptor table (unix(7), SCM_RIGHTS). Returns 0 or an
 * errno. */
static inline int se_pass(int pair, int fd)
{
    char byte = 0;
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {.header = {.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec part = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    return sendmsg(pair, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == 1 ? 0 : errno;
}

/* Receives a descriptor from se_pass, in the calling thread's table. Returns it, or -1 with errno. */
static inline int se_passed(int pair)
{
    char byte;
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    int fd;
    if (recvmsg(pair, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) != 1)
        return -1;
    if (message.msg_controllen < CMSG_LEN(sizeof fd) || control.header.cmsg_type != SCM_RIGHTS) {
        errno = EMFILE; /* the kernel leaves out a descriptor for which the table has no room */
        return -1;
    }
    memcpy(&fd, CMSG_DATA(&control.header), sizeof fd);
    return fd;
}

/* Whether a client has closed or reset its end, even if bytes before that are unread. */
static inline int se_peer_left(int fd)
{
    struct pollfd one = {.fd = fd, .events = POLLRDHUP};
    return poll(&one, 1, 0) == 1;
}

/* The process's soft limit of descriptors. */
static inline int se_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur > INT_MAX)
        return INT_MAX;
    return (int)limit.rlim_cur;
}

/* Reads how many ms ago the other end last acknowledged anything, and how many bytes it has acknowledged in all, modulo
 * 2**32. The offsets are those of the kernel's struct tcp_info (linux/tcp.h); the C library's lacks later members.
 * Returns whether the kernel reports them. */
static inline int se_acknowledged(int fd, uint32_t *quiet_ms, uint32_t *bytes)
{
    enum { LAST_ACK_RECV = 56, BYTES_ACKED = 120, KNOWN = 128 };
    char info[KNOWN];
    uint64_t acked;
    socklen_t n = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &n) != 0 || n < KNOWN)
        return 0;
    memcpy(quiet_ms, info + LAST_ACK_RECV, sizeof *quiet_ms);
    memcpy(&acked, info + BYTES_ACKED, sizeof acked);
    *bytes = (uint32_t)acked;
    return 1;
}

/* The system calls of every message. The C library's are cancellation points: in a process with threads each takes two
 * more functions and two locked operations. Nothing cancels a loop. Sanitizers need the C library's. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define se_recv recv
#define se_send send
#define se_sendmsg sendmsg
#define se_epoll_wait epoll_wait
#else
static inline ssize_t se_recv(int fd, void *p, size_t n, int flags)
{
    return syscall(SYS_recvfrom, fd, p, n, flags, NULL, NULL);
}

static inline ssize_t se_send(int fd, const void *p, size_t n, int flags)
{
    return syscall(SYS_sendto, fd, p, n, flags, NULL, (size_t)0);
}

static inline ssize_t se_sendmsg(int fd, const struct msghdr *message, int flags)
{
    return syscall(SYS_sendmsg, fd, message, flags);
}

static inline int se_epoll_wait(int epoll, struct epoll_event *events, int most, int timeout)
{
    return (int)syscall(SYS_epoll_pwait, epoll, events, most, timeout, NULL, (size_t)0);
}
#endif

/* Starts a thread with every signal blocked; `name` has at most 15 bytes. Returns 0 or an errno. */
static inline int se_thread_start(pthread_t *thread, void *(*body)(void *), void *argument, const char *name)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(thread, NULL, body, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!failed)
        pthread_setname_np(*thread, name);
    return failed;
}

/* Makes glibc merge each small block when it is freed. By default it sets them aside and merges all at the next large
 * allocation: with millions of blocks that takes seconds. */
static inline void se_malloc_steadily(void)
{
#ifdef M_MXFAST
    mallopt(M_MXFAST, 0);
#endif
}

/* Only in glibc: returns the free pages of all arenas to the system. */
extern int malloc_trim(size_t) __attribute__((weak));

static inline int se_malloc_trims(void)
{
    return malloc_trim != NULL;
}

/* Only if se_malloc_trims(). */
static inline void se_malloc_trim(void)
{
    malloc_trim(0);
}

/* Returns the whole pages within a block of the heap to the system. Their contents are lost. */
static inline void se_pages_free(void *p, size_t n)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t begin = ((uintptr_t)p + page - 1) & ~(page - 1), end = ((uintptr_t)p + n) & ~(page - 1);
    if (begin < end)
        madvise((void *)begin, end - begin, MADV_DONTNEED);
}

/* Grows a block from `known` to `size` bytes and zeroes the new ones; p may be NULL. NULL without memory: the block
 * then stays. Rarely called, so kept out of its callers. */
__attribute__((noinline, cold, unused)) static void *se_widened(void *p, size_t known, size_t size)
{
    char *wide = realloc(p, size);
    if (wide != NULL)
        memset(wide + known, 0, size - known);
    return wide;
}

static inline uint64_t se_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

static inline uint64_t se_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The index of the highest bit that is set; v is not 0. */
static inline uint32_t se_top_bit(uint64_t v)
{
    return 63u - (uint32_t)__builtin_clzll(v);
}

/* Reads from an open /proc/…/schedstat how long a thread has waited for a processor in all, and how often it got one
 * (Documentation/scheduler/sched-stats.rst). Returns whether the kernel counts that. */
static inline int se_waited(int schedstat, uint64_t *ns, uint64_t *turns)
{
    char text[80], *end;
    ssize_t n = pread(schedstat, text, sizeof text - 1, 0);
    if (n <= 0)
        return 0;
    text[n] = 0;
    strtoull(text, &end, 10);
    *ns = strtoull(end, &end, 10);
    *turns = strtoull(end, &end, 10);
    return *turns != 0;
}

#endif
