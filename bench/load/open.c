#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "load.h"

enum { NO_SOCKET_NS = 20 * 1000 * 1000 };  /* opens nothing for this long after socket() failed */

static const struct target *target_of(const struct worker *w, uint32_t index)
{
    return &w->opt->target[index % w->opt->targets];
}

/* Chooses the source address on loopback; layout_source says why. */
static int bind_source(struct worker *w, int fd, const struct sockaddr_in *to)
{
    if (ntohl(to->sin_addr.s_addr) >> 24 != 127)
        return 0;
    struct sockaddr_in from = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(layout_source(w->index, w->begun++)),
    };
    int one = 1;
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    return bind(fd, (const struct sockaddr *)&from, sizeof from);
}

void open_begin(struct worker *w, uint32_t index)
{
    const struct sockaddr_in *to = &target_of(w, index)->address;
    struct conn *c = &w->conns[index];
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        count_add(w, COUNT_CONNECT, 1);
        w->retry = w->now + NO_SOCKET_NS;
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

void open_upgrade(struct worker *w, struct conn *c)
{
    const struct target *target = target_of(w, conn_index(w, c));
    char request[4096];
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        conn_close(w, c, COUNT_CONNECT);
        return;
    }
    size_t length = ws_request(request, sizeof request, target->host, target->path, w->opt->protocol->offer);
    if (!length || send(c->fd, request, length, MSG_NOSIGNAL) != (ssize_t)length) {
        conn_close(w, c, COUNT_HANDSHAKE);
        return;
    }
    c->state = CONN_UPGRADING;
    conn_listen(w, c, EPOLLIN);
}

bool open_address(struct worker *w, struct conn *c, const void *text, size_t length)
{
    struct address *address = conn_address(w, c);
    if (!length || length > ADDRESS_MAX) {
        conn_close(w, c, COUNT_PROTOCOL);
        return false;
    }
    memcpy(address->text, text, length);
    address_store(address, (uint8_t)length);
    return true;
}

void open_done(struct worker *w, struct conn *c)
{
    static const uint8_t NORMAL[] = {1000 >> 8, 1000 & 0xFF};
    w->opening--;
    if (w->opt->mode == MODE_CHURN) {
        c->state = CONN_CLOSING;
        conn_send(w, c, WS_CLOSE, NORMAL, sizeof NORMAL);
        mode_delivered(w, c, KIND_TO, c->stamp);
        return;
    }
    c->state = CONN_READY;
    c->stamp = 0;
    count_add(w, COUNT_READY, 1);
    if (w->phase == PHASE_SECOND)
        count_add(w, COUNT_REOPENED, 1);
}
