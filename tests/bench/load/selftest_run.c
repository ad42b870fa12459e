/* Options and payloads. */
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "load.h"
#include "selftest.h"

enum { ARGUMENTS_MAX = 24 };

/* Parse a command line whose words are set apart by single spaces; `line` must outlive `opt`. */
static void parse(struct options *opt, char *line)
{
    char *argv[ARGUMENTS_MAX + 1] = {"load"};
    int argc = 1;
    for (char *word = strtok(line, " "); word && argc < ARGUMENTS_MAX; word = strtok(NULL, " "))
        argv[argc++] = word;
    options_parse(opt, argc, argv);
}

static void test_options_fit(void)
{
    struct options opt;
    char relay[] = "relay --connections 7 --threads 9 ws://127.0.0.1:81/x?y ws://127.0.0.1:82";
    parse(&opt, relay);
    CHECK(opt.mode == MODE_RELAY && opt.connections == 8 && opt.unit == 2 && opt.threads == 4 && !opt.rooms.count);
    CHECK(opt.targets == 2 && strcmp(opt.target[0].path, "/x?y") == 0 && strcmp(opt.target[1].path, "/") == 0);
    CHECK(strcmp(opt.target[1].host, "127.0.0.1:82") == 0 && ntohs(opt.target[0].address.sin_port) == 81);
    CHECK(!options_timed(&opt) && opt.protocol == &protocol_signal);
    char room[] = "room --rooms 3 --members 5 --protocol nats 127.0.0.1:81";
    parse(&opt, room);
    CHECK(opt.connections == 15 && opt.unit == 5 && opt.rooms.count == 3 && opt.protocol == &protocol_nats);
    char mix[] = "mix --connections 100 --rooms 2 --members 5 --room-rate 1 127.0.0.1:81 127.0.0.1:82";
    parse(&opt, mix);
    CHECK(opt.connections == 100 && opt.rooms.count == 2 && opt.rooms.stride == 10 && options_timed(&opt));
    char storm[] = "storm --connections 3 --threads 4 --cut-rate=50 --away 2 --pid 7 --pid=8 127.0.0.1:81";
    parse(&opt, storm);
    CHECK(opt.mode == MODE_STORM && opt.connections == 3 && opt.threads == 3 && opt.away == 2);
    CHECK(opt.cut_rate >= 50 && opt.cut_rate <= 50 && opt.servers == 2 && strcmp(opt.server[1], "8") == 0 && !options_timed(&opt));
    char second[] = "relay --second --seconds 0.5 127.0.0.1:81";
    parse(&opt, second);
    CHECK(opt.second && opt.targets == 1 && opt.seconds < 1 && opt.connections == 500);
}

/* Each mistake ends a process of its own with 2. */
static void test_options_bad(void)
{
    static const char *const BAD[] = {
        "", "relay", "dance 127.0.0.1:81", "relay example:81", "relay 127.0.0.1", "relay 127.0.0.1:0",
        "relay --connections 1.5 127.0.0.1:81", "relay --connections 0 127.0.0.1:81", "relay --what 127.0.0.1:81",
        "relay --verify 127.0.0.1:81", "relay --room-rate 1 127.0.0.1:81", "relay --protocol x 127.0.0.1:81",
        "mix --connections 9 --room-rate 1 127.0.0.1:81", "idle --second 127.0.0.1:81", "idle 127.0.0.1:81 --away",
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        int status;
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            struct options opt;
            char line[128];
            strcpy(line, BAD[i]);
            CHECK(freopen("/dev/null", "w", stderr));
            parse(&opt, line);
            _exit(0);
        }
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 2);
    }
}

/* What is written is heard: of another length, without a time, or older than the last, it is counted as such. */
static void test_payload(void)
{
    static struct shared shared;
    static struct worker w;
    struct options opt = {.mode = MODE_RELAY, .payload = STAMP_SIZE + 8};
    struct conn c = {.fd = -1};
    uint8_t out[STAMP_SIZE + 8];
    shared.opt = w.opt = &opt;
    w.shared = &shared;
    w.conns = &c;
    w.filler = (uint8_t *)"xxxxxxxx";
    for (int i = 0; i < PHASES; i++)
        shared.began[i] = UINT64_MAX;
    payload_write(&w, out, 0xFEDCBA9876543210);
    CHECK(memcmp(out, "ponmlkjihgfedcbaxxxxxxxx", sizeof out) == 0);
    payload_received(&w, &c, KIND_TO, out, sizeof out);
    CHECK(w.counts[COUNT_DELIVERED] == 1 && c.stamp == 0xFEDCBA9876543210);
    payload_received(&w, &c, KIND_TO, out, sizeof out - 1);
    CHECK(w.counts[COUNT_DELIVERED] == 1 && w.counts[COUNT_CORRUPT] == 1);
    payload_write(&w, out, 5);
    payload_received(&w, &c, KIND_TO, out, sizeof out);
    CHECK(w.counts[COUNT_DELIVERED] == 2 && w.counts[COUNT_DISORDER] == 1);
    opt.mode = MODE_RANDOM;
    c.stamp = 6;
    payload_received(&w, &c, KIND_TO, out, sizeof out);
    CHECK(w.counts[COUNT_DELIVERED] == 3 && w.counts[COUNT_DISORDER] == 1);
    out[0] = 'q';
    payload_received(&w, &c, KIND_TO, out, sizeof out);
    CHECK(w.counts[COUNT_DELIVERED] == 3 && w.counts[COUNT_CORRUPT] == 2);
}

void test_run(void)
{
    test_options_fit();
    test_options_bad();
    test_payload();
}
