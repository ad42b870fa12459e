#include "progress.h"

#include <inttypes.h>
#include <stdio.h>

enum { BAR = 20, TAIL = 64 };

static const uint64_t DRAW_NS = 200000000, LINE_NS = 5000000000;

static double smaller(double a, double b)
{
    return a < b ? a : b;
}

/* A bar, and the seconds left; or no seconds where they can't be told. */
static void bar_text(char out[TAIL], double share, double left)
{
    static const char FULL[] = "####################", REST[] = "....................";
    int full = (int)(share * BAR);
    if (left >= 0)
        snprintf(out, TAIL, " [%.*s%.*s] %u s left", full, FULL, BAR - full, REST,
                 (unsigned)smaller(left + 0.5, 99999));
    else
        snprintf(out, TAIL, " [%.*s%.*s]", full, FULL, BAR - full, REST);
}

void progress_text(const struct progress *p, char out[PROGRESS_LINE], uint64_t count, double elapsed, bool bar)
{
    double rate = elapsed > 0 && count > p->first ? (double)(count - p->first) / elapsed : 0;
    char tail[TAIL] = "", goal[32] = "";
    if (p->goal)
        snprintf(goal, sizeof goal, " of %" PRIu64, p->goal);
    if (bar && p->goal) {
        double missing = count < p->goal ? (double)(p->goal - count) : 0;
        bar_text(tail, 1 - missing / (double)p->goal, rate > 0 ? missing / rate : -1);
    } else if (bar) {
        double share = p->limit > 0 ? smaller(elapsed / p->limit, 1) : 1;
        bar_text(tail, share, p->limit * (1 - share));
    }
    snprintf(out, PROGRESS_LINE, "%s %" PRIu64 "%s, %.0f/s%s", p->what, count, goal, rate, tail);
}

void progress_tell(struct progress *p, uint64_t count, uint64_t now)
{
    char line[PROGRESS_LINE];
    if (now - p->told < (p->terminal ? DRAW_NS : LINE_NS))
        return;
    p->told = now;
    progress_text(p, line, count, (double)(now - p->begin) / 1e9, p->terminal);
    fprintf(stderr, p->terminal ? "\r%s\033[K" : "load: %s\n", line);
}

void progress_end(const struct progress *p)
{
    if (p->terminal)
        fputs("\r\033[K", stderr);
}
