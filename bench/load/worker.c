#include <errno.h>
#include <linux/close_range.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

enum {
    EVENTS = 512,
    OPEN_NS = 10 * 1000 * 1000,   /* the longest wait while connections are to be opened, */
    POLL_NS = 500 * 1000 * 1000,  /* and otherwise: WORKER_WAKE interrupts it */
    OPENING_MAX = 256,            /* handshakes under way in one thread, */
    OPENING_ALL = 4096,           /* and in all: about what a listener lets wait */
};

uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static _Noreturn void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    if (!memory)
        fail("load: memory");
    return memory;
}

/* Returns how many handshakes this thread has under way at most. */
static uint32_t opening_max(const struct worker *w)
{
    uint32_t share = OPENING_ALL / w->opt->threads;
    if (w->opt->mode == MODE_CHURN)
        return w->count;
    return share < OPENING_MAX ? share : OPENING_MAX;
}

static void prepare(struct worker *w)
{
    if (close_range(3, ~0U, CLOSE_RANGE_UNSHARE) < 0)
        perror("load: the threads share one table of descriptors: close_range");
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (w->epoll < 0)
        fail("load: epoll");
    w->conns = allocate(w->count, sizeof *w->conns);
    w->closed = allocate(w->count, sizeof *w->closed);
    w->cork = allocate(1, CORK_FLUSH + PAYLOAD_MAX + 1024);
    w->inbox = allocate(1, READ_SIZE + WS_MAX_FRAME + 64);
    w->filler = allocate(1, w->opt->payload);
    memset(w->filler, 'x', w->opt->payload);
    w->random = 0x9E3779B97F4A7C15ULL * (w->index + 1);
    w->opening_max = opening_max(w);
    for (uint32_t i = 0; i < w->count; i++) {
        w->conns[i].fd = -1;
        w->closed[w->closed_count++] = w->count - 1 - i;
    }
}

static void release(struct worker *w)
{
    for (uint32_t i = 0; i < w->count; i++)
        conn_close(w, &w->conns[i], -1);
    close(w->epoll);
    free(w->conns);
    free(w->closed);
    free(w->cork);
    free(w->inbox);
    free(w->filler);
}

/* Begins connects while there are some to open and not too many are under way. */
static void open_some(struct worker *w)
{
    bool wanted = w->phase == PHASE_OPEN || (w->opt->mode == MODE_STORM && w->phase == PHASE_SECOND);
    if (w->opt->mode == MODE_CHURN)
        wanted = w->phase == PHASE_RUN || w->phase == PHASE_MEASURE || w->phase == PHASE_SECOND;
    while (wanted && w->closed_count && w->opening < w->opening_max && w->now >= w->retry)
        open_begin(w, w->closed[--w->closed_count]);
}

/* Returns when the storm's next connection is cut, on the clock of clock_ns: evenly at --cut-rate, threads in turn, or
 * at once. HUGE_VAL if one has to come back first, or none is left. */
static double cut_due(const struct worker *w)
{
    const struct options *opt = w->opt;
    uint32_t away = opt->away / opt->threads, most = !opt->away ? w->count : away ? away : 1;
    bool storming = opt->mode == MODE_STORM && w->phase == PHASE_SECOND && w->cut < w->count;
    if (!storming || w->closed_count + w->opening >= most)
        return HUGE_VAL;
    if (opt->cut_rate <= 0)
        return 0;
    double interval = 1e9 / opt->cut_rate * opt->connections / w->count;
    double offset = (double)w->index / opt->threads;
    double began = (double)atomic_load_explicit(&w->shared->began[PHASE_SECOND], memory_order_relaxed);
    return began + (w->cut + offset) * interval;
}

/* Returns how long to wait for events: until the next send or cut is due. */
static struct timespec patience(const struct worker *w)
{
    bool running = w->phase == PHASE_RUN || w->phase == PHASE_MEASURE || w->phase == PHASE_SECOND;
    double ns = w->opt->spin ? 0 : w->closed_count ? OPEN_NS : POLL_NS;
    double cut = cut_due(w) - (double)w->now;
    if (cut < ns)
        ns = cut > 0 ? cut : 0;
    for (int kind = 0; running && kind < KINDS; kind++) {
        double left = w->schedule[kind].due - (double)w->now;
        if (w->schedule[kind].interval > 0 && left < ns)
            ns = left > 0 ? left : 0;
    }
    return (struct timespec){0, (long)ns};
}

static void turn(struct worker *w, const sigset_t *wakeable)
{
    struct epoll_event events[EVENTS];
    struct timespec wait = patience(w);
    int n = epoll_pwait2(w->epoll, events, EVENTS, &wait, wakeable);
    if (n < 0 && errno != EINTR)
        fail("load: epoll_pwait2");
    w->now = clock_ns();
    for (int i = 0; i < n; i++) {
        conn_event(w, &w->conns[events[i].data.u32], events[i].events);
        conn_flush(w);
    }
    mode_tick(w);
    while (cut_due(w) <= (double)w->now)
        conn_cut(w, &w->conns[w->cut++]);
    conn_flush(w);
    open_some(w);
}

void *worker_main(void *arg)
{
    struct worker *w = arg;
    sigset_t wakeable;
    pthread_sigmask(SIG_SETMASK, NULL, &wakeable);
    sigdelset(&wakeable, WORKER_WAKE);
    prepare(w);
    mode_enter(w, PHASE_OPEN);
    open_some(w);
    for (int phase; (phase = atomic_load(&w->shared->command)) != PHASE_STOP;) {
        if ((int)w->phase != phase)
            mode_enter(w, (enum phase)phase);
        turn(w, &wakeable);
    }
    mode_enter(w, PHASE_STOP);
    release(w);
    return NULL;
}
