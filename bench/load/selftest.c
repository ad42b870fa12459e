/* Tests of the parts without I/O: histogram and frames. Built with sanitizers; silent unless one fails. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hist.h"
#include "ws.h"

#define CHECK(what) \
    do { \
        if (!(what)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what); \
            exit(1); \
        } \
    } while (0)

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

static void test_hist_percentiles(void)
{
    struct hist *h = calloc(1, sizeof *h);
    CHECK(h && hist_percentile(h, 0.5) == 0);
    for (uint64_t i = 1; i <= 100; i++)
        hist_add(h, i);
    CHECK(hist_percentile(h, 0.5) == 50);
    CHECK(hist_percentile(h, 0.01) == 1);
    CHECK(hist_percentile(h, 1) == 100);
    hist_add(h, 1000000);
    CHECK(h->count == 101 && h->max == 1000000 && hist_percentile(h, 1) <= h->max);
    free(h);
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
    ws_mask(out + header, 5, mask);
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
    CHECK(ws_request(request, sizeof request, "127.0.0.1:1", "/x?y") == strlen(request));
    CHECK(strncmp(request, BEGIN, sizeof BEGIN - 1) == 0);
    CHECK(ws_request(request, 40, "127.0.0.1:1", "/") == 0);
}

int main(void)
{
    test_hist_error();
    test_hist_percentiles();
    test_parse();
    test_parse_bad();
    test_mask();
    test_handshake();
    return 0;
}
