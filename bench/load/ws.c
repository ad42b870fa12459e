#include "ws.h"

#include <endian.h>
#include <stdio.h>
#include <string.h>

/* The key of RFC 6455 §1.3 and its answer: checking needs no SHA-1. */
#define KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

enum { RESPONSE_MAX = 8192 };

long ws_head(const uint8_t *data, size_t length, struct ws_frame *frame)
{
    if (length < 2)
        return -2;
    size_t header = 2, body = data[1];
    if ((data[0] & 0x70) || body > 127)
        return -1;
    if (body == 126) {
        if (length < (header = 4))
            return -2;
        body = (size_t)data[2] << 8 | data[3];
    } else if (body == 127) {
        uint64_t wide;
        if (length < (header = 10))
            return -2;
        memcpy(&wide, data + 2, sizeof wide);
        body = be64toh(wide);
    }
    *frame = (struct ws_frame){.opcode = data[0] & 0x0F, .body = data + header, .length = body};
    return (long)header;
}

long ws_parse(const uint8_t *data, size_t length, struct ws_frame *frame)
{
    long header = ws_head(data, length, frame);
    if (header < 0)
        return header;
    if (!(data[0] & 0x80) || frame->length > WS_MAX_FRAME)
        return -1;
    return length - (size_t)header < frame->length ? -2 : header + (long)frame->length;
}

size_t ws_header(uint8_t *out, uint8_t opcode, size_t length, uint32_t mask)
{
    size_t size = 2;
    out[0] = (uint8_t)(0x80 | opcode);
    if (length < 126) {
        out[1] = (uint8_t)(0x80 | length);
    } else if (length < 65536) {
        out[1] = 0x80 | 126;
        out[2] = (uint8_t)(length >> 8);
        out[3] = (uint8_t)length;
        size = 4;
    } else {
        uint64_t wide = htobe64(length);
        out[1] = 0x80 | 127;
        memcpy(out + 2, &wide, sizeof wide);
        size = 10;
    }
    memcpy(out + size, &mask, sizeof mask);
    return size + 4;
}

void ws_mask(uint8_t *body, size_t length)
{
    uint32_t mask;
    memcpy(&mask, body - sizeof mask, sizeof mask);
    uint64_t wide = (uint64_t)mask << 32 | mask;
    for (size_t i = 0; i < length; i += 8) {
        uint64_t word;
        memcpy(&word, body + i, sizeof word);
        word ^= wide;
        memcpy(body + i, &word, sizeof word);
    }
}

size_t ws_request(char *out, size_t room, const char *host, const char *path, const char *offer)
{
    int n = snprintf(out, room,
                     "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: " KEY "\r\nSec-WebSocket-Version: 13\r\n%s%s%s\r\n",
                     path, host, *offer ? "Sec-WebSocket-Protocol: " : "", offer, *offer ? "\r\n" : "");
    return n > 0 && (size_t)n < room ? (size_t)n : 0;
}

long ws_response(const uint8_t *data, size_t length)
{
    const uint8_t *end = memmem(data, length, "\r\n\r\n", 4);
    if (!end)
        return length < RESPONSE_MAX ? -2 : -1;
    size_t head = (size_t)(end - data) + 4;
    if (head < 12 || memcmp(data, "HTTP/1.1 101", 12) != 0)
        return -1;
    return memmem(data, head, ACCEPT "\r", sizeof ACCEPT) ? (long)head : -1;
}
