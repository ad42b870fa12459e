/* NATS is heard right, wherever frames and reads split it. */
#include <string.h>

#include "nats_wire.h"
#include "selftest.h"

/* What a server might send, in frames that split operations, with a ping within and an empty frame. */
static size_t nats_bytes(uint8_t *out)
{
    static const struct { uint8_t first; const char *body; } FRAMES[] = {
        {0x82, "INFO {\"a\":1}\r\nPO"}, {0x82, "NG\r"}, {0x89, "hey"}, {0x82, "\nMSG load.1.2.3 1 5\r\nhe"},
        {0x82, ""}, {0x02, "llo"}, {0x80, "\r\nMSG a 2 reply 0\r\n\r\nPING\r\n"},
        {0x82, "+OK\r\n-ERR 'x y'\r\n"},
    };
    size_t n = 0;
    for (size_t i = 0; i < sizeof FRAMES / sizeof *FRAMES; i++) {
        size_t length = strlen(FRAMES[i].body);
        out[n++] = FRAMES[i].first;
        out[n++] = (uint8_t)length;
        memcpy(out + n, FRAMES[i].body, length);
        n += length;
    }
    return n;
}

/* Write what was heard as a text, so that it can be compared. */
static void tell_op(char *told, const struct nats_op *op)
{
    static const char *const NAMES[] = {"info", "msg", "ping", "pong", "ok", "err"};
    size_t n = strlen(told);
    if (op->verb == NATS_MSG)
        sprintf(told + n, "msg %u '%.*s' ", op->sid, (int)op->length, (const char *)op->payload);
    else
        sprintf(told + n, "%s ", NAMES[op->verb]);
}

/* One read of a connection: as read_stream of nats.c, but that a control frame is written down. */
static size_t nats_feed(struct nats_stream *stream, uint8_t *data, size_t length, char *told)
{
    struct ws_frame control;
    struct nats_op op;
    size_t at = stream->part, used = 0;
    int more;
    while ((more = nats_deframe(stream, data, length, &at, &control)) == 1)
        sprintf(told + strlen(told), "control%d '%.*s' ", control.opcode, (int)control.length,
                (const char *)control.body);
    CHECK(more == 0);
    for (long n; (n = nats_parse(data + used, stream->part - used, &op)) != -2; used += (size_t)n) {
        CHECK(n > 0);
        tell_op(told, &op);
    }
    return nats_keep(stream, data, used, at, length);
}

/* Everything is heard once, however the bytes are split into two reads, or into reads of any size. */
static void test_nats_split(void)
{
    static const char OPS[] = "info pong msg 1 'hello' msg 2 '' ping ok err ";
    uint8_t whole[256];
    size_t size = nats_bytes(whole);
    for (size_t step = 1; step <= size; step++)
        for (size_t first = 1; first <= step; first++) {
            struct nats_stream stream = {0, 0};
            uint8_t *kept = malloc(1);
            char told[256] = "";
            size_t n = 0;
            for (size_t from = 0, to = first; from < size; from = to, to += step) {
                to = to < size ? to : size;
                uint8_t *data = realloc(kept, n + (to - from));
                CHECK(data);
                memcpy(data + n, whole + from, to - from);
                n = nats_feed(&stream, data, n + (to - from), told);
                kept = realloc(data, n + !n);
            }
            CHECK(n == 0 && stream.left == 0);
            char *ping = strstr(told, "control9 'hey' ");
            CHECK(ping);
            memmove(ping, ping + 15, strlen(ping + 15) + 1);
            CHECK(strcmp(told, OPS) == 0);
            free(kept);
        }
}

static void test_nats_bad(void)
{
    static const char *const BAD[] = {
        "HELLO x\r\n", "MSG a 1\r\n", "MSG a 1 x\r\n", "MSG a b 1\r\n", "MSG a 1 999999\r\n",
        "MSG a 1 5\r\nhelloxx", "MSG 1\r\n", "MSG a 1 \r\n", "MSG a 1 99999999999999999999\r\n", "\r\n",
    };
    struct nats_op op;
    struct ws_frame control;
    struct nats_stream stream = {0, 0};
    size_t at = 0;
    uint8_t masked[] = {0x82, 0x81, 0, 0, 0, 0, 'x'}, *line = malloc(NATS_LINE_MAX);
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
        CHECK(nats_parse((const uint8_t *)BAD[i], strlen(BAD[i]), &op) == -1);
    CHECK(nats_deframe(&stream, masked, sizeof masked, &at, &control) == -1);
    CHECK(line);
    memset(line, 'I', NATS_LINE_MAX);
    CHECK(nats_parse(line, NATS_LINE_MAX - 1, &op) == -2);
    CHECK(nats_parse(line, NATS_LINE_MAX, &op) == -1);
    free(line);
}

void test_nats(void)
{
    test_nats_split();
    test_nats_bad();
}
