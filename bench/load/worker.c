#include <errno.h>
#include <linux/close_range.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "load.h"
#include "ws.h"

enum {
    EVENTS = 512,
    POLL_NS = 10 * 1000 * 1000,  /* the longest wait: how late main's next phase may be seen */
};

uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    if (!memory) {
        perror("load: memory");
        exit(1);
    }
    return memory;
}

static void prepare(struct worker *w)
{
    w->shared_table = close_range(3, ~0U, CLOSE_RANGE_UNSHARE) < 0;
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (w->epoll < 0) {
        perror("load: epoll");
        exit(1);
    }
    w->conns = allocate(w->count, sizeof *w->conns);
    w->closed = allocate(w->count, sizeof *w->closed);
    w->rooms = allocate(w->count / options_unit(w->opt), sizeof *w->rooms);
    w->cork = allocate(1, CORK_FLUSH + PAYLOAD_MAX + 1024);
    w->inbox = allocate(1, READ_SIZE + WS_MAX_FRAME + 64);
    w->filler = allocate(1, w->opt->payload);
    memset(w->filler, 'x', w->opt->payload);
    w->random = 0x9E3779B97F4A7C15ULL * (w->index + 1);
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
    free(w->rooms);
    free(w->cork);
    free(w->inbox);
    free(w->filler);
}

/* Begin connects while there are some to open and not too many are under way. */
static void open_some(struct worker *w)
{
    bool churn = w->opt->mode == MODE_CHURN;
    bool wanted = churn ? w->phase == PHASE_RUN || w->phase == PHASE_MEASURE : w->phase == PHASE_OPEN;
    uint32_t most = churn ? w->count : OPENING_MAX;
    while (wanted && w->closed_count && w->opening < most && w->now >= w->retry)
        conn_open(w, w->closed[--w->closed_count]);
}

static struct timespec patience(const struct worker *w)
{
    bool timed = w->opt->rate > 0 && (w->phase == PHASE_RUN || w->phase == PHASE_MEASURE);
    double ns = w->opt->spin ? 0 : POLL_NS;
    if (timed && w->due - (double)w->now < ns)
        ns = w->due > (double)w->now ? w->due - (double)w->now : 0;
    return (struct timespec){0, (long)ns};
}

static void turn(struct worker *w)
{
    struct epoll_event events[EVENTS];
    struct timespec wait = patience(w);
    int n = epoll_pwait2(w->epoll, events, EVENTS, &wait, NULL);
    if (n < 0 && errno != EINTR) {
        perror("load: epoll_pwait2");
        exit(1);
    }
    w->now = clock_ns();
    for (int i = 0; i < n; i++) {
        conn_event(w, &w->conns[events[i].data.u32], events[i].events);
        conn_flush(w);
    }
    if (w->opt->rate > 0) {
        mode_tick(w);
        conn_flush(w);
    }
    open_some(w);
}

void *worker_main(void *arg)
{
    struct worker *w = arg;
    prepare(w);
    mode_enter(w, PHASE_OPEN);
    open_some(w);
    for (int phase; (phase = atomic_load(w->command)) != PHASE_STOP;) {
        if ((int)w->phase != phase)
            mode_enter(w, (enum phase)phase);
        turn(w);
    }
    w->phase = PHASE_STOP;
    release(w);
    return NULL;
}
