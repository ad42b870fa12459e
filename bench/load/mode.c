#include "load.h"

enum { VERIFY_WINDOW = 256 };  /* --verify: messages in flight in one thread */

static bool is_running(const struct worker *w)
{
    return w->phase == PHASE_RUN || w->phase == PHASE_MEASURE;
}

static void send_to(struct worker *w, struct conn *c, uint32_t receiver, uint64_t stamp)
{
    if (c->state == CONN_READY && w->conns[receiver].state == CONN_READY)
        message_to(w, c, &w->conns[receiver], stamp);
}

/* One message of connection `index`, to whom the mode says. */
static void send_one(struct worker *w, uint32_t index, uint64_t stamp)
{
    struct conn *c = &w->conns[index];
    switch (w->opt->mode) {
    case MODE_RELAY:
    case MODE_PAIR: send_to(w, c, index ^ 1, stamp); break;
    case MODE_RANDOM: send_to(w, c, worker_random(w) % w->count, stamp); break;
    case MODE_SELF: send_to(w, c, index, stamp); break;
    case MODE_ROOM:
        if (c->state == CONN_READY)
            message_pub(w, c, index / w->opt->members, stamp);
        break;
    case MODE_IDLE:
    case MODE_CHURN: break;
    }
}

/* --verify: the connection whose turn it is sends to its neighbour; that one is on the next URL. */
static void verify_next(struct worker *w)
{
    if (w->turn < w->count) {
        uint32_t index = w->turn++;
        send_to(w, &w->conns[index], (index + 1) % w->count, w->now);
    }
}

/* Put each pair's, connection's or room's window in flight; a pair's ends begin in turn. */
static void begin(struct worker *w)
{
    bool paired = w->opt->mode == MODE_RELAY || w->opt->mode == MODE_PAIR || w->opt->mode == MODE_RANDOM;
    uint32_t step = paired ? 2 : options_unit(w->opt);
    for (uint32_t i = 0; i + (step == 2) < w->count; i += step)
        for (uint32_t n = 0; n < w->opt->window; n++)
            send_one(w, paired ? i + (n & 1) : i, clock_ns());
}

void mode_enter(struct worker *w, enum phase phase)
{
    w->phase = phase;
    w->now = clock_ns();
    w->turn = 0;
    if (phase == PHASE_RUN && w->opt->rate <= 0)
        begin(w);
    if (phase == PHASE_RUN)
        w->due = (double)w->now;
    for (int i = 0; phase == PHASE_VERIFY && i < VERIFY_WINDOW; i++)
        verify_next(w);
    conn_flush(w);
}

/* `n` of a room's deliveries are over: publish again when that makes a whole PUB. */
static void room_heard(struct worker *w, uint32_t index, uint64_t n)
{
    uint32_t members = w->opt->members, number = index / members;
    struct room *room = &w->rooms[number];
    for (room->heard += (uint32_t)n; room->heard >= members - 1; room->heard -= members - 1)
        send_one(w, number * members, w->now);
}

static void go_on(struct worker *w, struct conn *c, uint64_t n)
{
    uint32_t index = (uint32_t)(c - w->conns);
    if (!is_running(w) || w->opt->rate > 0)
        return;
    if (w->opt->mode == MODE_ROOM)
        room_heard(w, index, n);
    else
        send_one(w, index, w->now);
}

void mode_delivered(struct worker *w, struct conn *c)
{
    if (w->phase == PHASE_VERIFY) {
        count_add(w, COUNT_VERIFIED, 1);
        verify_next(w);
        return;
    }
    count_add(w, COUNT_DELIVERED, 1);
    if (w->phase == PHASE_MEASURE && w->now > c->stamp)
        hist_add(&w->latency, w->now - c->stamp);
    go_on(w, c, 1);
}

/* Lost messages are made up for, so that one loss does not stop a pair or a room for good. */
void mode_gap(struct worker *w, struct conn *c, uint64_t n)
{
    uint64_t bound = (uint64_t)w->opt->window * (w->opt->mode == MODE_ROOM ? w->opt->members : 1);
    if (n > bound)
        n = bound;
    if (w->opt->mode == MODE_ROOM)
        go_on(w, c, n);
    else
        for (uint64_t i = 0; i < n; i++)
            go_on(w, c, 1);
}

void mode_refused(struct worker *w, struct conn *c)
{
    if (w->phase == PHASE_VERIFY)
        verify_next(w);
    else
        go_on(w, c, w->opt->mode == MODE_ROOM ? w->opt->members - 1 : 1);
}

void mode_tick(struct worker *w)
{
    uint32_t step = w->opt->mode == MODE_ROOM ? w->opt->members : 1;
    while (is_running(w) && w->due <= (double)w->now) {
        send_one(w, w->turn, (uint64_t)w->due);
        w->turn = w->turn + step < w->count ? w->turn + step : 0;
        w->due += w->interval;
    }
}
