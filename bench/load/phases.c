#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "load.h"

enum {
    STEP_MS = 5,              /* between two looks at the counters */
    TELL_MS = 5000,           /* between two lines on stderr */
    DRAIN_MS = 2000,          /* without any delivery, after which the drain ends */
    VERIFY_STALL_MS = 10000,  /* without any delivery, after which --verify ends */
};

const char *const count_names[COUNTS] = {
    "ready", "sent", "expected", "delivered", "verified", "pings", "reopened", "gap", "corrupt", "disorder", "connect",
    "handshake", "closed", "protocol", "blocked", "err.bad-request", "err.no-such-peer", "err.slow-peer", "err.expired",
    "err.timeout", "err.too-large", "err.denied", "err.rate", "err.too-many-rooms", "err.unavailable", "err.other",
};

static void sleep_ms(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* Returns the sum of a counter over all threads. */
static uint64_t total(const struct shared *shared, int which)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < shared->opt->threads; i++)
        sum += atomic_load_explicit(&shared->workers[i].counts[which], memory_order_acquire);
    return sum;
}

/* ---- what bench/load.py reads ---- */

/* Prints a file of /proc, each line after its path, or nothing if there is no such process. */
static void print_proc(const char *pid, const char *name)
{
    char path[64], line[1024];
    snprintf(path, sizeof path, "/proc/%s%s", pid, name);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file))
        printf("%s %s", path, line);
    if (file)
        fclose(file);
}

static void print_memory(const struct options *opt)
{
    print_proc("", "meminfo");
    for (uint32_t i = 0; i < opt->servers; i++)
        print_proc(opt->server[i], "/smaps_rollup");
}

/* Prints all counters, the CPU time of threads and servers, and the memory of servers and machine. */
static void sample(const struct shared *shared, const char *name, bool memory)
{
    const struct options *opt = shared->opt;
    printf("sample %s", name);
    for (int i = 0; i < COUNTS; i++)
        printf(" %s=%" PRIu64, count_names[i], total(shared, i));
    printf(" ns=%" PRIu64 "\nthreads", clock_ns());
    for (uint32_t i = 0; i < opt->threads; i++) {
        clockid_t clock;
        struct timespec t = {0, 0};
        if (pthread_getcpuclockid(shared->workers[i].thread, &clock) == 0)
            clock_gettime(clock, &t);
        printf(" %.4f", (double)t.tv_sec + (double)t.tv_nsec / 1e9);
    }
    printf("\n");
    for (uint32_t i = 0; i < opt->servers; i++)
        print_proc(opt->server[i], "/stat");
    if (memory)
        print_memory(opt);
}

static void print_options(const struct options *opt)
{
    printf("options mode=%s protocol=%s connections=%u", opt->mode_name, opt->protocol->name, opt->connections);
    printf(" threads=%u targets=%u", opt->threads, opt->targets);
    printf(" rooms=%u members=%u verify=%d servers=", opt->rooms.count, opt->rooms.members, opt->verify);
    for (uint32_t i = 0; i < opt->servers; i++)
        printf("%s%s", i ? "," : "", opt->server[i]);
    printf("\n");
}

/* Prints the latencies of a series as VALUE:COUNT in nanoseconds, ascending. */
static void print_latency(const struct shared *shared, enum series series)
{
    static struct hist all;
    all = (struct hist){0};
    for (uint32_t i = 0; i < shared->opt->threads; i++)
        hist_merge(&all, &shared->workers[i].latency[series]);
    printf("latency %s sum=%" PRIu64 " max=%" PRIu64, series == SERIES_MAIN ? "main" : "other", all.sum, all.max);
    for (uint32_t i = 0; i < HIST_BUCKETS; i++)
        if (all.bucket[i])
            printf(" %" PRIu64 ":%" PRIu64, hist_value(i), all.bucket[i]);
    printf("\n");
}

/* ---- starting ---- */

static void set_worker(struct shared *shared, uint32_t index)
{
    const struct options *opt = shared->opt;
    struct worker *w = &shared->workers[index];
    struct share share = layout_share(opt->connections / opt->unit, opt->unit, opt->threads, index);
    struct share rooms = layout_published(&opt->rooms, share);
    w->opt = opt;
    w->shared = shared;
    w->index = index;
    w->first = share.first;
    w->count = share.count;
    w->room_first = rooms.first;
    w->room_count = rooms.count;
    if (opt->rate > 0)  /* the rates are divided among those that send */
        w->schedule[KIND_TO].interval = 1e9 / opt->rate * opt->connections / w->count;
    if (opt->room_rate > 0 && w->room_count)
        w->schedule[KIND_ROOM].interval = 1e9 / opt->room_rate * opt->rooms.count / w->room_count;
}

static void woken(int number)
{
    (void)number;
}

void phases_start(struct shared *shared)
{
    const struct options *opt = shared->opt;
    struct sigaction wake = {.sa_handler = woken};
    sigset_t blocked;
    sigaction(WORKER_WAKE, &wake, NULL);
    sigemptyset(&blocked);
    sigaddset(&blocked, WORKER_WAKE);
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
    shared->workers = calloc(opt->threads, sizeof *shared->workers);
    shared->addresses = calloc(opt->connections, sizeof *shared->addresses);
    shared->rooms = calloc(opt->rooms.count + 1, sizeof *shared->rooms);
    if (!shared->workers || !shared->addresses || !shared->rooms) {
        perror("load: memory");
        exit(1);
    }
    print_options(opt);
    print_memory(opt);
    for (int i = 0; i < PHASES; i++)
        atomic_store(&shared->began[i], UINT64_MAX);
    for (uint32_t i = 0; i < opt->threads; i++)
        set_worker(shared, i);
    for (uint32_t i = 0; i < opt->threads; i++)
        if (pthread_create(&shared->workers[i].thread, NULL, worker_main, &shared->workers[i]) != 0) {
            fprintf(stderr, "load: can't start a thread\n");
            exit(1);
        }
}

/* ---- phases ---- */

/* Tells all threads to go over to a phase. */
static void enter(struct shared *shared, enum phase phase)
{
    atomic_store(&shared->began[phase], clock_ns());
    atomic_store(&shared->command, phase);
    for (uint32_t i = 0; i < shared->opt->threads; i++)
        pthread_kill(shared->workers[i].thread, WORKER_WAKE);
}

/* Waits until all threads are in a phase. */
static void wait_entered(const struct shared *shared, enum phase phase)
{
    for (uint32_t i = 0; i < shared->opt->threads; i++)
        while (atomic_load(&shared->workers[i].entered) != (int)phase)
            sleep_ms(STEP_MS);
}

/* Waits until a counter reaches `goal`, unless that is 0, or `limit` seconds are over; returns whether it did. Reports
 * progress on stderr. */
static bool wait_for(const struct shared *shared, const char *what, int which, uint64_t goal, double limit)
{
    uint64_t begin = clock_ns(), now = begin, told = begin, have = total(shared, which);
    while ((!goal || have < goal) && (double)(now - begin) <= limit * 1e9) {
        if (now - told >= TELL_MS * 1000000ULL) {
            fprintf(stderr, "load: %s %lu, %.0f of at most %.0f s\n", what, have, (double)(now - begin) / 1e9, limit);
            told = now;
        }
        sleep_ms(STEP_MS);
        now = clock_ns();
        have = total(shared, which);
    }
    return goal && have >= goal;
}

/* Tells the starter that it is its turn, and waits for a line or the end of stdin. */
static void wait_for_starter(const char *now)
{
    printf("now %s\n", now);
    fflush(stdout);
    for (int c = 0; c != '\n' && c != EOF;)
        c = getchar();
}

/* Returns how many messages are delivered, refused, or reported as dropped. */
static uint64_t settled(const struct shared *shared)
{
    uint64_t done = total(shared, COUNT_DELIVERED) + total(shared, COUNT_GAP);
    for (int i = COUNT_ERR; i < COUNTS; i++)
        done += total(shared, i);
    return done;
}

/* Waits until no thread sends any more, and every message is settled or none was for DRAIN_MS. */
static void drain(struct shared *shared)
{
    enter(shared, PHASE_DRAIN);
    wait_entered(shared, PHASE_DRAIN);
    uint64_t before = settled(shared), done = before;
    for (int waited = 0; waited < DRAIN_MS && done < total(shared, COUNT_EXPECTED); before = done) {
        sleep_ms(STEP_MS);
        done = settled(shared);
        waited = done > before ? 0 : waited + STEP_MS;
    }
}

/* Lets the final messages of --verify run as long as some arrive. */
static void verify(struct shared *shared)
{
    uint64_t done, before, all = shared->opt->connections;
    enter(shared, PHASE_VERIFY);
    do {
        before = total(shared, COUNT_VERIFIED);
        wait_for(shared, "verified", COUNT_VERIFIED, all, VERIFY_STALL_MS / 1e3);
        done = total(shared, COUNT_VERIFIED);
    } while (done < all && done > before);
}

bool phases_open(struct shared *shared)
{
    const struct options *opt = shared->opt;
    uint64_t begin = clock_ns(), goal = opt->mode == MODE_CHURN ? 0 : opt->connections;
    if (!goal)
        return true;
    if (wait_for(shared, "open", COUNT_READY, goal, opt->setup)) {
        printf("opened %" PRIu64 "\n", clock_ns() - begin);
        return true;
    }
    fprintf(stderr, "load: %lu of %u connections opened; failed:", total(shared, COUNT_READY), opt->connections);
    for (int i = COUNT_CONNECT; i <= COUNT_PROTOCOL; i++)
        fprintf(stderr, " %s %lu", count_names[i], total(shared, i));
    fprintf(stderr, "\n");
    return false;
}

/* Cuts all connections at a line on stdin, waits until they are open again, and holds them until the next line. */
static void storm(struct shared *shared)
{
    const struct options *opt = shared->opt;
    wait_for_starter("open");
    sample(shared, "before", false);
    enter(shared, PHASE_SECOND);
    wait_for(shared, "storm: reopened", COUNT_REOPENED, opt->connections, opt->setup);
    sample(shared, "after", true);
    wait_for_starter("reopened");
}

static void measure(struct shared *shared)
{
    const struct options *opt = shared->opt;
    if (opt->quiet > 0) {
        sample(shared, "quiet", false);
        wait_for(shared, "quiet: pings", COUNT_PINGS, 0, opt->quiet);
        sample(shared, "quiet-end", true);
    }
    enter(shared, PHASE_RUN);
    wait_for(shared, "warming up: delivered", COUNT_DELIVERED, 0, opt->warmup);
    enter(shared, PHASE_MEASURE);
    sample(shared, "before", false);
    wait_for(shared, "measuring: delivered", COUNT_DELIVERED, 0, opt->seconds);
    sample(shared, "after", true);
    if (opt->second) {
        enter(shared, PHASE_SECOND);
        wait_for_starter("second");
    }
    drain(shared);
    if (opt->verify)
        verify(shared);
}

void phases_measure(struct shared *shared)
{
    if (shared->opt->mode == MODE_STORM)
        storm(shared);
    else
        measure(shared);
    sample(shared, "final", false);
}

void phases_stop(struct shared *shared)
{
    enter(shared, PHASE_STOP);
    wait_entered(shared, PHASE_STOP);
    for (int series = 0; series < SERIES; series++)
        print_latency(shared, (enum series)series);
    fflush(stdout);
    for (uint32_t i = 0; i < shared->opt->threads; i++)
        pthread_join(shared->workers[i].thread, NULL);
    free(shared->workers);
    free(shared->addresses);
    free(shared->rooms);
}
