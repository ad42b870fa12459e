#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "measure.h"

enum {
    STEP_MS = 5,              /* between two looks at the counters */
    TELL_MS = 5000,           /* between two lines on stderr */
    DRAIN_MS = 2000,          /* without any delivery, for what is in flight at the end */
    VERIFY_STALL_MS = 10000,  /* without any delivery, --verify ends */
};

static void sleep_ms(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static uint32_t all_threads(const struct options *opt)
{
    return opt->threads + opt->storm_threads;
}

uint64_t phases_total(const struct shared *shared, int which)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < all_threads(shared->opt); i++)
        sum += atomic_load_explicit(&shared->workers[i].counts[which], memory_order_acquire);
    return sum;
}

static struct usage own_cpu(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (struct usage){(double)r.ru_utime.tv_sec + (double)r.ru_utime.tv_usec / 1e6,
                          (double)r.ru_stime.tv_sec + (double)r.ru_stime.tv_usec / 1e6};
}

static void take_sample(const struct shared *shared, struct sample *s)
{
    for (int i = 0; i < COUNTS; i++)
        s->counts[i] = phases_total(shared, i);
    for (uint32_t i = 0; i < shared->opt->servers; i++)
        s->server[i] = proc_cpu(shared->opt->server[i]);
    s->when = clock_ns();
    s->own = own_cpu();
    for (uint32_t i = 0; i < all_threads(shared->opt); i++) {
        clockid_t clock;
        struct timespec t = {0, 0};
        if (pthread_getcpuclockid(shared->workers[i].thread, &clock) == 0)
            clock_gettime(clock, &t);
        s->thread_cpu[i] = (double)t.tv_sec + (double)t.tv_nsec / 1e9;
    }
}

static void sample_pss(const struct options *opt, long *pss)
{
    for (uint32_t i = 0; i < opt->servers; i++)
        pss[i] = proc_pss(opt->server[i]);
}

/* This thread's part of the sends: the rate is shared out by who sends. */
static void set_schedules(struct worker *w)
{
    const struct options *opt = w->opt;
    double rooms_rate = opt->mode == MODE_ROOM ? opt->rate : opt->room_rate;
    if (w->storm)
        return;
    if (opt->rate > 0 && opt->mode != MODE_ROOM)
        w->schedule[KIND_TO].interval = 1e9 / opt->rate * opt->connections / w->count;
    if (rooms_rate > 0 && w->room_count)
        w->schedule[KIND_ROOM].interval = 1e9 / rooms_rate * opt->rooms.count / w->room_count;
}

static void set_worker(struct shared *shared, uint32_t index)
{
    const struct options *opt = shared->opt;
    struct worker *w = &shared->workers[index];
    struct share share, rooms;
    w->storm = index >= opt->threads;
    if (w->storm) {
        share = layout_share(opt->storm, 1, opt->storm_threads, index - opt->threads);
        share.first += opt->connections;
    } else {
        share = layout_share(opt->connections / opt->unit, opt->unit, opt->threads, index);
    }
    rooms = layout_published(&opt->rooms, share);
    w->opt = opt;
    w->shared = shared;
    w->index = index;
    w->first = share.first;
    w->count = share.count;
    w->room_first = rooms.first;
    w->room_count = rooms.count;
    set_schedules(w);
}

static void woken(int number)
{
    (void)number;
}

void phases_start(struct shared *shared, struct result *r)
{
    const struct options *opt = shared->opt;
    struct sigaction wake = {.sa_handler = woken};
    sigset_t blocked;
    sigaction(WORKER_WAKE, &wake, NULL);
    sigemptyset(&blocked);
    sigaddset(&blocked, WORKER_WAKE);
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
    shared->workers = calloc(all_threads(opt), sizeof *shared->workers);
    shared->addresses = calloc(opt->connections + opt->storm, sizeof *shared->addresses);
    shared->rooms = calloc(opt->rooms.count + 1, sizeof *shared->rooms);
    if (!shared->workers || !shared->addresses || !shared->rooms) {
        perror("load: memory");
        exit(1);
    }
    sample_pss(opt, r->pss_before);
    for (int i = 0; i < PHASES; i++)
        atomic_store(&shared->began[i], UINT64_MAX);
    for (uint32_t i = 0; i < all_threads(opt); i++)
        set_worker(shared, i);
    for (uint32_t i = 0; i < all_threads(opt); i++)
        if (pthread_create(&shared->workers[i].thread, NULL, worker_main, &shared->workers[i]) != 0) {
            fprintf(stderr, "load: can't start a thread\n");
            exit(1);
        }
}

/* All threads are to go over to a phase, and wait for nothing else. */
static void enter(struct shared *shared, enum phase phase)
{
    atomic_store(&shared->began[phase], clock_ns());
    atomic_store(&shared->command, phase);
    for (uint32_t i = 0; i < all_threads(shared->opt); i++)
        pthread_kill(shared->workers[i].thread, WORKER_WAKE);
}

/* Wait until a counter reaches `goal`, unless that is 0, or `limit` seconds are over; whether it did. Tells of it now
 * and then. */
static bool wait_for(const struct shared *shared, const char *what, int which, uint64_t goal, double limit)
{
    uint64_t begin = clock_ns(), now = begin, told = begin, have = phases_total(shared, which);
    while ((!goal || have < goal) && (double)(now - begin) <= limit * 1e9) {
        if (now - told >= TELL_MS * 1000000ULL) {
            fprintf(stderr, "load: %s %lu, %.0f of at most %.0f s\n", what, have, (double)(now - begin) / 1e9, limit);
            told = now;
        }
        sleep_ms(STEP_MS);
        now = clock_ns();
        have = phases_total(shared, which);
    }
    return goal && have >= goal;
}

/* What has become of messages so far: delivered, refused, or told of as lost. */
static uint64_t settled(const struct shared *shared)
{
    uint64_t done = phases_total(shared, COUNT_DELIVERED) + phases_total(shared, COUNT_GAP);
    for (int i = COUNT_ERR; i < COUNTS; i++)
        done += phases_total(shared, i);
    return done;
}

/* Wait until all threads are in a phase. */
static void wait_entered(const struct shared *shared, enum phase phase)
{
    for (uint32_t i = 0; i < all_threads(shared->opt); i++)
        while (atomic_load(&shared->workers[i].entered) != (int)phase)
            sleep_ms(STEP_MS);
}

/* Wait until no thread sends any more, and every message is settled or nothing was for DRAIN_MS. */
static void drain(const struct shared *shared)
{
    wait_entered(shared, PHASE_DRAIN);
    uint64_t before = settled(shared), done = before;
    for (int waited = 0; waited < DRAIN_MS && done < phases_total(shared, COUNT_EXPECTED); before = done) {
        sleep_ms(STEP_MS);
        done = settled(shared);
        waited = done > before ? 0 : waited + STEP_MS;
    }
}

/* Let the final messages of --verify run as long as some arrive. */
static void verify(struct shared *shared)
{
    uint64_t heard, before, all = shared->opt->connections;
    enter(shared, PHASE_VERIFY);
    do {
        before = phases_total(shared, COUNT_VERIFIED);
        wait_for(shared, "verified", COUNT_VERIFIED, all, VERIFY_STALL_MS / 1e3);
        heard = phases_total(shared, COUNT_VERIFIED);
    } while (heard < all && heard > before);
}

bool phases_open(struct shared *shared, struct result *r)
{
    const struct options *opt = shared->opt;
    uint64_t begin = clock_ns(), goal = opt->mode == MODE_CHURN ? 0 : opt->connections + opt->storm;
    if (goal && !wait_for(shared, "open", COUNT_READY, goal, opt->setup))
        return false;
    r->opened = (double)(clock_ns() - begin) / 1e9;
    return true;
}

void phases_measure(struct shared *shared, struct result *r)
{
    const struct options *opt = shared->opt;
    if (opt->quiet > 0) {
        take_sample(shared, &r->still);
        wait_for(shared, "quiet: pings", COUNT_PINGS, 0, opt->quiet);
        take_sample(shared, &r->stirred);
    }
    enter(shared, PHASE_RUN);
    wait_for(shared, "warming up: delivered", COUNT_DELIVERED, 0, opt->warmup);
    enter(shared, PHASE_MEASURE);
    take_sample(shared, &r->before);
    wait_for(shared, "measuring: delivered", COUNT_DELIVERED, 0, opt->seconds);
    take_sample(shared, &r->after);
    sample_pss(opt, r->pss_after);
    if (opt->storm) {
        enter(shared, PHASE_STORM);
        take_sample(shared, &r->struck);
        wait_for(shared, "storm: reopened", COUNT_REOPENED, opt->storm, opt->setup);
        take_sample(shared, &r->calm);
    }
    enter(shared, PHASE_DRAIN);
    drain(shared);
    if (opt->verify)
        verify(shared);
    for (int i = 0; i < COUNTS; i++)
        r->final[i] = phases_total(shared, i);
}

void phases_stop(struct shared *shared, struct result *r)
{
    enter(shared, PHASE_STOP);
    wait_entered(shared, PHASE_STOP);
    for (uint32_t i = 0; i < all_threads(shared->opt); i++) {
        for (int series = 0; series < SERIES; series++)
            hist_merge(&r->latency[series], &shared->workers[i].latency[series]);
        r->shared_table |= shared->workers[i].shared_table;
    }
}

void phases_finish(struct shared *shared)
{
    for (uint32_t i = 0; i < all_threads(shared->opt); i++)
        pthread_join(shared->workers[i].thread, NULL);
    free(shared->workers);
    free(shared->addresses);
    free(shared->rooms);
}
