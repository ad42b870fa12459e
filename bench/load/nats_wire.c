#include "nats_wire.h"

#include <stdbool.h>
#include <string.h>

int nats_deframe(struct nats_stream *stream, uint8_t *data, size_t length, size_t *at, struct ws_frame *control)
{
    for (;;) {
        size_t there = length - *at, n = stream->left < there ? stream->left : there;
        memmove(data + stream->part, data + *at, n);
        stream->part += (uint32_t)n;
        stream->left -= (uint32_t)n;
        *at += n;
        if (stream->left)
            return 0;
        long head = ws_head(data + *at, length - *at, control);
        if (head < 0)
            return head == -2 ? 0 : -1;
        if (control->opcode >= WS_CLOSE) {
            if (control->length > WS_CONTROL_MAX)
                return -1;
            if (length - *at - (size_t)head < control->length)
                return 0;
            *at += (size_t)head + control->length;
            return 1;
        }
        if (control->length > UINT32_MAX)
            return -1;
        stream->left = (uint32_t)control->length;
        *at += (size_t)head;
    }
}

size_t nats_keep(struct nats_stream *stream, uint8_t *data, size_t used, size_t at, size_t length)
{
    stream->part -= (uint32_t)used;
    memmove(data, data + used, stream->part);
    memmove(data + stream->part, data + at, length - at);
    return stream->part + (length - at);
}

/* Returns the decimal number at the end of a line, after a space; -1 if there is none, or it is too large. */
static long last_number(const uint8_t *line, const uint8_t *end)
{
    long value = 0, scale = 1;
    const uint8_t *p = end;
    while (p > line && p[-1] >= '0' && p[-1] <= '9' && scale <= 10000000) {
        value += (*--p - '0') * scale;
        scale *= 10;
    }
    return p < end && p > line && p[-1] == ' ' ? value : -1;
}

/* MSG <subject> <sid> [reply] <size>, which ends at `end`; then the payload. */
static long parse_message(const uint8_t *data, size_t length, const uint8_t *end, struct nats_op *op)
{
    const uint8_t *subject = data + 4, *sid = memchr(subject, ' ', (size_t)(end - subject));
    long size = last_number(data, end);
    if (!sid || size < 0 || size > NATS_PAYLOAD_MAX)
        return -1;
    op->sid = 0;
    for (sid++; *sid >= '0' && *sid <= '9'; sid++)
        op->sid = op->sid * 10 + (*sid - '0');
    if (*sid != ' ')
        return -1;
    op->payload = end + 2;
    op->length = (size_t)size;
    size_t whole = (size_t)(end - data) + 2 + op->length + 2;
    if (length < whole)
        return -2;
    return memcmp(op->payload + op->length, "\r\n", 2) == 0 ? (long)whole : -1;
}

static bool starts(const uint8_t *line, size_t length, const char *verb)
{
    size_t n = strlen(verb);
    return length >= n && memcmp(line, verb, n) == 0;
}

long nats_parse(const uint8_t *data, size_t length, struct nats_op *op)
{
    static const struct { const char *text; enum nats_verb verb; } VERBS[] = {
        {"MSG ", NATS_MSG}, {"PING", NATS_PING}, {"PONG", NATS_PONG}, {"INFO ", NATS_INFO}, {"+OK", NATS_OK},
        {"-ERR", NATS_ERR},
    };
    const uint8_t *end = memmem(data, length < NATS_LINE_MAX ? length : NATS_LINE_MAX, "\r\n", 2);
    if (!end)
        return length < NATS_LINE_MAX ? -2 : -1;
    size_t line = (size_t)(end - data);
    for (size_t i = 0; i < sizeof VERBS / sizeof *VERBS; i++)
        if (starts(data, line, VERBS[i].text)) {
            op->verb = VERBS[i].verb;
            return op->verb == NATS_MSG ? parse_message(data, length, end, op) : (long)line + 2;
        }
    return -1;
}
