#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "load.h"

static const char JOINED[] = "OK j";

/* Writes a time as STAMP_SIZE letters, 'a' to 'p', so that it is valid text. */
static void stamp_write(uint8_t *out, uint64_t stamp)
{
    for (int i = 0; i < STAMP_SIZE; i++)
        out[i] = (uint8_t)('a' + (stamp >> (60 - 4 * i) & 15));
}

/* Returns the time in a payload, 0 if there is none. */
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

void payload_write(const struct worker *w, uint8_t *out, uint64_t stamp)
{
    stamp_write(out, stamp);
    memcpy(out + STAMP_SIZE, w->filler, w->opt->payload - STAMP_SIZE);
}

void payload_received(struct worker *w, struct conn *c, enum kind kind, const uint8_t *payload, size_t length)
{
    uint64_t stamp = length == w->opt->payload ? stamp_read(payload) : 0;
    bool one_sender = w->opt->mode != MODE_RANDOM && (w->opt->mode != MODE_MIX || kind == KIND_ROOM);
    if (!stamp) {
        count_add(w, COUNT_CORRUPT, 1);
        return;
    }
    if (one_sender) {
        if (stamp < c->stamp)
            count_add(w, COUNT_DISORDER, 1);
        c->stamp = stamp;
    }
    mode_delivered(w, c, kind, stamp);
}

/* Corks one message: a head, and a payload unless the stamp is 0. */
static void compose(struct worker *w, struct conn *c, const char *head, size_t head_length, uint64_t stamp)
{
    size_t length = head_length + (stamp ? 1 + w->opt->payload : 0);
    uint8_t *body = conn_frame(w, c, WS_TEXT, length);
    memcpy(body, head, head_length);
    if (stamp) {
        body[head_length] = '\n';
        payload_write(w, body + head_length + 1, stamp);
    }
    ws_mask(body, length);
}

static void send_to(struct worker *w, struct conn *c, const char *receiver, uint8_t length, uint64_t stamp)
{
    char head[3 + ADDRESS_MAX];
    memcpy(head, "TO ", 3);
    memcpy(head + 3, receiver, length);
    compose(w, c, head, 3U + length, stamp);
}

/* Writes a head with a room's name, which has this process in it: no other run uses the room. */
static size_t room_head(char *out, const char *verb, uint32_t room, const char *more)
{
    return (size_t)snprintf(out, ROOM_MAX, "%s load%x.%u%s", verb, (unsigned)getpid(), room, more);
}

static void send_pub(struct worker *w, struct conn *c, uint32_t room, uint64_t stamp)
{
    char head[ROOM_MAX];
    compose(w, c, head, room_head(head, "PUB", room, ""), stamp);
}

static bool starts(const uint8_t *head, size_t length, const char *verb)
{
    size_t n = strlen(verb);
    return length >= n && memcmp(head, verb, n) == 0;
}

/* HELLO <peer>: the connection has its address; a member of a room joins it first. */
static void on_hello(struct worker *w, struct conn *c, const uint8_t *head, size_t length)
{
    const uint8_t *peer = head + 6, *end = memchr(peer, ' ', length - 6);
    int32_t room = layout_room(&w->opt->rooms, w->first + conn_index(w, c));
    if (c->state != CONN_GREETING)
        conn_close(w, c, COUNT_PROTOCOL);
    else if (open_address(w, c, peer, end ? (size_t)(end - peer) : length - 6)) {
        if (room == NO_ROOM) {
            open_done(w, c);
        } else {
            char sub[ROOM_MAX];
            c->state = CONN_JOINING;
            compose(w, c, sub, room_head(sub, "SUB", (uint32_t)room, " ref=j"), 0);
        }
    }
}

/* ERR <code> [ref=R]: counted by its code. */
static void on_err(struct worker *w, struct conn *c, const uint8_t *head, size_t length)
{
    int which = COUNT_ERR;
    while (which < COUNT_ERR_OTHER && !starts(head + 4, length - 4, count_names[which] + strlen("err.")))
        which++;
    count_add(w, which, 1);
    mode_lost(w, c, UINT64_MAX);
}

/* GAP <n>, copied because the head is not terminated. */
static void on_gap(struct worker *w, struct conn *c, const uint8_t *head, size_t length)
{
    char text[24] = "";
    memcpy(text, head + 4, length - 4 < sizeof text - 1 ? length - 4 : sizeof text - 1);
    uint64_t n = strtoull(text, NULL, 10);
    count_add(w, COUNT_GAP, n);
    mode_lost(w, c, n);
}

/* Handles one message of the server's. */
static void received(struct worker *w, struct conn *c, const uint8_t *body, size_t length)
{
    const uint8_t *lf = memchr(body, '\n', length);
    size_t head = lf ? (size_t)(lf - body) : length;
    if (starts(body, head, "FROM "))
        payload_received(w, c, KIND_TO, body + head + 1, lf ? length - head - 1 : 0);
    else if (starts(body, head, "MSG "))
        payload_received(w, c, KIND_ROOM, body + head + 1, lf ? length - head - 1 : 0);
    else if (starts(body, head, "HELLO "))
        on_hello(w, c, body, head);
    else if (starts(body, head, JOINED) && c->state == CONN_JOINING)
        open_done(w, c);
    else if (starts(body, head, "ERR "))
        on_err(w, c, body, head);
    else if (starts(body, head, "GAP "))
        on_gap(w, c, body, head);
    else if (!starts(body, head, "GOAWAY") && !starts(body, head, "OK "))
        count_add(w, COUNT_PROTOCOL, 1);
}

/* Handles the complete frames, and keeps the rest. */
static void read_frames(struct worker *w, struct conn *c, uint8_t *data, size_t length)
{
    size_t done = 0;
    bool kept = c->in_length > 0;
    while (done < length && c->fd >= 0) {
        struct ws_frame frame;
        long n = ws_parse(data + done, length - done, &frame);
        if (n == -2)
            break;
        if (n == -1) {
            conn_close(w, c, COUNT_PROTOCOL);
            return;
        }
        done += (size_t)n;
        if (frame.opcode == WS_TEXT || frame.opcode == WS_BINARY)
            received(w, c, frame.body, frame.length);
        else
            conn_control(w, c, &frame);
    }
    if (c->fd >= 0 && (kept || done < length))
        conn_keep(w, c, data + done, length - done);
}

const struct protocol protocol_signal = {
    .name = "signal.v1", .offer = "signal.v1", .to = send_to, .pub = send_pub, .read = read_frames,
};
