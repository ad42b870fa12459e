/* A log-linear histogram of nanoseconds: 64 steps to each power of two, so a value is off by 1/128. */
#ifndef LOAD_HIST_H
#define LOAD_HIST_H

#include <stdint.h>

enum {
    HIST_STEP_BITS = 6,
    HIST_STEPS = 1 << HIST_STEP_BITS,
    HIST_BUCKETS = (64 - HIST_STEP_BITS + 1) * HIST_STEPS,
    HIST_CURVE = 160,
};

struct hist_point {
    double share;                    /* 0 to 1 */
    uint64_t value;                  /* what that share of all values does not exceed */
};

struct hist {
    uint64_t count;                  /* values added */
    uint64_t sum;                    /* of all values, for the mean */
    uint64_t max;                    /* the largest value, exact */
    uint64_t bucket[HIST_BUCKETS];   /* how many fell into each range */
};

/* The bucket of a value: exact below HIST_STEPS, then the top HIST_STEP_BITS + 1 bits and their place. */
static inline uint32_t hist_bucket(uint64_t value)
{
    if (value < HIST_STEPS)
        return (uint32_t)value;
    uint32_t shift = (uint32_t)(63 - __builtin_clzll(value)) - HIST_STEP_BITS;
    return (shift << HIST_STEP_BITS) + (uint32_t)(value >> shift);
}

/* The middle of a bucket's range. */
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
    h->count++;
    h->sum += value;
    if (value > h->max)
        h->max = value;
    h->bucket[hist_bucket(value)]++;
}

static inline void hist_merge(struct hist *into, const struct hist *from)
{
    into->count += from->count;
    into->sum += from->sum;
    if (from->max > into->max)
        into->max = from->max;
    for (uint32_t i = 0; i < HIST_BUCKETS; i++)
        into->bucket[i] += from->bucket[i];
}

/* The value that a share (0 to 1) of all values does not exceed; 0 if there are none. */
static inline uint64_t hist_percentile(const struct hist *h, double share)
{
    uint64_t rank = (uint64_t)(share * (double)h->count + 0.5);
    uint64_t seen = 0;
    if (rank < 1)
        rank = 1;
    for (uint32_t i = 0; i < HIST_BUCKETS && h->count; i++) {
        seen += h->bucket[i];
        if (seen >= rank)
            return hist_value(i) < h->max ? hist_value(i) : h->max;
    }
    return h->max;
}

/* Write a percentile curve, [share, value] from the smallest to the largest: four steps to each halving of what
 * lies above, until that is less than one value. How many points; at most HIST_CURVE. */
static inline uint32_t hist_curve(const struct hist *h, struct hist_point out[HIST_CURVE])
{
    uint32_t n = 0;
    for (double above = 1; h->count && above * (double)h->count >= 1 && n + 5 <= HIST_CURVE; above /= 2)
        for (int step = 0; step < 4; step++) {
            double share = 1 - above + above / 2 * step / 4;
            out[n++] = (struct hist_point){share, hist_percentile(h, share)};
        }
    if (h->count)
        out[n++] = (struct hist_point){1, h->max};
    return n;
}

#endif
