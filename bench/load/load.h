/* The types of the load generator, and what each file offers, in reading order. */
#ifndef LOAD_LOAD_H
#define LOAD_LOAD_H

#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "hist.h"
#include "layout.h"
#include "nats_wire.h"
#include "ws.h"

enum {
    MAX_TARGETS = 16,         /* URLs */
    MAX_SERVERS = 16,         /* --pid */
    MAX_THREADS = 256,
    ADDRESS_MAX = 31,         /* of a peer: the engine's have at most 30, node 16, dot, local 13 */
    ROOM_MAX = 48,
    STAMP_SIZE = 16,          /* every payload starts with the time it was sent, a letter for 4 bits */
    PAYLOAD_MAX = 512 * 1024,
    CORK_FLUSH = 64 * 1024,   /* frames gathered for one connection before they are sent */
    READ_SIZE = 256 * 1024,
    OUT_MAX = 4 << 20,        /* unsent bytes at which a connection is given up */
};

/* ---- options.c ----------------------------------------------------------------------------------------- */

enum mode {
    MODE_IDLE, MODE_RELAY, MODE_RANDOM, MODE_PAIR, MODE_ECHO, MODE_ROOM, MODE_CHURN, MODE_MIX, MODE_STORM,
};

struct target {
    struct sockaddr_in address;
    const char *path;         /* of the request: the URL's, "/" if it has none */
    char host[32];            /* the request's Host: address and port */
};

struct options {
    enum mode mode;
    const char *mode_name;
    const struct protocol *protocol;
    struct target target[MAX_TARGETS];
    const char *server[MAX_SERVERS];  /* ids of processes whose CPU and memory are sampled */
    uint32_t targets, servers;
    uint32_t connections;     /* in all threads; in churn, how many are under way at a time */
    uint32_t threads;
    uint32_t unit;            /* how many connections stay in one thread: a pair, a small room */
    struct rooms rooms;       /* in room and mix only */
    uint32_t payload;         /* bytes of each */
    double seconds;           /* the measured window */
    double warmup;            /* load before it */
    double quiet;             /* without any send, before that */
    double setup;             /* at most for opening and joining, and for a storm */
    double rate;              /* sends a second in all, on a schedule; 0: answer each delivery with a send */
    double room_rate;         /* mix: publishes a second in all */
    double cut_rate;          /* storm: connections cut a second; 0: all at one moment */
    uint32_t away;            /* storm: connections that are not open at a time, at most; 0: any number */
    bool spin, verify, second;
};

/* Parses the command line; exits with a message and 2 on a mistake, and with 0 after --help. */
void options_parse(struct options *opt, int argc, char **argv);

/* Whether sends follow a schedule rather than deliveries. */
static inline bool options_timed(const struct options *opt)
{
    return opt->rate > 0 || opt->mode == MODE_MIX;
}

/* ---- counters ------------------------------------------------------------------------------------------ */

enum count {
    COUNT_READY,              /* connections greeted, joined and open now */
    COUNT_SENT,               /* TO and PUB written; in churn, connections begun */
    COUNT_EXPECTED,           /* deliveries that these should make */
    COUNT_DELIVERED,          /* FROM and MSG received; in churn, connections greeted */
    COUNT_VERIFIED,           /* --verify: connections that received the final TO */
    COUNT_PINGS,              /* of the server's, answered */
    COUNT_REOPENED,           /* storm: connections greeted again */
    COUNT_GAP,                /* messages that a GAP reported as dropped */
    COUNT_CORRUPT,            /* payloads of another length or without a time */
    COUNT_DISORDER,           /* overtaken by a later message of the same sender */
    COUNT_CONNECT,            /* connects that failed */
    COUNT_HANDSHAKE,          /* upgrades refused or wrong */
    COUNT_CLOSED,             /* connections that the server closed unasked */
    COUNT_PROTOCOL,           /* what is not the protocol's, or too long an address */
    COUNT_BLOCKED,            /* given up for OUT_MAX */
    COUNT_ERR,                /* ERR, by its code; the last is any other code */
    COUNT_ERR_OTHER = COUNT_ERR + 10,
    COUNTS
};

/* Names of the counters; those of ERR are "err." and the code. */
extern const char *const count_names[COUNTS];

/* PHASE_SECOND is the second window of --second, or the time of a storm. */
enum phase {
    PHASE_OPEN, PHASE_RUN, PHASE_MEASURE, PHASE_SECOND, PHASE_DRAIN, PHASE_VERIFY, PHASE_STOP, PHASES,
};

/* What a message was sent to. */
enum kind { KIND_TO, KIND_ROOM, KINDS };

/* Latencies that are reported apart: the second series is of rooms in mix, and of the second window with --second. */
enum series { SERIES_MAIN, SERIES_OTHER, SERIES };

/* ---- what all threads share ----------------------------------------------------------------------------- */

/* A peer's address. The connection's thread writes it, any thread sends to it. The length is stored after the text, so
 * a thread that loads a length other than 0 sees the text. A text is replaced only while nothing is sent to it: while
 * connections are opened, and in churn and storm. */
struct address {
    _Atomic uint8_t length;   /* 0: not open */
    char text[ADDRESS_MAX];
};

static inline void address_store(struct address *a, uint8_t length)
{
    atomic_store_explicit(&a->length, length, memory_order_release);
}

static inline uint8_t address_load(const struct address *a)
{
    return atomic_load_explicit(&a->length, memory_order_acquire);
}

/* A room's progress: whenever the deliveries make up one PUB, the next is sent. */
struct room {
    _Atomic uint64_t delivered;
    _Atomic uint32_t due;     /* publishes that the publisher's thread has yet to send */
};

struct worker;

struct shared {
    const struct options *opt;
    _Atomic int command;              /* the phase that main is in */
    _Atomic uint64_t began[PHASES];   /* when each began, ns; UINT64_MAX: not yet */
    struct address *addresses;        /* of all connections */
    struct room *rooms;
    struct worker *workers;
};

/* ---- conn.c: one WebSocket ----------------------------------------------------------------------------- */

enum conn_state {
    CONN_CLOSED, CONN_CONNECTING, CONN_UPGRADING, CONN_GREETING, CONN_JOINING, CONN_READY, CONN_CLOSING,
};

/* Owned by one worker; freed with its array. There are millions: an idle one owns no other memory. */
struct conn {
    int fd;                   /* -1 while CONN_CLOSED */
    uint8_t state;            /* enum conn_state */
    uint32_t in_length, out_length;
    uint8_t *in;              /* malloc: the start of an incomplete frame, or NULL */
    uint8_t *out;             /* malloc: what the socket did not take, or NULL */
    uint64_t stamp;           /* of the last message received in order; before, when its connect began */
    struct nats_stream stream;
};

_Static_assert(sizeof(struct conn) + sizeof(struct address) <= 80, "there are millions of both");

/* Sends at a rate. */
struct schedule {
    double due, interval;     /* ns of the next send, and between two; interval 0: none */
    uint32_t turn;            /* which connection or room sends next */
};

/* One thread with its epoll, its descriptor table and its share of the connections. */
struct worker {
    const struct options *opt;
    struct shared *shared;
    pthread_t thread;
    uint32_t index;
    uint32_t cut;                     /* storm: connections that it has cut */
    enum phase phase;                 /* the phase that this thread is in, */
    _Atomic int entered;              /* and for main to see */
    int epoll;
    uint32_t first, count;            /* connections of all that are this thread's, */
    struct conn *conns;               /* and the array of them */
    uint32_t room_first, room_count;  /* rooms whose publisher is one of them */
    uint32_t *closed;                 /* indices of those to open, a stack */
    uint32_t closed_count;
    uint32_t opening, opening_max;    /* handshakes under way, now and at most */
    uint32_t begun;                   /* connects so far: picks the source address */
    struct conn *corked;              /* whose frames are in `cork`, or NULL */
    uint8_t *cork;
    size_t cork_length;
    uint8_t *inbox;                   /* READ_SIZE + WS_MAX_FRAME, what one recv filled */
    uint8_t *filler;                  /* the rest of a payload */
    uint64_t now;                     /* ns, monotonic, at the last recv or wait */
    uint64_t retry;                   /* opens nothing before this time */
    uint64_t random;                  /* xorshift state: masks and targets */
    struct schedule schedule[KINDS];
    uint32_t turn;                    /* --verify: which connection sends next */
    _Atomic uint64_t counts[COUNTS];  /* written by this thread only, read by main */
    struct hist latency[SERIES];      /* main reads it after PHASE_STOP */
};

static inline void count_add(struct worker *w, int which, uint64_t n)
{
    uint64_t old = atomic_load_explicit(&w->counts[which], memory_order_relaxed);
    atomic_store_explicit(&w->counts[which], old + n, memory_order_release);
}

static inline uint32_t conn_index(const struct worker *w, const struct conn *c)
{
    return (uint32_t)(c - w->conns);
}

static inline struct address *conn_address(const struct worker *w, const struct conn *c)
{
    return &w->shared->addresses[w->first + conn_index(w, c)];
}

static inline uint32_t worker_random(struct worker *w)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return (uint32_t)(w->random >> 32);
}

/* Handles what epoll reports of a connection; it may be closed afterwards. */
void conn_event(struct worker *w, struct conn *c, uint32_t events);

/* Closes at once; counts `why` unless it is -1. In churn, storm and while opening, it is opened again. */
void conn_close(struct worker *w, struct conn *c, int why);

/* Closes with a reset and no close frame, as a failing client does. */
void conn_cut(struct worker *w, struct conn *c);

/* Sets the events that epoll reports. */
void conn_listen(struct worker *w, struct conn *c, uint32_t events);

/* Corks the header of a frame; returns where its body of `length` bytes goes, which ws_mask has to mask. */
uint8_t *conn_frame(struct worker *w, struct conn *c, uint8_t opcode, size_t length);

/* Corks one frame with this body. */
void conn_send(struct worker *w, struct conn *c, uint8_t opcode, const void *body, size_t length);

/* Sends what is corked, for any connection. */
void conn_flush(struct worker *w);

/* Handles a ping, a pong or a close. */
void conn_control(struct worker *w, struct conn *c, const struct ws_frame *frame);

/* Keeps the start of an incomplete frame until the rest comes. */
void conn_keep(struct worker *w, struct conn *c, const uint8_t *rest, size_t length);

/* ---- open.c: from connect to ready --------------------------------------------------------------------- */

/* Begins a connect; a failure is counted, and tried again later. */
void open_begin(struct worker *w, uint32_t index);

/* Asks for the upgrade, once the connect has ended. */
void open_upgrade(struct worker *w, struct conn *c);

/* Stores the address of `c`; false if it is too long, and `c` is closed. */
bool open_address(struct worker *w, struct conn *c, const void *text, size_t length);

/* Makes `c` ready: all that precedes messages is done. */
void open_done(struct worker *w, struct conn *c);

/* ---- message.c: signal.v1 and payloads; nats.c: NATS ---------------------------------------------------- */

struct protocol {
    const char *name;
    const char *offer;        /* the WebSocket subprotocol to ask for, or "" */
    void (*to)(struct worker *w, struct conn *c, const char *receiver, uint8_t length, uint64_t stamp);
    void (*pub)(struct worker *w, struct conn *c, uint32_t room, uint64_t stamp);
    /* Handles what came after the upgrade: data[0..length), what was kept first. May write into it. */
    void (*read)(struct worker *w, struct conn *c, uint8_t *data, size_t length);
};

extern const struct protocol protocol_signal, protocol_nats;

/* Writes --payload bytes that carry the stamp. */
void payload_write(const struct worker *w, uint8_t *out, uint64_t stamp);

/* Checks a payload that `c` received, and calls mode_delivered. */
void payload_received(struct worker *w, struct conn *c, enum kind kind, const uint8_t *payload, size_t length);

/* ---- mode.c: who sends when ---------------------------------------------------------------------------- */

/* Begins a phase in this thread. */
void mode_enter(struct worker *w, enum phase phase);

/* Counts and measures a delivery to `c`, and sends the next message. */
void mode_delivered(struct worker *w, struct conn *c, enum kind kind, uint64_t stamp);

/* Replaces `n` messages that were dropped or refused, so that a loss does not stop a pair or a room for good. */
void mode_lost(struct worker *w, struct conn *c, uint64_t n);

/* Sends what is due by now: on schedule, or because other threads received the last of a room's message. */
void mode_tick(struct worker *w);

/* ---- worker.c ------------------------------------------------------------------------------------------ */

/* Nanoseconds of the monotonic clock. */
uint64_t clock_ns(void);

enum { WORKER_WAKE = SIGUSR1 };  /* interrupts a worker's wait, and is blocked at other times */

/* The thread's main; `arg` is its struct worker, which phases_start filled in. */
void *worker_main(void *arg);

/* ---- phases.c: open, warm up, measure, drain; what bench/load.py reads, on stdout ------------------------- */

/* Shares the connections out, and starts the threads; they begin to open them at once. */
void phases_start(struct shared *shared);

/* Waits until all connections are open; false if they are not within --setup seconds. */
bool phases_open(struct shared *shared);

/* Runs the phases from the first message to the last. */
void phases_measure(struct shared *shared);

/* Ends the threads, and prints their latencies. */
void phases_stop(struct shared *shared);

#endif
