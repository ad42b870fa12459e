/* The load generator's types, and what each of its files offers. The reading order is that of this file. */
#ifndef LOAD_LOAD_H
#define LOAD_LOAD_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "hist.h"

enum {
    MAX_TARGETS = 16,         /* URLs */
    MAX_SERVERS = 16,         /* --pid */
    MAX_THREADS = 256,
    PEER_MAX = 50,            /* node 16, dot, local 32, and one to spare */
    ROOM_MAX = 48,
    STAMP_SIZE = 16,          /* every payload starts with the time it was sent, a letter for 4 bits */
    PAYLOAD_MAX = 512 * 1024,
    OPENING_MAX = 256,        /* handshakes under way in one thread */
    CORK_FLUSH = 64 * 1024,   /* what is gathered for one connection before it is sent anyway */
    READ_SIZE = 256 * 1024,
    OUT_MAX = 4 << 20,        /* unsent bytes at which a connection is given up */
};

/* ---- options.c: what to do ----------------------------------------------------------------------------- */

enum mode { MODE_IDLE, MODE_RELAY, MODE_RANDOM, MODE_PAIR, MODE_SELF, MODE_ROOM, MODE_CHURN };

struct target {
    struct sockaddr_in address;
    const char *path;         /* of the request: the URL's, "/" if it has none */
    char host[32];            /* the request's Host: address and port */
};

struct options {
    enum mode mode;
    const char *mode_name;
    struct target target[MAX_TARGETS];
    pid_t server[MAX_SERVERS];    /* processes whose CPU and memory are sampled */
    uint32_t targets, servers;
    uint32_t connections;     /* in all threads; in churn, how many are under way at a time */
    uint32_t threads;
    uint32_t window;          /* messages in flight for a pair, a connection (self) or a room */
    uint32_t payload;         /* bytes of each */
    uint32_t rooms, members;  /* room mode: connections = rooms x members */
    double seconds;           /* the measured window */
    double warmup;            /* load before it */
    double setup;             /* at most for opening and joining */
    double rate;              /* sends a second in all, on a schedule; 0: answer each delivery with a send */
    bool binary, spin, verify;
};

/* Parse the command line; exits with a sentence and 2 on a mistake, and with 0 after --help. */
void options_parse(struct options *opt, int argc, char **argv);

/* How many connections belong together (a pair 2, a room its members) and stay in one thread. */
uint32_t options_unit(const struct options *opt);

/* ---- counters ------------------------------------------------------------------------------------------ */

enum count {
    COUNT_READY,              /* connections greeted, joined and open now */
    COUNT_SENT,               /* TO and PUB written; in churn, connections begun */
    COUNT_EXPECTED,           /* deliveries that these should make */
    COUNT_DELIVERED,          /* FROM and MSG heard; in churn, connections greeted */
    COUNT_VERIFIED,           /* idle: connections that heard the final TO */
    COUNT_GAP,                /* messages that a GAP told of */
    COUNT_CORRUPT,            /* payloads of another length or without a time */
    COUNT_DISORDER,           /* overtaken by a later message of the same sender */
    COUNT_CONNECT,            /* connects that failed */
    COUNT_HANDSHAKE,          /* upgrades refused or wrong */
    COUNT_CLOSED,             /* connections the server closed unasked */
    COUNT_PROTOCOL,           /* frames or verbs that are not signal.v1 */
    COUNT_BLOCKED,            /* given up for OUT_MAX */
    COUNT_ERR,                /* the first of the ERR codes, in the order of err_codes */
    COUNT_ERR_OTHER = COUNT_ERR + 10,
    COUNTS
};

extern const char *const err_codes[COUNTS - COUNT_ERR];

enum phase { PHASE_OPEN, PHASE_RUN, PHASE_MEASURE, PHASE_DRAIN, PHASE_VERIFY, PHASE_STOP };

/* ---- conn.c: one WebSocket ----------------------------------------------------------------------------- */

enum conn_state {
    CONN_CLOSED, CONN_CONNECTING, CONN_UPGRADING, CONN_GREETING, CONN_JOINING, CONN_READY, CONN_CLOSING,
};

/* Owned by one worker; freed with its array. */
struct conn {
    int fd;                   /* -1 while CONN_CLOSED */
    uint8_t state;            /* enum conn_state */
    uint8_t peer_length;
    char peer[PEER_MAX];      /* its address, from HELLO */
    uint32_t in_length, out_length;
    uint8_t *in;              /* malloc: the start of a frame that is not whole yet, or NULL */
    uint8_t *out;             /* malloc: what the socket did not take, or NULL */
    uint64_t stamp;           /* of the last message heard; until then, when its connect began */
};

/* A room's progress: once `heard` deliveries make up one PUB, the next is sent. */
struct room {
    uint32_t heard;
};

/* One thread with its epoll, its descriptor table and its share of the connections. */
struct worker {
    const struct options *opt;
    const _Atomic int *command;       /* the phase that main is in */
    pthread_t thread;
    uint32_t index;
    enum phase phase;                 /* the phase that this thread is in */
    int epoll;
    uint32_t count;                   /* connections, */
    struct conn *conns;               /* and where they are */
    uint32_t *closed;                 /* indices of those to open, a stack */
    uint32_t closed_count;
    uint32_t opening;                 /* handshakes under way */
    uint32_t begun;                   /* connects so far: picks the source address */
    struct room *rooms;
    struct conn *corked;              /* whose frames are in `cork`, or NULL */
    uint8_t *cork;
    size_t cork_length;
    uint8_t *inbox;                   /* READ_SIZE + WS_MAX_FRAME, what one recv filled */
    uint8_t *filler;                  /* the rest of a payload */
    uint64_t now;                     /* ns, monotonic, at the last recv or wait */
    uint64_t retry;                   /* opens nothing before this time */
    uint64_t random;                  /* xorshift state: masks and targets */
    double due, interval;             /* --rate: ns of the next send, and between two */
    uint32_t turn;                    /* --rate and --verify: whose turn it is */
    bool shared_table;                /* close_range was refused: descriptors count for the process */
    _Atomic uint64_t counts[COUNTS];  /* written by this thread only, read by main */
    struct hist latency;              /* of the measured window; read after the join */
};

static inline void count_add(struct worker *w, int which, uint64_t n)
{
    uint64_t old = atomic_load_explicit(&w->counts[which], memory_order_relaxed);
    atomic_store_explicit(&w->counts[which], old + n, memory_order_relaxed);
}

static inline uint32_t worker_random(struct worker *w)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return (uint32_t)(w->random >> 32);
}

/* Begin a connect; a failure is counted, and tried again later. */
void conn_open(struct worker *w, uint32_t index);

/* Handle what epoll says of a connection; it may be closed afterwards. */
void conn_event(struct worker *w, struct conn *c, uint32_t events);

/* Close at once; counts `why` unless it is -1. In churn, and while opening, it is opened again. */
void conn_close(struct worker *w, struct conn *c, int why);

/* Room for `size` bytes of frames to `c`, which conn_flush sends; add what was used to cork_length. */
uint8_t *conn_reserve(struct worker *w, struct conn *c, size_t size);

/* Send what is corked, to whomever. */
void conn_flush(struct worker *w);

/* ---- message.c: signal.v1 ------------------------------------------------------------------------------ */

void message_to(struct worker *w, struct conn *c, const struct conn *receiver, uint64_t stamp);
void message_pub(struct worker *w, struct conn *c, uint32_t room, uint64_t stamp);
void message_close(struct worker *w, struct conn *c);

/* Handle one message of the server's. */
void message_heard(struct worker *w, struct conn *c, const uint8_t *body, size_t length);

/* ---- mode.c: who sends when ---------------------------------------------------------------------------- */

/* A new phase began in this thread. */
void mode_enter(struct worker *w, enum phase phase);

/* `c` heard a delivery; or it heard that `n` were lost to it, or that what it sent was refused. */
void mode_delivered(struct worker *w, struct conn *c);
void mode_gap(struct worker *w, struct conn *c, uint64_t n);
void mode_refused(struct worker *w, struct conn *c);

/* Send what is due by now (--rate). */
void mode_tick(struct worker *w);

/* ---- worker.c ------------------------------------------------------------------------------------------ */

/* Nanoseconds of the monotonic clock. */
uint64_t clock_ns(void);

/* The thread's main; `arg` is its struct worker, with opt, command, index and count filled in. */
void *worker_main(void *arg);

/* ---- proc.c: what the measured processes use ----------------------------------------------------------- */

struct usage {
    double user, system;      /* CPU seconds; -1 where there is no such process */
};

struct usage proc_cpu(pid_t pid);
long proc_pss(pid_t pid);                           /* kB, or -1 */
void proc_name(pid_t pid, char *out, size_t room);  /* the command's, without characters that JSON escapes */

/* ---- report.c ------------------------------------------------------------------------------------------ */

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
    struct sample before, after;          /* the measured window's ends */
    uint64_t final[COUNTS];               /* when the last delivery was in, warm-up included */
    long pss_before[MAX_SERVERS], pss_after[MAX_SERVERS];
    struct hist latency;
    bool shared_table;
};

/* Print a result as one JSON object on stdout. */
void report_print(const struct result *r);

#endif
