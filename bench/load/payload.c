#include <string.h>

#include "load.h"

const char *const err_codes[COUNTS - COUNT_ERR] = {
    "bad-request", "no-such-peer", "slow-peer", "expired", "timeout", "too-large", "denied", "rate",
    "too-many-rooms", "unavailable", "other",
};

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

void payload_write(const struct worker *w, uint8_t *out, uint64_t stamp)
{
    stamp_write(out, stamp);
    memcpy(out + STAMP_SIZE, w->filler, w->opt->payload - STAMP_SIZE);
}

/* Whether all of a kind that a connection hears are of one sender, so that they come in order. */
static bool is_ordered(const struct worker *w, enum kind kind)
{
    switch (w->opt->mode) {
    case MODE_RANDOM: return false;
    case MODE_MIX: return kind == KIND_ROOM;
    default: return true;
    }
}

void payload_heard(struct worker *w, struct conn *c, enum kind kind, const uint8_t *payload, size_t length)
{
    uint64_t stamp = length == w->opt->payload ? stamp_read(payload) : 0;
    if (!stamp) {
        count_add(w, COUNT_CORRUPT, 1);
        return;
    }
    if (is_ordered(w, kind)) {
        if (stamp < c->stamp)
            count_add(w, COUNT_DISORDER, 1);
        c->stamp = stamp;
    }
    mode_delivered(w, c, kind, stamp);
}
