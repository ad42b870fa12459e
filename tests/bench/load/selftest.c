/* Tests of the parts that need no connection: histogram, layout, frames, NATS; options, payloads, /proc.
 * Linked with all that the load generator is but its main, and built with sanitizers; silent unless one fails. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hist.h"
#include "layout.h"
#include "selftest.h"
#include "ws.h"

/* Every value comes back within 1/128, at every power of two and around it. */
static void test_hist_error(void)
{
    for (int bit = 0; bit < 64; bit++)
        for (uint64_t more = 0; more < 3; more++) {
            uint64_t value = (1ULL << bit) + more - 1;
            uint32_t bucket = hist_bucket(value);
            uint64_t back = hist_value(bucket), error = back > value ? back - value : value - back;
            CHECK(bucket < HIST_BUCKETS);
            CHECK(error <= value / 128);
        }
}

static void test_hist_merge(void)
{
    struct hist *one = calloc(2, sizeof *one), *other = one + 1;
    CHECK(one);
    hist_add(one, 3);
    hist_add(other, 3);
    hist_add(other, 1000000);
    hist_merge(one, other);
    CHECK(one->sum == 1000006 && one->max == 1000000 && one->bucket[3] == 2);
    CHECK(one->bucket[hist_bucket(1000000)] == 1);
    free(one);
}

/* Shares join without a gap, keep units whole, and differ by at most one unit. */
static void test_share(void)
{
    static const uint32_t UNITS[] = {1, 7, 1000, 1250000};
    for (size_t i = 0; i < sizeof UNITS / sizeof *UNITS; i++)
        for (uint32_t parts = 1; parts <= 256 && parts <= UNITS[i]; parts++) {
            uint32_t next = 0, least = UNITS[i] / parts * 2;
            for (uint32_t part = 0; part < parts; part++) {
                struct share s = layout_share(UNITS[i], 2, parts, part);
                CHECK(s.first == next && (s.count == least || s.count == least + 2));
                next += s.count;
            }
            CHECK(next == UNITS[i] * 2);
        }
}

/* Every room has its members, of whom the first publishes, and one thread only holds that one. */
static void test_rooms(void)
{
    static const struct rooms ROOMS[] = {{0, 100, 1}, {1, 1000, 1}, {3, 70, 1}, {20, 10, 5}, {7, 9, 14}};
    for (size_t i = 0; i < sizeof ROOMS / sizeof *ROOMS; i++) {
        const struct rooms *r = &ROOMS[i];
        uint32_t members[20] = {0}, published = 0;
        for (uint32_t c = 0; c < 1000; c++) {
            int32_t room = layout_room(r, c);
            CHECK(room == NO_ROOM || (uint32_t)room < r->count);
            if (room != NO_ROOM && members[room]++ == 0)
                CHECK(layout_publisher(r, (uint32_t)room) == c);
        }
        for (uint32_t room = 0; room < r->count; room++)
            CHECK(members[room] == r->members);
        for (uint32_t part = 0; part < 7; part++) {
            struct share share = layout_share(1000, 1, 7, part), own = layout_published(r, share);
            for (uint32_t n = own.first; n < own.first + own.count; n++)
                CHECK(layout_publisher(r, n) - share.first < share.count);
            published += own.count;
        }
        CHECK(published == r->count);
    }
}

/* No two threads share an address, all are in 127.64.0.0/10, and 20,000 connects take five. */
static void test_source(void)
{
    static uint8_t owner[1 << 22];
    memset(owner, 0xFF, sizeof owner);
    for (uint32_t thread = 0; thread < 255; thread++)
        for (uint32_t number = 0; number < 600; number++) {
            uint32_t from = layout_source(thread, number * PORTS_AN_ADDRESS + 1);
            CHECK(from >> 22 == (127U << 24 | 64 << 16) >> 22 && (from & 0xFF) != 0 && (from & 0xFF) != 255);
            uint8_t *o = &owner[from & (sizeof owner - 1)];
            CHECK(*o == 0xFF || *o == thread);
            *o = (uint8_t)thread;
        }
    CHECK(layout_source(3, 0) == layout_source(3, PORTS_AN_ADDRESS - 1));
    CHECK(layout_source(3, 0) != layout_source(3, PORTS_AN_ADDRESS));
}

/* An unmasked server's frame of `length` bytes in a buffer of exactly its size. */
static uint8_t *server_frame(size_t length, size_t *size)
{
    uint8_t header[WS_HEADER_MAX];
    size_t n = ws_header(header, WS_TEXT, length, 0) - 4;
    header[1] &= 0x7F;
    uint8_t *frame = malloc(n + length);
    CHECK(frame);
    memcpy(frame, header, n);
    memset(frame + n, 'x', length);
    *size = n + length;
    return frame;
}

/* Whole at every length where the header changes, and "more" for every part of it; a guard is ASan's. */
static void test_parse(void)
{
    static const size_t LENGTHS[] = {0, 1, 125, 126, 127, 65535, 65536};
    for (size_t i = 0; i < sizeof LENGTHS / sizeof *LENGTHS; i++) {
        struct ws_frame frame;
        size_t size;
        uint8_t *whole = server_frame(LENGTHS[i], &size);
        CHECK(ws_parse(whole, size, &frame) == (long)size);
        CHECK(frame.opcode == WS_TEXT && frame.length == LENGTHS[i]);
        CHECK(frame.body + frame.length == whole + size);
        for (size_t part = 0; part < size && part < 32; part++) {
            uint8_t *copy = malloc(part + !part);
            CHECK(copy);
            memcpy(copy, whole, part);
            CHECK(ws_parse(copy, part, &frame) == -2);
            free(copy);
        }
        free(whole);
    }
}

static void test_parse_bad(void)
{
    struct ws_frame frame;
    CHECK(ws_parse((const uint8_t *)"\x01\x00", 2, &frame) == -1);  /* not final */
    CHECK(ws_parse((const uint8_t *)"\x91\x00", 2, &frame) == -1);  /* a reserved bit */
    CHECK(ws_parse((const uint8_t *)"\x81\x80", 2, &frame) == -1);  /* masked */
    CHECK(ws_parse((const uint8_t *)"\x81\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", 10, &frame) == -1);
}

/* RFC 6455 §5.7, the masked "Hello". */
static void test_mask(void)
{
    static const uint8_t EXPECTED[] = "\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    uint8_t out[32] = {0};
    uint32_t mask;
    memcpy(&mask, "\x37\xfa\x21\x3d", 4);
    size_t header = ws_header(out, WS_TEXT, 5, mask);
    memcpy(out + header, "Hello", 5);
    ws_mask(out + header, 5);
    CHECK(header == 6 && memcmp(out, EXPECTED, 11) == 0);
}

static void test_handshake(void)
{
    static const char OK[] = "HTTP/1.1 101 Switching Protocols\r\n"
                             "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    static const char WRONG[] = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: AAAA\r\n\r\n";
    static const char REFUSED[] = "HTTP/1.1 503 Service Unavailable\r\n\r\n";
    static const char BEGIN[] = "GET /x?y HTTP/1.1\r\nHost: 127.0.0.1:1\r\n";
    char request[512];
    CHECK(ws_response((const uint8_t *)OK, sizeof OK - 1) == (long)sizeof OK - 1);
    CHECK(ws_response((const uint8_t *)OK, sizeof OK - 2) == -2);
    CHECK(ws_response((const uint8_t *)WRONG, sizeof WRONG - 1) == -1);
    CHECK(ws_response((const uint8_t *)REFUSED, sizeof REFUSED - 1) == -1);
    CHECK(ws_request(request, sizeof request, "127.0.0.1:1", "/x?y", "signal.v1") == strlen(request));
    CHECK(strncmp(request, BEGIN, sizeof BEGIN - 1) == 0);
    CHECK(strstr(request, "13\r\nSec-WebSocket-Protocol: signal.v1\r\n\r\n"));
    CHECK(ws_request(request, 40, "127.0.0.1:1", "/", "signal.v1") == 0);
    CHECK(ws_request(request, sizeof request, "127.0.0.1:1", "/", "") == strlen(request));
    CHECK(!strstr(request, "Protocol") && strstr(request, "13\r\n\r\n"));
}

int main(void)
{
    test_hist_error();
    test_hist_merge();
    test_share();
    test_rooms();
    test_source();
    test_parse();
    test_parse_bad();
    test_mask();
    test_handshake();
    test_nats();
    test_run();
    return 0;
}
