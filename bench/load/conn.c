#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"
#include "ws.h"

enum {
    RETRY_NS = 20 * 1000 * 1000,  /* nothing is opened for this long after a failure */
    PORTS_AN_ADDRESS = 4096,      /* connects from one source address: ports are found fast, none runs out */
};

static uint32_t index_of(const struct worker *w, const struct conn *c)
{
    return (uint32_t)(c - w->conns);
}

static bool is_opening(const struct conn *c)
{
    return c->state >= CONN_CONNECTING && c->state <= CONN_JOINING;
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
    if (is_opening(c)) {
        w->opening--;
        if (why >= 0)
            w->retry = w->now + RETRY_NS;
    }
    if (c->state == CONN_READY)
        count_add(w, COUNT_READY, (uint64_t)-1);
    if (w->corked == c)
        w->corked = NULL;
    *c = (struct conn){.fd = -1, .state = CONN_CLOSED};
    if (w->opt->mode == MODE_CHURN || w->phase == PHASE_OPEN)
        w->closed[w->closed_count++] = index_of(w, c);
}

/* On loopback, spread the source over 127.64.0.0/10: one address has too few ports for a test. */
static int bind_source(struct worker *w, int fd, const struct sockaddr_in *to)
{
    if (ntohl(to->sin_addr.s_addr) >> 24 != 127)
        return 0;
    uint32_t turn = w->begun++ / PORTS_AN_ADDRESS;
    uint32_t low = (turn % 250 + 1) | (turn / 250 % 250 + 1) << 8;
    struct sockaddr_in from = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(127U << 24 | (64 + w->index % 64) << 16 | low),
    };
    int one = 1;
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    return bind(fd, (const struct sockaddr *)&from, sizeof from);
}

void conn_open(struct worker *w, uint32_t index)
{
    const struct sockaddr_in *to = &w->opt->target[index % w->opt->targets].address;
    struct conn *c = &w->conns[index];
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        count_add(w, COUNT_CONNECT, 1);
        w->retry = w->now + RETRY_NS;
        w->closed[w->closed_count++] = index;
        return;
    }
    c->state = CONN_CONNECTING;
    c->stamp = w->now;
    w->opening++;
    struct epoll_event event = {.events = EPOLLOUT, .data.u32 = index};
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind_source(w, c->fd, to) < 0
        || (connect(c->fd, (const struct sockaddr *)to, sizeof *to) < 0 && errno != EINPROGRESS)
        || epoll_ctl(w->epoll, EPOLL_CTL_ADD, c->fd, &event) < 0) {
        conn_close(w, c, COUNT_CONNECT);
        return;
    }
    if (w->opt->mode == MODE_CHURN)
        count_add(w, COUNT_SENT, 1);
}

static void listen_for(struct worker *w, struct conn *c, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.u32 = index_of(w, c)};
    epoll_ctl(w->epoll, EPOLL_CTL_MOD, c->fd, &event);
}

/* The connect ended: ask for the upgrade. */
static void send_request(struct worker *w, struct conn *c)
{
    const struct target *target = &w->opt->target[index_of(w, c) % w->opt->targets];
    char request[4096];
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        conn_close(w, c, COUNT_CONNECT);
        return;
    }
    size_t length = ws_request(request, sizeof request, target->host, target->path);
    if (!length || send(c->fd, request, length, MSG_NOSIGNAL) != (ssize_t)length) {
        conn_close(w, c, COUNT_HANDSHAKE);
        return;
    }
    c->state = CONN_UPGRADING;
    listen_for(w, c, EPOLLIN);
}

/* Keep what the socket did not take, to be sent when it is writable. */
static void queue(struct worker *w, struct conn *c, const uint8_t *data, size_t length)
{
    uint8_t *out = c->out_length + length <= OUT_MAX ? realloc(c->out, c->out_length + length) : NULL;
    if (!out) {
        conn_close(w, c, COUNT_BLOCKED);
        return;
    }
    memcpy(out + c->out_length, data, length);
    if (!c->out_length)
        listen_for(w, c, EPOLLIN | EPOLLOUT);
    c->out = out;
    c->out_length += (uint32_t)length;
}

/* send(): how much the socket took, or -1 on a dead one. */
static ssize_t offer(const struct conn *c, const uint8_t *data, size_t length)
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
    ssize_t n = c->out_length ? 0 : offer(c, w->cork, length);
    if (n < 0)
        conn_close(w, c, COUNT_CLOSED);
    else if ((size_t)n < length)
        queue(w, c, w->cork + n, length - (size_t)n);
}

uint8_t *conn_reserve(struct worker *w, struct conn *c, size_t size)
{
    if (w->corked != c || w->cork_length + size > CORK_FLUSH)
        conn_flush(w);
    w->corked = c;
    return w->cork + w->cork_length;
}

static void write_queued(struct worker *w, struct conn *c)
{
    ssize_t n = offer(c, c->out, c->out_length);
    if (n < 0) {
        conn_close(w, c, COUNT_CLOSED);
        return;
    }
    c->out_length -= (uint32_t)n;
    memmove(c->out, c->out + n, c->out_length);
    if (!c->out_length) {
        free(c->out);
        c->out = NULL;
        listen_for(w, c, EPOLLIN);
    }
}

static void send_pong(struct worker *w, struct conn *c, const struct ws_frame *ping)
{
    uint32_t mask = worker_random(w);
    if (ping->length > 125) {
        conn_close(w, c, COUNT_PROTOCOL);
        return;
    }
    uint8_t *frame = conn_reserve(w, c, WS_HEADER_MAX + ping->length + 8);
    size_t header = ws_header(frame, WS_PONG, ping->length, mask);
    memcpy(frame + header, ping->body, ping->length);
    ws_mask(frame + header, ping->length, mask);
    w->cork_length += header + ping->length;
}

static void on_frame(struct worker *w, struct conn *c, const struct ws_frame *frame)
{
    switch (frame->opcode) {
    case WS_TEXT:
    case WS_BINARY: message_heard(w, c, frame->body, frame->length); break;
    case WS_PING: send_pong(w, c, frame); break;
    case WS_PONG: break;
    case WS_CLOSE: conn_close(w, c, c->state == CONN_CLOSING ? -1 : COUNT_CLOSED); break;
    default: conn_close(w, c, COUNT_PROTOCOL);
    }
}

/* Handle what is whole in the inbox; how much that was. Stops where the connection is closed. */
static size_t parse(struct worker *w, struct conn *c, size_t length)
{
    size_t done = 0;
    while (done < length && c->fd >= 0) {
        struct ws_frame frame;
        bool upgrading = c->state == CONN_UPGRADING;
        long n = upgrading ? ws_response(w->inbox + done, length - done)
                           : ws_parse(w->inbox + done, length - done, &frame);
        if (n == -2)
            return done;
        if (n == -1) {
            conn_close(w, c, upgrading ? COUNT_HANDSHAKE : COUNT_PROTOCOL);
            return length;
        }
        done += (size_t)n;
        if (upgrading)
            c->state = CONN_GREETING;
        else
            on_frame(w, c, &frame);
    }
    return done;
}

/* Keep the start of a frame until the rest comes. */
static void keep(struct worker *w, struct conn *c, const uint8_t *rest, size_t length)
{
    free(c->in);
    c->in = NULL;
    c->in_length = (uint32_t)length;
    if (length && !(c->in = malloc(length)))
        conn_close(w, c, COUNT_PROTOCOL);
    else if (length)
        memcpy(c->in, rest, length);
}

/* Why a connection that the server ended was ended. */
static int ended(const struct conn *c)
{
    return c->state == CONN_CLOSING ? -1 : c->state == CONN_UPGRADING ? COUNT_HANDSHAKE : COUNT_CLOSED;
}

static void read_some(struct worker *w, struct conn *c)
{
    size_t kept = c->in_length;
    ssize_t n = recv(c->fd, w->inbox + kept, READ_SIZE, 0);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN)
            conn_close(w, c, ended(c));
        return;
    }
    if (kept)
        memcpy(w->inbox, c->in, kept);
    w->now = clock_ns();
    size_t length = kept + (size_t)n, done = parse(w, c, length);
    if (c->fd >= 0 && (kept || done < length))
        keep(w, c, w->inbox + done, length - done);
}

void conn_event(struct worker *w, struct conn *c, uint32_t events)
{
    if (c->fd < 0)
        return;
    if (c->state == CONN_CONNECTING) {
        send_request(w, c);
        return;
    }
    if (c->out_length && events & EPOLLOUT)
        write_queued(w, c);
    if (c->fd >= 0 && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        read_some(w, c);
}
