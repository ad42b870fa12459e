/* Runs the phases: open, warm up, measure, wait for what is in flight, report. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "load.h"

enum {
    STEP_MS = 5,              /* between two looks at the counters */
    PROGRESS_NS = 5000000000, /* between two lines on stderr */
    DRAIN_MS = 2000,          /* at most, for what is in flight at the end */
    VERIFY_STALL_MS = 10000,  /* without any delivery, --verify ends */
};

static const uint64_t NO_GOAL = UINT64_MAX;

struct run {
    struct options opt;
    struct worker *workers;
    _Atomic int command;      /* enum phase, for all threads */
};

static void sleep_ms(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static uint64_t total(const struct run *run, int which)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < run->opt.threads; i++)
        sum += atomic_load_explicit(&run->workers[i].counts[which], memory_order_relaxed);
    return sum;
}

static struct usage own_cpu(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (struct usage){(double)r.ru_utime.tv_sec + (double)r.ru_utime.tv_usec / 1e6,
                          (double)r.ru_stime.tv_sec + (double)r.ru_stime.tv_usec / 1e6};
}

static void take_sample(const struct run *run, struct sample *s)
{
    for (int i = 0; i < COUNTS; i++)
        s->counts[i] = total(run, i);
    for (uint32_t i = 0; i < run->opt.servers; i++)
        s->server[i] = proc_cpu(run->opt.server[i]);
    s->when = clock_ns();
    s->own = own_cpu();
    for (uint32_t i = 0; i < run->opt.threads; i++) {
        clockid_t clock;
        struct timespec t = {0, 0};
        if (pthread_getcpuclockid(run->workers[i].thread, &clock) == 0)
            clock_gettime(clock, &t);
        s->thread_cpu[i] = (double)t.tv_sec + (double)t.tv_nsec / 1e9;
    }
}

static void sample_pss(const struct options *opt, long *pss)
{
    for (uint32_t i = 0; i < opt->servers; i++)
        pss[i] = proc_pss(opt->server[i]);
}

/* Share the units out, a thread at most one more than another, and start. */
static void start(struct run *run)
{
    uint32_t unit = options_unit(&run->opt), units = run->opt.connections / unit, threads = run->opt.threads;
    run->workers = calloc(threads, sizeof *run->workers);
    for (uint32_t i = 0; run->workers && i < threads; i++) {
        struct worker *w = &run->workers[i];
        w->opt = &run->opt;
        w->command = &run->command;
        w->index = i;
        w->count = (units / threads + (i < units % threads)) * unit;
        w->interval = run->opt.rate > 0 ? 1e9 / run->opt.rate * run->opt.connections / w->count : 0;
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0) {
            fprintf(stderr, "load: can't start a thread\n");
            exit(1);
        }
    }
    if (!run->workers)
        exit(1);
}

/* Wait until a counter reaches `goal` or `limit` seconds are over; whether it did. Tells of it on stderr. */
static bool wait_for(const struct run *run, const char *what, int which, uint64_t goal, double limit)
{
    uint64_t begin = clock_ns(), told = begin;
    for (;;) {
        uint64_t now = clock_ns(), have = total(run, which);
        if (have >= goal)
            return true;
        if ((double)(now - begin) > limit * 1e9)
            return false;
        if (now - told >= PROGRESS_NS) {
            fprintf(stderr, goal == NO_GOAL ? "load: %s %lu\n" : "load: %s %lu of %lu\n", what, have, goal);
            told = now;
        }
        sleep_ms(STEP_MS);
    }
}

/* Wait for `limit` seconds. Tells of the deliveries on stderr. */
static void pass(const struct run *run, const char *what, double limit)
{
    wait_for(run, what, COUNT_DELIVERED, NO_GOAL, limit);
}

/* Wait until every message sent has been delivered, refused or told of as lost, or DRAIN_MS are over. */
static void drain(const struct run *run)
{
    for (int waited = 0; waited < DRAIN_MS; waited += STEP_MS) {
        uint64_t done = total(run, COUNT_DELIVERED) + total(run, COUNT_GAP);
        for (int i = COUNT_ERR; i < COUNTS; i++)
            done += total(run, i);
        if (done >= total(run, COUNT_EXPECTED))
            return;
        sleep_ms(STEP_MS);
    }
}

/* Let the final messages of --verify run as long as some arrive. */
static void verify(struct run *run)
{
    uint64_t heard, before;
    atomic_store(&run->command, PHASE_VERIFY);
    do {
        before = total(run, COUNT_VERIFIED);
        wait_for(run, "verified", COUNT_VERIFIED, run->opt.connections, VERIFY_STALL_MS / 1e3);
        heard = total(run, COUNT_VERIFIED);
    } while (heard < run->opt.connections && heard > before);
}

static void measure(struct run *run, struct result *r)
{
    atomic_store(&run->command, PHASE_RUN);
    pass(run, "warming up; delivered", run->opt.warmup);
    atomic_store(&run->command, PHASE_MEASURE);
    take_sample(run, &r->before);
    pass(run, "measuring; delivered", run->opt.seconds);
    take_sample(run, &r->after);
    sample_pss(&run->opt, r->pss_after);
    atomic_store(&run->command, PHASE_DRAIN);
    drain(run);
    if (run->opt.verify)
        verify(run);
    for (int i = 0; i < COUNTS; i++)
        r->final[i] = total(run, i);
}

static void finish(struct run *run, struct result *r)
{
    atomic_store(&run->command, PHASE_STOP);
    for (uint32_t i = 0; i < run->opt.threads; i++) {
        pthread_join(run->workers[i].thread, NULL);
        hist_merge(&r->latency, &run->workers[i].latency);
        r->shared_table |= run->workers[i].shared_table;
    }
    free(run->workers);
}

static void explain(const struct run *run, uint64_t wanted)
{
    fprintf(stderr, "load: %lu of %lu connections opened; failed: ", total(run, COUNT_READY), wanted);
    fprintf(stderr, "connect %lu, handshake %lu, closed %lu, protocol %lu\n", total(run, COUNT_CONNECT),
            total(run, COUNT_HANDSHAKE), total(run, COUNT_CLOSED), total(run, COUNT_PROTOCOL));
}

/* 0: measured as asked; 1: not all connections opened, so nothing was measured, or --verify missed some. */
int main(int argc, char **argv)
{
    static struct run run;
    static struct result result;
    options_parse(&run.opt, argc, argv);
    result.opt = &run.opt;
    sample_pss(&run.opt, result.pss_before);
    start(&run);
    uint64_t wanted = run.opt.mode == MODE_CHURN ? 0 : run.opt.connections;
    bool ready = wait_for(&run, "open", COUNT_READY, wanted, run.opt.setup);
    if (ready)
        measure(&run, &result);
    else
        explain(&run, wanted);
    finish(&run, &result);
    if (!ready)
        return 1;
    report_print(&result);
    return run.opt.verify && result.final[COUNT_VERIFIED] < wanted ? 1 : 0;
}
