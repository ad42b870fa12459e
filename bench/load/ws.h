/* The client's half of RFC 6455, without I/O: building frames and requests, and reading a server's. */
#ifndef LOAD_WS_H
#define LOAD_WS_H

#include <stddef.h>
#include <stdint.h>

enum {
    WS_TEXT = 1,
    WS_BINARY = 2,
    WS_CLOSE = 8,
    WS_PING = 9,
    WS_PONG = 10,
    WS_CONTROL_MAX = 125,     /* bytes in a ping, pong or close */
    WS_MAX_FRAME = 1 << 20,   /* a longer frame of a server's is an error */
    WS_HEADER_MAX = 14,       /* a client's header: 2 + 8 of length + 4 of mask */
};

struct ws_frame {
    uint8_t opcode;
    const uint8_t *body;      /* in the caller's buffer */
    size_t length;
};

/* Parses an unmasked frame's header (RFC 6455 §5.2): > 0 its size, -1 bad, -2 more needed. */
long ws_head(const uint8_t *data, size_t length, struct ws_frame *frame);

/* Parses one whole unmasked frame: > 0 consumed, -1 bad or fragmented, -2 more needed. */
long ws_parse(const uint8_t *data, size_t length, struct ws_frame *frame);

/* Writes a client's frame header; returns its size, 6 to WS_HEADER_MAX. It ends with the mask. */
size_t ws_header(uint8_t *out, uint8_t opcode, size_t length, uint32_t mask);

/* Masks a body in place (§5.3), with the mask before it. Writes up to 7 bytes past the end: the buffer must have
 * them. */
void ws_mask(uint8_t *body, size_t length);

/* Writes an upgrade request that offers a subprotocol, or "" for none; returns its length, or 0 if it does not fit. */
size_t ws_request(char *out, size_t room, const char *host, const char *path, const char *offer);

/* Checks the answer's head: > 0 its length, -1 refused or wrong, -2 more needed. */
long ws_response(const uint8_t *data, size_t length);

#endif
