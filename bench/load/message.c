#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "load.h"
#include "ws.h"

const char *const err_codes[COUNTS - COUNT_ERR] = {
    "bad-request", "no-such-peer", "slow-peer", "expired", "timeout", "too-large", "denied", "rate",
    "too-many-rooms", "unavailable", "other",
};

static const char JOINED[] = "OK j";

/* A time as STAMP_SIZE letters, 'a' to 'p', so that it may stand in text. */
static void stamp_write(uint8_t *out, uint64_t stamp)
{
    for (int i = 0; i < STAMP_SIZE; i++)
        out[i] = (uint8_t)('a' + (stamp >> (60 - 4 * i) & 15));
}

/* The time in a payload; 0 if there is none. */
static uint64_t stamp_read(const uint8_t *in)
{
    uint64_t stamp = 0;
    uint8_t bad = 0;
    for (int i = 0; i < STAMP_SIZE; i++) {
        uint8_t digit = (uint8_t)(in[i] - 'a');
        bad |= digit;
        stamp = stamp << 4 | digit;
    }
    return bad > 15 ? 0 : stamp;
}

/* Cork one message: a head, and a payload unless the stamp is 0. */
static void compose(struct worker *w, struct conn *c, const char *head, size_t head_length, uint64_t stamp)
{
    size_t length = head_length + (stamp ? 1 + w->opt->payload : 0);
    uint32_t mask = worker_random(w);
    uint8_t *frame = conn_reserve(w, c, WS_HEADER_MAX + length + 8);
    size_t header = ws_header(frame, w->opt->binary ? WS_BINARY : WS_TEXT, length, mask);
    uint8_t *body = frame + header;
    memcpy(body, head, head_length);
    if (stamp) {
        body[head_length] = '\n';
        stamp_write(body + head_length + 1, stamp);
        memcpy(body + head_length + 1 + STAMP_SIZE, w->filler, w->opt->payload - STAMP_SIZE);
    }
    ws_mask(body, length, mask);
    w->cork_length += header + length;
}

void message_to(struct worker *w, struct conn *c, const struct conn *receiver, uint64_t stamp)
{
    char head[3 + PEER_MAX];
    memcpy(head, "TO ", 3);
    memcpy(head + 3, receiver->peer, receiver->peer_length);
    compose(w, c, head, 3U + receiver->peer_length, stamp);
    count_add(w, COUNT_SENT, 1);
    count_add(w, COUNT_EXPECTED, 1);
}

/* The rooms of one run are its own: the process and the thread are in their names. */
static size_t room_head(const struct worker *w, char *out, const char *verb, uint32_t room, const char *more)
{
    unsigned process = (unsigned)getpid();
    return (size_t)snprintf(out, ROOM_MAX, "%s load%x.%u.%u%s", verb, process, w->index, room, more);
}

void message_pub(struct worker *w, struct conn *c, uint32_t room, uint64_t stamp)
{
    char head[ROOM_MAX];
    compose(w, c, head, room_head(w, head, "PUB", room, ""), stamp);
    count_add(w, COUNT_SENT, 1);
    count_add(w, COUNT_EXPECTED, w->opt->members - 1);
}

void message_close(struct worker *w, struct conn *c)
{
    uint32_t mask = worker_random(w);
    uint8_t *frame = conn_reserve(w, c, WS_HEADER_MAX + 8);
    size_t header = ws_header(frame, WS_CLOSE, 2, mask);
    frame[header] = 1000 >> 8;
    frame[header + 1] = 1000 & 0xFF;
    ws_mask(frame + header, 2, mask);
    w->cork_length += header + 2;
}

static bool starts(const uint8_t *head, size_t length, const char *verb)
{
    size_t n = strlen(verb);
    return length >= n && memcmp(head, verb, n) == 0;
}

static void be_ready(struct worker *w, struct conn *c)
{
    w->opening--;
    c->state = CONN_READY;
    c->stamp = 0;
    count_add(w, COUNT_READY, 1);
}

/* HELLO <peer>: the connection has its address; a room's member joins first. */
static void on_hello(struct worker *w, struct conn *c, const uint8_t *head, size_t length)
{
    const uint8_t *peer = head + 6, *end = memchr(peer, ' ', length - 6);
    size_t size = end ? (size_t)(end - peer) : length - 6;
    if (c->state != CONN_GREETING || !size || size > PEER_MAX) {
        conn_close(w, c, COUNT_PROTOCOL);
        return;
    }
    memcpy(c->peer, peer, size);
    c->peer_length = (uint8_t)size;
    if (w->opt->mode == MODE_ROOM) {
        char sub[ROOM_MAX];
        c->state = CONN_JOINING;
        compose(w, c, sub, room_head(w, sub, "SUB", (uint32_t)(c - w->conns) / w->opt->members, " ref=j"), 0);
    } else if (w->opt->mode == MODE_CHURN) {
        w->opening--;
        c->state = CONN_CLOSING;
        message_close(w, c);
        mode_delivered(w, c);
    } else {
        be_ready(w, c);
    }
}

/* FROM or MSG: check and time the payload. */
static void on_delivery(struct worker *w, struct conn *c, const uint8_t *payload, size_t length)
{
    uint64_t stamp = length == w->opt->payload ? stamp_read(payload) : 0;
    if (!stamp) {
        count_add(w, COUNT_CORRUPT, 1);
        return;
    }
    if (stamp < c->stamp && w->opt->mode != MODE_RANDOM)
        count_add(w, COUNT_DISORDER, 1);
    c->stamp = stamp;
    mode_delivered(w, c);
}

/* ERR <code> [ref=R]: count it by its code. */
static void on_err(struct worker *w, struct conn *c, const uint8_t *head, size_t length)
{
    int which = COUNT_ERR;
    while (which < COUNT_ERR_OTHER && !starts(head + 4, length - 4, err_codes[which - COUNT_ERR]))
        which++;
    count_add(w, which, 1);
    mode_refused(w, c);
}

/* GAP <n>, copied because the head is not terminated. */
static void on_gap(struct worker *w, struct conn *c, const uint8_t *head, size_t length)
{
    char text[24] = "";
    memcpy(text, head + 4, length - 4 < sizeof text - 1 ? length - 4 : sizeof text - 1);
    uint64_t n = strtoull(text, NULL, 10);
    count_add(w, COUNT_GAP, n);
    mode_gap(w, c, n);
}

void message_heard(struct worker *w, struct conn *c, const uint8_t *body, size_t length)
{
    const uint8_t *lf = memchr(body, '\n', length);
    size_t head = lf ? (size_t)(lf - body) : length;
    if (starts(body, head, "FROM ") || starts(body, head, "MSG "))
        on_delivery(w, c, body + head + 1, lf ? length - head - 1 : 0);
    else if (starts(body, head, "HELLO "))
        on_hello(w, c, body, head);
    else if (starts(body, head, JOINED) && c->state == CONN_JOINING)
        be_ready(w, c);
    else if (starts(body, head, "ERR "))
        on_err(w, c, body, head);
    else if (starts(body, head, "GAP "))
        on_gap(w, c, body, head);
    else if (!starts(body, head, "GOAWAY") && !starts(body, head, "OK "))
        count_add(w, COUNT_PROTOCOL, 1);
}
