#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

enum { RETRY_NS = 20 * 1000 * 1000 };  /* nothing is opened for this long after a failure */

/* Whether a connection that is closed now is opened again; open_some() decides when. */
static bool opens_again(const struct worker *w)
{
    return w->opt->mode == MODE_CHURN || w->opt->mode == MODE_STORM || w->phase == PHASE_OPEN;
}

void conn_close(struct worker *w, struct conn *c, int why)
{
    if (c->fd < 0)
        return;
    close(c->fd);
    free(c->in);
    free(c->out);
    if (why >= 0)
        count_add(w, why, 1);
    if (c->state >= CONN_CONNECTING && c->state <= CONN_JOINING) {
        w->opening--;
        if (why >= 0)
            w->retry = w->now + RETRY_NS;
    }
    if (c->state == CONN_READY)
        count_add(w, COUNT_READY, (uint64_t)-1);
    if (w->corked == c)
        w->corked = NULL;
    *c = (struct conn){.fd = -1, .state = CONN_CLOSED};
    address_store(conn_address(w, c), 0);
    if (opens_again(w))
        w->closed[w->closed_count++] = conn_index(w, c);
}

void conn_cut(struct worker *w, struct conn *c)
{
    struct linger none = {.l_onoff = 1, .l_linger = 0};
    if (c->fd < 0)  /* the server closed it: it is opened again already */
        return;
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    conn_close(w, c, -1);
}

void conn_listen(struct worker *w, struct conn *c, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.u32 = conn_index(w, c)};
    epoll_ctl(w->epoll, EPOLL_CTL_MOD, c->fd, &event);
}

/* Keeps what the socket did not take, to be sent when it is writable. */
static void queue(struct worker *w, struct conn *c, const uint8_t *data, size_t length)
{
    uint8_t *out = c->out_length + length <= OUT_MAX ? realloc(c->out, c->out_length + length) : NULL;
    if (!out) {
        conn_close(w, c, COUNT_BLOCKED);
        return;
    }
    memcpy(out + c->out_length, data, length);
    if (!c->out_length)
        conn_listen(w, c, EPOLLIN | EPOLLOUT);
    c->out = out;
    c->out_length += (uint32_t)length;
}

/* Returns how much the socket took, or -1 if it is dead. */
static ssize_t send_some(const struct conn *c, const uint8_t *data, size_t length)
{
    ssize_t n = send(c->fd, data, length, MSG_NOSIGNAL);
    return n < 0 && errno == EAGAIN ? 0 : n;
}

void conn_flush(struct worker *w)
{
    struct conn *c = w->corked;
    size_t length = w->cork_length;
    w->corked = NULL;
    w->cork_length = 0;
    if (!c || !length)
        return;
    ssize_t n = c->out_length ? 0 : send_some(c, w->cork, length);
    if (n < 0)
        conn_close(w, c, COUNT_CLOSED);
    else if ((size_t)n < length)
        queue(w, c, w->cork + n, length - (size_t)n);
}

static void write_queued(struct worker *w, struct conn *c)
{
    ssize_t n = send_some(c, c->out, c->out_length);
    if (n < 0) {
        conn_close(w, c, COUNT_CLOSED);
        return;
    }
    c->out_length -= (uint32_t)n;
    memmove(c->out, c->out + n, c->out_length);
    if (!c->out_length) {
        free(c->out);
        c->out = NULL;
        conn_listen(w, c, EPOLLIN);
    }
}

uint8_t *conn_frame(struct worker *w, struct conn *c, uint8_t opcode, size_t length)
{
    if (w->corked != c || w->cork_length + WS_HEADER_MAX + length + 8 > CORK_FLUSH)
        conn_flush(w);
    w->corked = c;
    uint8_t *frame = w->cork + w->cork_length;
    size_t header = ws_header(frame, opcode, length, worker_random(w));
    w->cork_length += header + length;
    return frame + header;
}

void conn_send(struct worker *w, struct conn *c, uint8_t opcode, const void *body, size_t length)
{
    uint8_t *out = conn_frame(w, c, opcode, length);
    memcpy(out, body, length);
    ws_mask(out, length);
}

void conn_control(struct worker *w, struct conn *c, const struct ws_frame *frame)
{
    if (frame->opcode == WS_PING && frame->length <= WS_CONTROL_MAX) {
        conn_send(w, c, WS_PONG, frame->body, frame->length);
        count_add(w, COUNT_PINGS, 1);
    } else if (frame->opcode == WS_CLOSE)
        conn_close(w, c, c->state == CONN_CLOSING ? -1 : COUNT_CLOSED);
    else if (frame->opcode != WS_PONG)
        conn_close(w, c, COUNT_PROTOCOL);
}

void conn_keep(struct worker *w, struct conn *c, const uint8_t *rest, size_t length)
{
    free(c->in);
    c->in = NULL;
    c->in_length = (uint32_t)length;
    if (length && !(c->in = malloc(length)))
        conn_close(w, c, COUNT_PROTOCOL);
    else if (length)
        memcpy(c->in, rest, length);
}

/* Handles the inbox: the answer to the upgrade, then the protocol's. */
static void handle(struct worker *w, struct conn *c, size_t length)
{
    long done = c->state == CONN_UPGRADING ? ws_response(w->inbox, length) : 0;
    if (done == -1) {
        conn_close(w, c, COUNT_HANDSHAKE);
    } else if (done == -2) {
        conn_keep(w, c, w->inbox, length);
    } else {
        if (c->state == CONN_UPGRADING)
            c->state = CONN_GREETING;
        w->opt->protocol->read(w, c, w->inbox + done, length - (size_t)done);
    }
}

static void read_some(struct worker *w, struct conn *c)
{
    size_t kept = c->in_length;
    ssize_t n = recv(c->fd, w->inbox + kept, READ_SIZE, 0);
    if (n <= 0) {
        int why = c->state == CONN_CLOSING ? -1 : c->state == CONN_UPGRADING ? COUNT_HANDSHAKE : COUNT_CLOSED;
        if (n == 0 || errno != EAGAIN)
            conn_close(w, c, why);
        return;
    }
    if (kept)
        memcpy(w->inbox, c->in, kept);
    w->now = clock_ns();
    handle(w, c, kept + (size_t)n);
}

void conn_event(struct worker *w, struct conn *c, uint32_t events)
{
    if (c->fd < 0)
        return;
    if (c->state == CONN_CONNECTING) {
        open_upgrade(w, c);
        return;
    }
    if (c->out_length && events & EPOLLOUT)
        write_queued(w, c);
    if (c->fd >= 0 && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        read_some(w, c);
}
