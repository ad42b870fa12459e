/* How long a bare wake takes: two threads in epoll_wait, each with an eventfd, wake each other in turn. Prints the
 * median of half a round, in nanoseconds. What a hop from one loop to another can't be faster than. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 20000, WARM = 1000 };

struct end {
    int epoll;
    int wake;
};

static struct end ends[2];
static uint64_t took[ROUNDS];

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void open_end(struct end *end)
{
    struct epoll_event event = {.events = EPOLLIN};
    end->epoll = epoll_create1(0);
    end->wake = eventfd(0, EFD_NONBLOCK);
    if (end->epoll < 0 || end->wake < 0 || epoll_ctl(end->epoll, EPOLL_CTL_ADD, end->wake, &event) != 0) {
        perror("hop");
        exit(1);
    }
}

static void wake(const struct end *end)
{
    uint64_t one = 1;
    if (write(end->wake, &one, sizeof one) != sizeof one)
        exit(1);
}

static void await(const struct end *end)
{
    struct epoll_event event;
    uint64_t count;
    while (epoll_wait(end->epoll, &event, 1, -1) != 1)
        ;
    if (read(end->wake, &count, sizeof count) != sizeof count)
        exit(1);
}

static void *answer(void *unused)
{
    (void)unused;
    for (int i = 0; i < WARM + ROUNDS; i++) {
        await(&ends[1]);
        wake(&ends[0]);
    }
    return NULL;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

int main(void)
{
    pthread_t other;
    open_end(&ends[0]);
    open_end(&ends[1]);
    if (pthread_create(&other, NULL, answer, NULL) != 0)
        return 1;
    for (int i = 0; i < WARM + ROUNDS; i++) {
        uint64_t begin = now_ns();
        wake(&ends[1]);
        await(&ends[0]);
        if (i >= WARM)
            took[i - WARM] = now_ns() - begin;
    }
    pthread_join(other, NULL);
    qsort(took, ROUNDS, sizeof *took, compare);
    printf("%llu\n", (unsigned long long)(took[ROUNDS / 2] / 2));
    return 0;
}
