#include <arpa/inet.h>
#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "load.h"

static const char USAGE[] =
    "usage: load MODE [option…] URL…\n"
    "\n"
    "Speaks signal.v1 over WebSocket to servers at numeric URLs (ws://127.0.0.1:9001/) and prints JSON.\n"
    "Connections take the URLs in turn, so with two of them a pair has one end on each.\n"
    "\n"
    "modes\n"
    "  idle     open, greet, hold for --seconds; --verify then sends a TO to every address\n"
    "  relay    pairs; each delivery is answered with a message to the partner\n"
    "  random   each delivery is answered with a message to a random connection of all\n"
    "  pair     relay with two connections: latency\n"
    "  echo     each connection sends to itself (also: self)\n"
    "  room     --rooms of --members; the first member publishes when all others have heard\n"
    "  churn    connect, HELLO, close; latency is from connect to HELLO\n"
    "  mix      hold --connections; send between random ones at --rate; --rooms x --members of them are in\n"
    "           rooms, into which is published at --room-rate; ends with 1 if anything is lost; takes --verify\n"
    "  storm    pairs relay at --rate; after --seconds another --storm connections are cut and opened again\n"
    "           at once; latency before and meanwhile; ends with 1 if anything is lost\n"
    "\n"
    "options (default)\n"
    "  --protocol P (signal)   or nats: to nats-server's own WebSocket listener\n"
    "  --connections N (500)   --threads N (1; more where descriptors run out)\n"
    "  --opening N             handshakes under way at most in all threads (256 a thread, 4096 in all)\n"
    "  --rooms N (1)           --members N (100)       --room-rate N (0): publishes a second in all, in mix\n"
    "  --storm N (1000)        connections of a storm; they have threads of their own\n"
    "  --storm-rate N          cut a second, in all; without it all are cut at one moment\n"
    "  --storm-away N          cut as others are back: at most so many are away; without it any number\n"
    "  --storm-cpu N           their threads run on this processor, all others on the rest; without it on any\n"
    "  --storm-url URL         they go there, and have nothing to do with the pairs; without it where these go\n"
    "  --window N (1)          messages in flight for each pair, connection or room\n"
    "  --payload BYTES (128)   --binary: instead of text\n"
    "  --rate N                sends a second in all, on a schedule; latency is from the time scheduled\n"
    "                          (storm 1000; mix none; else, without it, a delivery is answered with a send)\n"
    "  --seconds S (10)        measured       --warmup S (1)\n"
    "  --quiet S (0)           before the warm-up, all open, nothing is sent: CPU and pings of that time\n"
    "  --setup S (60)          at most, to open all, and to open them again after a storm\n"
    "  --pid PID               sample a server's CPU and memory; may be given again\n"
    "  --spin                  poll without sleeping: takes a core, and the wake-up out of the latency\n";

static const struct {
    const char *name;
    enum mode mode;
} MODES[] = {
    {"idle", MODE_IDLE}, {"relay", MODE_RELAY}, {"random", MODE_RANDOM}, {"pair", MODE_PAIR},
    {"echo", MODE_ECHO}, {"self", MODE_ECHO}, {"room", MODE_ROOM}, {"churn", MODE_CHURN},
    {"mix", MODE_MIX}, {"storm", MODE_STORM},
};

static _Noreturn void fail(const char *what, const char *value)
{
    fprintf(stderr, "load: %s: %s (see load --help)\n", what, value);
    exit(2);
}

static double number(const char *text, const char *name, double low, double high)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= low && value <= high))
        fail(name, text);
    return value;
}

static uint32_t integer(const char *text, const char *name, uint32_t low, uint32_t high)
{
    double value = number(text, name, low, high);
    if (value != (double)(uint32_t)value)
        fail(name, text);
    return (uint32_t)value;
}

/* ws://A.B.C.D:PORT[/path]; "localhost" is 127.0.0.1. */
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
    const char *numeric = strcmp(host, "localhost") == 0 ? "127.0.0.1" : host;
    target->address.sin_family = AF_INET;
    target->address.sin_port = htons((uint16_t)integer(port, "port", 1, 65535));
    if (inet_pton(AF_INET, numeric, &target->address.sin_addr) != 1)
        fail("not a numeric IPv4 address", url);
    snprintf(target->host, sizeof target->host, "%.15s:%.5s", numeric, port);
    target->path = path ? path : "/";
}

enum {
    OPT_CONNECTIONS = 256, OPT_THREADS, OPT_ROOMS, OPT_MEMBERS, OPT_WINDOW, OPT_PAYLOAD, OPT_BINARY, OPT_RATE,
    OPT_SECONDS, OPT_WARMUP, OPT_SETUP, OPT_PID, OPT_SPIN, OPT_VERIFY, OPT_HELP, OPT_OPENING, OPT_ROOM_RATE,
    OPT_STORM, OPT_STORM_RATE, OPT_STORM_AWAY, OPT_STORM_CPU, OPT_STORM_URL, OPT_PROTOCOL, OPT_QUIET,
    CONNECTIONS_MAX = 1 << 24,
};

static const struct option LONG[] = {
    {"connections", 1, 0, OPT_CONNECTIONS}, {"threads", 1, 0, OPT_THREADS}, {"rooms", 1, 0, OPT_ROOMS},
    {"members", 1, 0, OPT_MEMBERS}, {"window", 1, 0, OPT_WINDOW}, {"payload", 1, 0, OPT_PAYLOAD},
    {"binary", 0, 0, OPT_BINARY}, {"rate", 1, 0, OPT_RATE}, {"seconds", 1, 0, OPT_SECONDS},
    {"warmup", 1, 0, OPT_WARMUP}, {"setup", 1, 0, OPT_SETUP}, {"pid", 1, 0, OPT_PID},
    {"spin", 0, 0, OPT_SPIN}, {"verify", 0, 0, OPT_VERIFY}, {"help", 0, 0, OPT_HELP},
    {"opening", 1, 0, OPT_OPENING}, {"room-rate", 1, 0, OPT_ROOM_RATE}, {"storm", 1, 0, OPT_STORM},
    {"storm-rate", 1, 0, OPT_STORM_RATE}, {"storm-away", 1, 0, OPT_STORM_AWAY}, {"storm-cpu", 1, 0, OPT_STORM_CPU},
    {"storm-url", 1, 0, OPT_STORM_URL}, {"protocol", 1, 0, OPT_PROTOCOL}, {"quiet", 1, 0, OPT_QUIET}, {0, 0, 0, 0},
};

static const struct protocol *protocol_named(const char *name)
{
    if (strcmp(name, "nats") == 0)
        return &protocol_nats;
    if (strcmp(name, "signal") != 0)
        fail("--protocol", name);
    return &protocol_signal;
}

static void add_server(struct options *opt, const char *text)
{
    if (opt->servers == MAX_SERVERS)
        fail("too many servers", text);
    opt->server[opt->servers++] = (pid_t)integer(text, "--pid", 1, 1U << 30);
}

static void set(struct options *opt, int key, const char *text)
{
    switch (key) {
    case OPT_CONNECTIONS: opt->connections = integer(text, "--connections", 1, CONNECTIONS_MAX); break;
    case OPT_THREADS: opt->threads = integer(text, "--threads", 1, MAX_THREADS); break;
    case OPT_ROOMS: opt->rooms.count = integer(text, "--rooms", 1, 1U << 20); break;
    case OPT_MEMBERS: opt->rooms.members = integer(text, "--members", 2, 1U << 20); break;
    case OPT_WINDOW: opt->window = integer(text, "--window", 1, 1U << 16); break;
    case OPT_PAYLOAD: opt->payload = integer(text, "--payload", STAMP_SIZE, PAYLOAD_MAX); break;
    case OPT_BINARY: opt->binary = true; break;
    case OPT_RATE: opt->rate = number(text, "--rate", 0.01, 1e8); break;
    case OPT_SECONDS: opt->seconds = number(text, "--seconds", 0.1, 86400); break;
    case OPT_WARMUP: opt->warmup = number(text, "--warmup", 0, 3600); break;
    case OPT_QUIET: opt->quiet = number(text, "--quiet", 0, 3600); break;
    case OPT_SETUP: opt->setup = number(text, "--setup", 1, 3600); break;
    case OPT_PID: add_server(opt, text); break;
    case OPT_SPIN: opt->spin = true; break;
    case OPT_VERIFY: opt->verify = true; break;
    case OPT_OPENING: opt->opening = integer(text, "--opening", 1, CONNECTIONS_MAX); break;
    case OPT_ROOM_RATE: opt->room_rate = number(text, "--room-rate", 0.01, 1e8); break;
    case OPT_STORM: opt->storm = integer(text, "--storm", 1, CONNECTIONS_MAX); break;
    case OPT_STORM_RATE: opt->storm_rate = number(text, "--storm-rate", 1, 1e8); break;
    case OPT_STORM_AWAY: opt->storm_away = (uint32_t)integer(text, "--storm-away", 1, CONNECTIONS_MAX); break;
    case OPT_STORM_CPU: opt->storm_cpu = (int)integer(text, "--storm-cpu", 0, CPU_SETSIZE - 1); break;
    case OPT_STORM_URL: parse_url(&opt->storm_target, text); break;
    case OPT_PROTOCOL: opt->protocol = protocol_named(text); break;
    case OPT_HELP: fputs(USAGE, stdout); exit(0);
    default: exit(2);
    }
}

/* Connections that one thread's descriptor table holds. */
static uint32_t table_room(void)
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

/* A room stays in one thread where that leaves work for all threads; else its members are spread over them. */
static uint32_t unit_of(const struct options *opt, uint32_t room)
{
    uint32_t members = opt->rooms.members;
    switch (opt->mode) {
    case MODE_RELAY: case MODE_PAIR: case MODE_STORM: return 2;
    case MODE_ROOM:
        if (members > room || opt->rooms.count < opt->threads)
            return 1;
        return quotient_up(opt->rooms.count, room / members) > MAX_THREADS ? 1 : members;
    default: return 1;
    }
}

/* Enough threads that each holds its share within its own descriptor table, and none without a unit. */
static void fit_threads(struct options *opt)
{
    uint32_t room = table_room(), wanted = opt->threads;
    opt->unit = unit_of(opt, room);
    uint32_t units = opt->connections / opt->unit, least = quotient_up(units, room / opt->unit);
    if (opt->threads < least)
        opt->threads = least;
    if (opt->threads > units)
        opt->threads = units;
    if (opt->storm) {
        least = quotient_up(opt->storm, room);
        opt->storm_threads = wanted > least ? wanted : least;
        if (opt->storm_threads > opt->storm)
            opt->storm_threads = opt->storm;
    }
    if (opt->threads + opt->storm_threads > MAX_THREADS)
        fail("too many for the limit of descriptors", "--connections");
}

/* What a mode has of rooms, and how many connections. */
static void fit_mode(struct options *opt)
{
    uint64_t in_rooms = (uint64_t)opt->rooms.count * opt->rooms.members;
    bool even = opt->mode == MODE_RELAY || opt->mode == MODE_STORM;
    if (opt->mode == MODE_PAIR)
        opt->connections = 2;
    if (opt->mode == MODE_ROOM && in_rooms > CONNECTIONS_MAX)
        fail("too many connections", "--rooms x --members");
    if (opt->mode == MODE_ROOM)
        opt->connections = (uint32_t)in_rooms;
    else if (opt->mode != MODE_MIX || opt->room_rate <= 0)
        opt->rooms.count = 0;
    else if (in_rooms > opt->connections)
        fail("more members than --connections", "--rooms x --members");
    else
        opt->rooms.stride = layout_stride(opt->connections, (uint32_t)in_rooms, opt->targets);
    if (even)
        opt->connections += opt->connections & 1;
    if (opt->mode != MODE_STORM)
        opt->storm = 0;
    else if (opt->rate <= 0)
        opt->rate = 1000;
}

/* Options that do not go together. */
static void check(const struct options *opt)
{
    if (!opt->targets)
        fail("no URL", opt->mode_name);
    if (opt->verify && opt->mode != MODE_IDLE && opt->mode != MODE_MIX)
        fail("only for idle and mix", "--verify");
    if (opt->room_rate > 0 && opt->mode != MODE_MIX)
        fail("only for mix", "--room-rate");
}

void options_parse(struct options *opt, int argc, char **argv)
{
    *opt = (struct options){.protocol = &protocol_signal, .connections = 500, .threads = 1, .window = 1,
                            .payload = 128, .rooms = {1, 100, 1}, .storm = 1000, .storm_cpu = -1, .seconds = 10,
                            .warmup = 1, .setup = 60};
    for (int key; (key = getopt_long(argc, argv, "", LONG, NULL)) != -1;)
        set(opt, key, optarg);
    if (optind >= argc)
        fail("no mode", "idle, relay, random, pair, echo, room, churn, mix or storm");
    for (size_t i = 0; i < sizeof MODES / sizeof *MODES; i++)
        if (strcmp(argv[optind], MODES[i].name) == 0) {
            opt->mode = MODES[i].mode;
            opt->mode_name = MODES[i].name;
        }
    if (!opt->mode_name)
        fail("no such mode", argv[optind]);
    for (int i = optind + 1; i < argc; i++) {
        if (opt->targets == MAX_TARGETS)
            fail("too many URLs", argv[i]);
        parse_url(&opt->target[opt->targets++], argv[i]);
    }
    check(opt);
    fit_mode(opt);
    fit_threads(opt);
}
