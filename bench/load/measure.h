/* The run as a whole: its phases, and what is reported of them. */
#ifndef LOAD_MEASURE_H
#define LOAD_MEASURE_H

#include "load.h"

/* ---- proc.c: what the measured processes use ----------------------------------------------------------- */

struct usage {
    double user, system;      /* CPU seconds; -1 where there is no such process */
};

struct usage proc_cpu(pid_t pid);
long proc_pss(pid_t pid);                           /* kB, or -1 */
void proc_name(pid_t pid, char *out, size_t room);  /* the command's, without characters that JSON escapes */

/* ---- phases.c: open, warm up, measure, storm, wait for what is in flight -------------------------------- */

/* Counters and CPU time at one moment. */
struct sample {
    uint64_t when;                        /* ns */
    uint64_t counts[COUNTS];              /* of all workers */
    struct usage own;                     /* this process */
    struct usage server[MAX_SERVERS];
    double thread_cpu[MAX_THREADS];       /* seconds */
};

struct result {
    const struct options *opt;
    double opened;                        /* seconds that it took */
    struct sample before, after;          /* the measured window's ends */
    struct sample still, stirred;         /* those of the quiet before it */
    struct sample struck, calm;           /* the storm's */
    uint64_t final[COUNTS];               /* when the last delivery was in, warm-up included */
    long pss_before[MAX_SERVERS], pss_after[MAX_SERVERS];
    struct hist latency[SERIES];
    bool shared_table;
};

/* Share the connections out, and start the threads; they begin to open them at once. */
void phases_start(struct shared *shared, struct result *r);

/* Wait until all connections are open; false if they are not within --setup seconds. */
bool phases_open(struct shared *shared, struct result *r);

/* The phases from the first message to the last. */
void phases_measure(struct shared *shared, struct result *r);

/* Have the threads end, and gather what they measured. */
void phases_stop(struct shared *shared, struct result *r);

/* Wait until they have closed their connections, which takes a while where there are many. */
void phases_finish(struct shared *shared);

/* All threads' sum of a counter. */
uint64_t phases_total(const struct shared *shared, int which);

/* ---- report.c ------------------------------------------------------------------------------------------ */

/* Messages that were neither delivered, nor refused, nor told of. */
long report_lost(const struct result *r);

/* Print a result as one JSON object on stdout. */
void report_print(const struct result *r);

#endif
