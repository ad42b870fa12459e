#include "load.h"

enum { VERIFY_WINDOW = 256 };  /* --verify: messages in flight in one thread */

static bool is_running(const struct worker *w)
{
    return w->phase == PHASE_RUN || w->phase == PHASE_MEASURE || w->phase == PHASE_SECOND;
}

/* Sends to a connection of any thread, by its number among all. */
static void send_to(struct worker *w, struct conn *c, uint32_t receiver, uint64_t stamp)
{
    const struct address *to = &w->shared->addresses[receiver];
    uint8_t length = address_load(to);
    if (c->state != CONN_READY || !length)
        return;
    w->opt->protocol->to(w, c, to->text, length, stamp);
    count_add(w, COUNT_SENT, 1);
    count_add(w, COUNT_EXPECTED, 1);
}

/* Publishes into a room whose publisher this thread holds. */
static void send_pub(struct worker *w, uint32_t room, uint64_t stamp)
{
    struct conn *c = &w->conns[layout_publisher(&w->opt->rooms, room) - w->first];
    if (c->state != CONN_READY)
        return;
    w->opt->protocol->pub(w, c, room, stamp);
    count_add(w, COUNT_SENT, 1);
    count_add(w, COUNT_EXPECTED, w->opt->rooms.members - 1);
}

/* Returns a random connection other than this one, unless there is no other. */
static uint32_t another(struct worker *w, uint32_t own)
{
    uint32_t all = w->opt->connections, other = all > 1 ? worker_random(w) % (all - 1) : 0;
    return other + (all > 1 && other >= own);
}

/* Sends one TO of connection `index`, to the receiver that the mode chooses. */
static void send_one(struct worker *w, uint32_t index, uint64_t stamp)
{
    struct conn *c = &w->conns[index];
    switch (w->opt->mode) {
    case MODE_RELAY:
    case MODE_PAIR: send_to(w, c, w->first + (index ^ 1), stamp); break;
    case MODE_MIX:
    case MODE_RANDOM: send_to(w, c, another(w, w->first + index), stamp); break;
    case MODE_ECHO: send_to(w, c, w->first + index, stamp); break;
    case MODE_IDLE:
    case MODE_ROOM:
    case MODE_CHURN:
    case MODE_STORM: break;
    }
}

/* --verify: the next connection sends to its neighbour, which is on the next URL. */
static void verify_next(struct worker *w)
{
    if (w->turn < w->count) {
        uint32_t index = w->turn++;
        send_to(w, &w->conns[index], w->first + (index + 1) % w->count, w->now);
    }
}

/* Puts one message of each pair, echoing connection or room in flight. */
static void begin(struct worker *w)
{
    uint32_t step = w->opt->mode == MODE_ECHO ? 1 : 2;
    for (uint32_t i = 0; w->opt->mode == MODE_ROOM && i < w->room_count; i++)
        send_pub(w, w->room_first + i, clock_ns());
    for (uint32_t i = 0; i + step <= w->count; i += step)
        send_one(w, i, clock_ns());
}

void mode_enter(struct worker *w, enum phase phase)
{
    w->phase = phase;
    w->now = clock_ns();
    w->turn = 0;
    if (phase == PHASE_RUN && !options_timed(w->opt))
        begin(w);
    for (int kind = 0; phase == PHASE_RUN && kind < KINDS; kind++) {
        struct schedule *s = &w->schedule[kind];
        s->due = (double)w->now + s->interval * w->index / w->opt->threads;  /* not all threads at once */
    }
    for (int i = 0; phase == PHASE_VERIFY && i < VERIFY_WINDOW; i++)
        verify_next(w);
    conn_flush(w);
    atomic_store(&w->entered, (int)phase);
}

/* `n` of a room's deliveries are over: publishes again when that makes a whole PUB. */
static void room_delivered(struct worker *w, uint32_t number, uint64_t n)
{
    const struct rooms *rooms = &w->opt->rooms;
    struct room *room = &w->shared->rooms[number];
    uint64_t each = rooms->members - 1, before = atomic_fetch_add(&room->delivered, n);
    uint32_t whole = (uint32_t)((before + n) / each - before / each);
    if (!whole)
        return;
    if (number - w->room_first < w->room_count) {
        while (whole--)
            send_pub(w, number, w->now);
        return;
    }
    struct worker *other = w->shared->workers;
    while (number - other->room_first >= other->room_count)
        other++;
    atomic_fetch_add(&room->due, whole);
    pthread_kill(other->thread, WORKER_WAKE);
}

/* `n` deliveries are over: sends again. Other threads may have begun to send before this one sees the phase. */
static void go_on(struct worker *w, struct conn *c, uint64_t n)
{
    uint32_t index = conn_index(w, c);
    int phase = atomic_load_explicit(&w->shared->command, memory_order_relaxed);
    if (phase < PHASE_RUN || phase >= PHASE_DRAIN || options_timed(w->opt))
        return;
    if (w->opt->mode == MODE_ROOM)
        room_delivered(w, (uint32_t)layout_room(&w->opt->rooms, w->first + index), n);
    else
        send_one(w, index, w->now);
}

/* Whether a phase had begun when a message was sent. */
static bool after(const struct worker *w, enum phase phase, uint64_t stamp)
{
    return stamp >= atomic_load_explicit(&w->shared->began[phase], memory_order_relaxed);
}

/* A message's latency counts for the phase in which it was sent, however late it is received. */
static void measure(struct worker *w, enum kind kind, uint64_t stamp)
{
    if (!after(w, PHASE_MEASURE, stamp) || after(w, PHASE_DRAIN, stamp) || w->now <= stamp)
        return;
    bool other = w->opt->mode == MODE_MIX ? kind == KIND_ROOM : after(w, PHASE_SECOND, stamp);
    hist_add(&w->latency[other ? SERIES_OTHER : SERIES_MAIN], w->now - stamp);
}

void mode_delivered(struct worker *w, struct conn *c, enum kind kind, uint64_t stamp)
{
    if (w->phase == PHASE_VERIFY) {
        count_add(w, COUNT_VERIFIED, 1);
        verify_next(w);
        return;
    }
    count_add(w, COUNT_DELIVERED, 1);
    measure(w, kind, stamp);
    go_on(w, c, 1);
}

void mode_lost(struct worker *w, struct conn *c, uint64_t n)
{
    uint64_t most = w->opt->mode == MODE_ROOM ? w->opt->rooms.members - 1 : 1;
    if (w->phase == PHASE_VERIFY)
        verify_next(w);
    else
        go_on(w, c, n < most ? n : most);
}

/* Sends what is due of one kind; each kind has a schedule. */
static void on_schedule(struct worker *w, enum kind kind)
{
    struct schedule *s = &w->schedule[kind];
    uint32_t all = kind == KIND_ROOM ? w->room_count : w->count;
    while (s->interval > 0 && s->due <= (double)w->now) {
        if (kind == KIND_ROOM)
            send_pub(w, w->room_first + s->turn, (uint64_t)s->due);
        else
            send_one(w, s->turn, (uint64_t)s->due);
        s->turn = s->turn + 1 < all ? s->turn + 1 : 0;
        s->due += s->interval;
    }
}

/* Publishes what other threads' members made due. */
static void on_wake(struct worker *w)
{
    for (uint32_t i = w->room_first; i < w->room_first + w->room_count; i++)
        for (uint32_t n = atomic_exchange(&w->shared->rooms[i].due, 0); n; n--)
            send_pub(w, i, w->now);
}

void mode_tick(struct worker *w)
{
    if (!is_running(w))
        return;
    if (options_timed(w->opt)) {
        on_schedule(w, KIND_TO);
        on_schedule(w, KIND_ROOM);
    } else if (w->opt->mode == MODE_ROOM && w->opt->unit == 1) {
        on_wake(w);
    }
}
