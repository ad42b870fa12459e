/* A log-linear histogram of nanoseconds: 64 buckets for each power of two, so a value is off by at most 1/128. */
#ifndef LOAD_HIST_H
#define LOAD_HIST_H

#include <stdint.h>

enum {
    HIST_STEP_BITS = 6,
    HIST_STEPS = 1 << HIST_STEP_BITS,
    HIST_BUCKETS = (64 - HIST_STEP_BITS + 1) * HIST_STEPS,
};

struct hist {
    uint64_t sum, max;               /* of all values, exact */
    uint64_t bucket[HIST_BUCKETS];   /* how many values fell into each range */
};

/* Returns the bucket of a value: exact below HIST_STEPS, then the exponent and the top HIST_STEP_BITS bits. */
static inline uint32_t hist_bucket(uint64_t value)
{
    if (value < HIST_STEPS)
        return (uint32_t)value;
    uint32_t shift = (uint32_t)(63 - __builtin_clzll(value)) - HIST_STEP_BITS;
    return (shift << HIST_STEP_BITS) + (uint32_t)(value >> shift);
}

/* Returns the middle of a bucket's range. */
static inline uint64_t hist_value(uint32_t bucket)
{
    if (bucket < 2 * HIST_STEPS)
        return bucket;
    uint32_t shift = (bucket >> HIST_STEP_BITS) - 1;
    uint64_t low = (uint64_t)(bucket - (shift << HIST_STEP_BITS)) << shift;
    return low + (1ULL << shift) / 2;
}

static inline void hist_add(struct hist *h, uint64_t value)
{
    h->sum += value;
    if (value > h->max)
        h->max = value;
    h->bucket[hist_bucket(value)]++;
}

static inline void hist_merge(struct hist *into, const struct hist *from)
{
    into->sum += from->sum;
    if (from->max > into->max)
        into->max = from->max;
    for (uint32_t i = 0; i < HIST_BUCKETS; i++)
        into->bucket[i] += from->bucket[i];
}

#endif
