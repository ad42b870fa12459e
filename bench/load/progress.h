/* What stderr shows while a phase runs: one line drawn anew on a terminal, elsewhere a line now and then. */
#ifndef LOAD_PROGRESS_H
#define LOAD_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PROGRESS_LINE = 128 };     /* bytes that hold any line, its end included */

struct progress {
    const char *what;            /* the phase, and what is counted */
    uint64_t goal;               /* the count that ends it; 0: time does */
    double limit;                /* seconds that it takes, where there is no goal */
    uint64_t first;              /* the count when it began */
    uint64_t begin, told;        /* ns: when it began, and when it was last told of */
    bool terminal;
};

/* The line for a count after `elapsed` seconds: count and rate; with `bar` how far that is too. */
void progress_text(const struct progress *p, char out[PROGRESS_LINE], uint64_t count, double elapsed, bool bar);

/* Tell of it, if it is time to; and clear the terminal's line. */
void progress_tell(struct progress *p, uint64_t count, uint64_t now);
void progress_end(const struct progress *p);

#endif
