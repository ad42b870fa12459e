/* Measures a bare wake: two threads in epoll_wait, each with an eventfd, wake each other in turn. Prints half of each
 * round, in nanoseconds. A hop from one loop to another can't be faster. */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 20000, WARM = 1000 };

static struct { int epoll, wake; } ends[2];

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void check(bool good)
{
    if (good)
        return;
    perror("hop");
    exit(1);
}

static void wake(int end)
{
    uint64_t one = 1;
    check(write(ends[end].wake, &one, sizeof one) == sizeof one);
}

static void await(int end)
{
    struct epoll_event event;
    uint64_t count;
    while (epoll_wait(ends[end].epoll, &event, 1, -1) != 1)
        ;
    check(read(ends[end].wake, &count, sizeof count) == sizeof count);
}

static void *answer(void *unused)
{
    (void)unused;
    for (int i = 0; i < WARM + ROUNDS; i++) {
        await(1);
        wake(0);
    }
    return NULL;
}

int main(void)
{
    pthread_t other;
    static uint64_t took[WARM + ROUNDS];
    for (int end = 0; end < 2; end++) {
        struct epoll_event event = {.events = EPOLLIN};
        ends[end].epoll = epoll_create1(0);
        ends[end].wake = eventfd(0, EFD_NONBLOCK);
        check(epoll_ctl(ends[end].epoll, EPOLL_CTL_ADD, ends[end].wake, &event) == 0);
    }
    check(pthread_create(&other, NULL, answer, NULL) == 0);
    for (int i = 0; i < WARM + ROUNDS; i++) {
        uint64_t begin = now_ns();
        wake(1);
        await(0);
        took[i] = now_ns() - begin;
    }
    pthread_join(other, NULL);
    for (int i = WARM; i < WARM + ROUNDS; i++)
        printf("%.1f\n", (double)took[i] / 2);
    return 0;
}
