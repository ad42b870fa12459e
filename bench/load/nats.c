#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "load.h"

/* Numbers of a connection's subscriptions. */
enum { SID_INBOX = 1, SID_ROOM = 2, HEAD_MAX = 512 };

/* Corks PUB <subject> <size>, with its payload. */
static void publish(struct worker *w, struct conn *c, const char *subject, uint8_t length, uint64_t stamp)
{
    char head[HEAD_MAX];
    int n = snprintf(head, sizeof head, "PUB %.*s %u\r\n", length, subject, w->opt->payload);
    size_t size = (size_t)n + w->opt->payload + 2;
    uint8_t *body = conn_frame(w, c, WS_BINARY, size);
    memcpy(body, head, (size_t)n);
    payload_write(w, body + n, stamp);
    memcpy(body + n + w->opt->payload, "\r\n", 2);
    ws_mask(body, size);
}

/* Writes a room's subject, which has this process in it: no other run uses it. */
static int room_subject(char *out, uint32_t room)
{
    return snprintf(out, ROOM_MAX, "load.%x.room.%u", (unsigned)getpid(), room);
}

static void send_pub(struct worker *w, struct conn *c, uint32_t room, uint64_t stamp)
{
    char subject[ROOM_MAX];
    publish(w, c, subject, (uint8_t)room_subject(subject, room), stamp);
}

/* INFO, the server's first word: subscribes to the connection's address, which is a subject, and to its room. The PONG
 * means that the server has done so. */
static void on_info(struct worker *w, struct conn *c)
{
    char text[HEAD_MAX], subject[ADDRESS_MAX + 1], room_name[ROOM_MAX];
    uint32_t index = conn_index(w, c);
    int32_t room = layout_room(&w->opt->rooms, w->first + index);
    int length = snprintf(subject, sizeof subject, "load.%x.%u.%u", (unsigned)getpid(), w->index, index);
    if (!open_address(w, c, subject, (size_t)length))
        return;
    int n = snprintf(text, sizeof text,
                     "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":false,"
                     "\"echo\":%s,\"lang\":\"c\",\"version\":\"1\",\"protocol\":1}\r\nSUB %s %d\r\n",
                     w->opt->mode == MODE_ECHO ? "true" : "false", subject, SID_INBOX);
    if (room != NO_ROOM) {
        room_subject(room_name, (uint32_t)room);
        n += snprintf(text + n, sizeof text - (size_t)n, "SUB %s %d\r\n", room_name, SID_ROOM);
    }
    n += snprintf(text + n, sizeof text - (size_t)n, "PING\r\n");
    c->state = CONN_JOINING;
    conn_send(w, c, WS_BINARY, text, (size_t)n);
}

static void on_op(struct worker *w, struct conn *c, const struct nats_op *op)
{
    switch (op->verb) {
    case NATS_MSG:
        payload_received(w, c, op->sid == SID_ROOM ? KIND_ROOM : KIND_TO, op->payload, op->length);
        break;
    case NATS_INFO:  /* again whenever the cluster changes */
        if (c->state == CONN_GREETING)
            on_info(w, c);
        break;
    case NATS_PONG:
        if (c->state == CONN_JOINING)
            open_done(w, c);
        break;
    case NATS_PING:
        conn_send(w, c, WS_BINARY, "PONG\r\n", 6);
        count_add(w, COUNT_PINGS, 1);
        break;
    case NATS_OK: break;
    case NATS_ERR: count_add(w, COUNT_PROTOCOL, 1); break;
    }
}

/* Handles the complete operations; returns how many bytes they were. Stops when the connection is closed. */
static size_t handle_ops(struct worker *w, struct conn *c, const uint8_t *data)
{
    size_t done = 0;
    while (c->fd >= 0 && done < c->stream.part) {
        struct nats_op op;
        long n = nats_parse(data + done, c->stream.part - done, &op);
        if (n == -2)
            break;
        if (n == -1) {
            conn_close(w, c, COUNT_PROTOCOL);
            break;
        }
        done += (size_t)n;
        on_op(w, c, &op);
    }
    return done;
}

static void read_stream(struct worker *w, struct conn *c, uint8_t *data, size_t length)
{
    size_t at = c->stream.part, used;
    bool kept = c->in_length > 0;
    struct ws_frame control;
    for (int more; (more = nats_deframe(&c->stream, data, length, &at, &control)) != 0;) {
        if (more < 0)
            conn_close(w, c, COUNT_PROTOCOL);
        else
            conn_control(w, c, &control);
        if (c->fd < 0)
            return;
    }
    used = handle_ops(w, c, data);
    if (c->fd < 0)
        return;
    length = nats_keep(&c->stream, data, used, at, length);
    if (kept || length)
        conn_keep(w, c, data, length);
}

const struct protocol protocol_nats = {
    .name = "nats", .offer = "", .to = publish, .pub = send_pub, .read = read_stream,
};
