/* A NATS client's half, without I/O: parses what a server sends, in frames that may split it anywhere. */
#ifndef LOAD_NATS_WIRE_H
#define LOAD_NATS_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "ws.h"

enum {
    NATS_LINE_MAX = 64 * 1024,        /* a longer line is an error; INFO is the longest */
    NATS_PAYLOAD_MAX = 512 * 1024,
};

/* How far a connection's bytes are parsed: an operation may be split over frames, and a frame over reads. */
struct nats_stream {
    uint32_t part;            /* bytes of an operation, at the start of what is kept; the rest is raw */
    uint32_t left;            /* bytes of the current frame's body that are to come */
};

/* Takes frames from data[*at..length), moving their bodies down to data[stream->part..], which grows.
 * 1: it stopped at a control frame, which is in `control`; 0: more needed; -1 bad. */
int nats_deframe(struct nats_stream *stream, uint8_t *data, size_t length, size_t *at, struct ws_frame *control);

/* Drops `used` bytes of the stream, and moves the rest together; returns how many bytes those are. */
size_t nats_keep(struct nats_stream *stream, uint8_t *data, size_t used, size_t at, size_t length);

enum nats_verb { NATS_INFO, NATS_MSG, NATS_PING, NATS_PONG, NATS_OK, NATS_ERR };

struct nats_op {
    enum nats_verb verb;
    uint32_t sid;             /* MSG: the subscription's number */
    const uint8_t *payload;   /* MSG: in the caller's buffer */
    size_t length;
};

/* Parses one operation: > 0 consumed, -1 bad, -2 more needed. */
long nats_parse(const uint8_t *data, size_t length, struct nats_op *op);

#endif
