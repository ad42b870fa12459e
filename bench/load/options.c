#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "load.h"

enum { CONNECTIONS_MAX = 1 << 24, DAY = 86400, HOUR = 3600 };

static const struct {
    const char *name, *help;
} MODES[] = {
    [MODE_IDLE] = {"idle", "open and hold --connections for --seconds"},
    [MODE_RELAY] = {"relay", "pairs; each delivery is answered with a message to the partner"},
    [MODE_RANDOM] = {"random", "each delivery is answered with a message to a random connection of all"},
    [MODE_PAIR] = {"pair", "relay with two connections: latency"},
    [MODE_ECHO] = {"echo", "each connection sends to itself"},
    [MODE_ROOM] = {"room", "--rooms of --members; the first member publishes when all others have received"},
    [MODE_CHURN] = {"churn", "connect, HELLO, close; latency is from connect to HELLO"},
    [MODE_MIX] = {"mix", "hold --connections, send between random ones at --rate, and publish into --rooms"},
    [MODE_STORM] = {"storm", "hold --connections; at a line on stdin cut them and open them again"},
};

enum type { REAL, WHOLE, FLAG };

/* Options that are numbers or flags: where in struct options, and the bounds. */
static const struct number {
    const char *name;
    enum type type;
    size_t at;
    double low, high;
    const char *help;
} NUMBERS[] = {
#define AT(field) offsetof(struct options, field)
    {"connections", WHOLE, AT(connections), 1, CONNECTIONS_MAX, "(500)"},
    {"threads", WHOLE, AT(threads), 1, MAX_THREADS, "(1; more if their descriptor tables are too small)"},
    {"rooms", WHOLE, AT(rooms.count), 1, 1 << 20, "(1)"},
    {"members", WHOLE, AT(rooms.members), 2, 1 << 20, "of each room (100)"},
    {"payload", WHOLE, AT(payload), STAMP_SIZE, PAYLOAD_MAX, "bytes of a message (128)"},
    {"rate", REAL, AT(rate), 0.01, 1e8, "sends a second in all, on a schedule; latency is from the scheduled time"},
    {"room-rate", REAL, AT(room_rate), 0.01, 1e8, "mix: publishes a second in all"},
    {"cut-rate", REAL, AT(cut_rate), 1, 1e8, "storm: connections cut a second (all at one moment)"},
    {"away", WHOLE, AT(away), 1, CONNECTIONS_MAX, "storm: cut as others are back, at most so many away"},
    {"seconds", REAL, AT(seconds), 0.1, DAY, "measured (10)"},
    {"warmup", REAL, AT(warmup), 0, HOUR, "seconds of load before (1)"},
    {"quiet", REAL, AT(quiet), 0, HOUR, "seconds without load before that: CPU and pings of that time (0)"},
    {"setup", REAL, AT(setup), 1, HOUR, "seconds at most to open all, and for a storm (60)"},
    {"second", FLAG, AT(second), 0, 0, "relay: then measure a second window, until a line on stdin"},
    {"spin", FLAG, AT(spin), 0, 0, "poll without sleeping: no wake-up in the latency, but a core is busy"},
    {"verify", FLAG, AT(verify), 0, 0, "idle, mix: at the end send a TO to every address"},
};

static const char USAGE[] =
    "usage: load MODE [--option VALUE...] URL...\n"
    "\n"
    "Connects to WebSocket servers at numeric URLs (ws://127.0.0.1:9001/), and prints what bench/load.py reads.\n"
    "Connections take the URLs in turn, so with two URLs a pair has one end on each.\n";

static _Noreturn void help(void)
{
    printf("%s\nmodes\n", USAGE);
    for (size_t i = 0; i < sizeof MODES / sizeof *MODES; i++)
        printf("  %-8s %s\n", MODES[i].name, MODES[i].help);
    printf("\noptions (default)\n");
    for (size_t i = 0; i < sizeof NUMBERS / sizeof *NUMBERS; i++)
        printf("  --%-12s %s\n", NUMBERS[i].name, NUMBERS[i].help);
    printf("  --%-12s %s\n", "protocol", "signal, or nats for nats-server's own WebSocket listener (signal)");
    printf("  --%-12s %s\n", "pid", "a process to sample; may be repeated");
    exit(0);
}

static _Noreturn void fail(const char *what, const char *value)
{
    fprintf(stderr, "load: %s: %s (see load --help)\n", what, value);
    exit(2);
}

static double number(const char *text, const char *name, double low, double high, bool whole)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= low && value <= high) || (whole && value != (double)(uint32_t)value))
        fail(name, text);
    return value;
}

/* ws://A.B.C.D:PORT[/path] */
static void parse_url(struct target *target, const char *url)
{
    char host[64];
    const char *rest = strncmp(url, "ws://", 5) == 0 ? url + 5 : url;
    const char *path = strchr(rest, '/');
    size_t length = path ? (size_t)(path - rest) : strlen(rest);
    if (length >= sizeof host)
        fail("not a URL", url);
    memcpy(host, rest, length);
    host[length] = 0;
    char *port = strchr(host, ':');
    if (!port)
        fail("a URL needs a port", url);
    *port++ = 0;
    target->address.sin_family = AF_INET;
    target->address.sin_port = htons((uint16_t)number(port, "port", 1, 65535, true));
    if (inet_pton(AF_INET, host, &target->address.sin_addr) != 1)
        fail("not a numeric IPv4 address", url);
    snprintf(target->host, sizeof target->host, "%.15s:%.5s", host, port);
    target->path = path ? path : "/";
}

static void set_number(struct options *opt, const struct number *n, const char *text)
{
    void *at = (char *)opt + n->at;
    double value = n->type == FLAG ? 1 : number(text, n->name, n->low, n->high, n->type == WHOLE);
    if (n->type == REAL)
        *(double *)at = value;
    else if (n->type == WHOLE)
        *(uint32_t *)at = (uint32_t)value;
    else
        *(bool *)at = true;
}

/* Sets an option that is not one of NUMBERS. */
static void set_other(struct options *opt, const char *name, const char *text)
{
    if (strcmp(name, "protocol") == 0 && strcmp(text, "nats") == 0)
        opt->protocol = &protocol_nats;
    else if (strcmp(name, "pid") == 0 && opt->servers < MAX_SERVERS && number(text, name, 1, 1 << 30, true) > 0)
        opt->server[opt->servers++] = text;
    else if (strcmp(name, "protocol") != 0 || strcmp(text, "signal") != 0)
        fail(name, text);
}

/* Sets the option argv[0], with the value behind '=' or in argv[1]; returns how many words it took. */
static int set(struct options *opt, char **argv)
{
    char *name = argv[0] + 2, *value = strchr(name, '=');
    const struct number *found = NULL;
    if (value)
        *value++ = 0;
    if (strcmp(name, "help") == 0)
        help();
    for (size_t i = 0; i < sizeof NUMBERS / sizeof *NUMBERS; i++)
        if (strcmp(name, NUMBERS[i].name) == 0)
            found = &NUMBERS[i];
    bool next = !value && !(found && found->type == FLAG);
    if (next && !argv[1])
        fail("no value", name);
    if (found)
        set_number(opt, found, next ? argv[1] : value);
    else
        set_other(opt, name, next ? argv[1] : value);
    return next ? 2 : 1;
}

static void set_mode(struct options *opt, const char *name)
{
    for (size_t i = 0; i < sizeof MODES / sizeof *MODES; i++)
        if (strcmp(name, MODES[i].name) == 0) {
            opt->mode = (enum mode)i;
            opt->mode_name = name;
            return;
        }
    fail("no such mode", name);
}

/* Returns how many connections the descriptor table of one thread holds. */
static uint32_t table_size(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return 1024 - 16;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur > CONNECTIONS_MAX ? CONNECTIONS_MAX : (uint32_t)limit.rlim_cur - 16;
}

static uint32_t quotient_up(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

/* A room stays in one thread if that leaves work for all threads; else its members are spread over them. */
static uint32_t unit_of(const struct options *opt, uint32_t table)
{
    uint32_t members = opt->rooms.members;
    if (opt->mode == MODE_RELAY || opt->mode == MODE_PAIR)
        return 2;
    if (opt->mode != MODE_ROOM || members > table || opt->rooms.count < opt->threads)
        return 1;
    return quotient_up(opt->rooms.count, table / members) > MAX_THREADS ? 1 : members;
}

/* Chooses so many threads that each holds its share within its descriptor table, and none is without a unit. */
static void fit_threads(struct options *opt)
{
    uint32_t table = table_size();
    opt->unit = unit_of(opt, table);
    uint32_t units = opt->connections / opt->unit, least = quotient_up(units, table / opt->unit);
    if (opt->threads < least)
        opt->threads = least;
    if (opt->threads > units)
        opt->threads = units;
    if (opt->threads > MAX_THREADS)
        fail("too many for the limit of descriptors", "--connections");
}

/* Sets the rooms and connections of the mode. */
static void fit_mode(struct options *opt)
{
    uint64_t in_rooms = (uint64_t)opt->rooms.count * opt->rooms.members;
    if (opt->mode == MODE_PAIR)
        opt->connections = 2;
    if (opt->mode == MODE_RELAY)
        opt->connections += opt->connections & 1;
    if (opt->mode == MODE_ROOM && in_rooms > CONNECTIONS_MAX)
        fail("too many connections", "--rooms x --members");
    if (opt->mode == MODE_ROOM)
        opt->connections = (uint32_t)in_rooms;
    else if (opt->mode != MODE_MIX || opt->room_rate <= 0)
        opt->rooms.count = 0;
    else if (in_rooms > opt->connections)
        fail("more members than --connections", "--rooms x --members");
    else
        opt->rooms.stride = opt->connections / (uint32_t)in_rooms;
}

/* Fails if options do not go together. */
static void check(const struct options *opt)
{
    if (!opt->targets)
        fail("no URL", opt->mode_name);
    if (opt->verify && opt->mode != MODE_IDLE && opt->mode != MODE_MIX)
        fail("only for idle and mix", "--verify");
    if (opt->room_rate > 0 && opt->mode != MODE_MIX)
        fail("only for mix", "--room-rate");
    if (opt->second && opt->mode != MODE_RELAY)
        fail("only for relay", "--second");
}

void options_parse(struct options *opt, int argc, char **argv)
{
    *opt = (struct options){.protocol = &protocol_signal, .connections = 500, .threads = 1, .payload = 128,
                            .rooms = {1, 100, 1}, .seconds = 10, .warmup = 1, .setup = 60};
    for (int i = 1; i < argc;)
        if (strncmp(argv[i], "--", 2) == 0) {
            i += set(opt, argv + i);
        } else if (!opt->mode_name) {
            set_mode(opt, argv[i++]);
        } else if (opt->targets < MAX_TARGETS) {
            parse_url(&opt->target[opt->targets++], argv[i++]);
        } else {
            fail("too many URLs", argv[i]);
        }
    if (!opt->mode_name)
        fail("no mode", "one of those of --help");
    check(opt);
    fit_mode(opt);
    fit_threads(opt);
}
