/* Atomics, over the compiler's builtins, and a spin lock. The last word of a name is the memory order. */
#ifndef SE_ATOMIC_H
#define SE_ATOMIC_H

#include <stdint.h>

static inline uint64_t se_load_relaxed(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint64_t se_load_acquire(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline uint64_t se_load_seqcst(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
static inline void se_store_relaxed(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void se_store_release(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void se_store_seqcst(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
static inline uint64_t se_add_relaxed(uint64_t *p, uint64_t v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
static inline uint64_t se_sub_relaxed(uint64_t *p, uint64_t v) { return __atomic_fetch_sub(p, v, __ATOMIC_RELAXED); }
static inline uint64_t se_add_seqcst(uint64_t *p, uint64_t v) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }
static inline uint64_t se_swap_seqcst(uint64_t *p, uint64_t v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }

static inline uint16_t se_load16_seqcst(const uint16_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
static inline uint16_t se_or16_seqcst(uint16_t *p, uint16_t v) { return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }
static inline uint16_t se_and16_seqcst(uint16_t *p, uint16_t v) { return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST); }

static inline uint8_t se_load8_acquire(const uint8_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void se_store8_release(uint8_t *p, uint8_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }

/* Adds 1 if *p is below `most`; returns whether it did. */
static inline int se_count_below(uint32_t *p, uint32_t most)
{
    uint32_t count = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (count < most)
        if (__atomic_compare_exchange_n(p, &count, count + 1, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            return 1;
    return 0;
}
static inline void se_uncount(uint32_t *p) { __atomic_fetch_sub(p, 1, __ATOMIC_RELAXED); }

static inline int se_cas_relaxed(uint64_t *p, uint64_t *expected, uint64_t v)
{
    return __atomic_compare_exchange_n(p, expected, v, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

static inline void *se_pointer_acquire(void *const *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void se_pointer_release(void **p, void *v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void *se_pointer_swap_acqrel(void **p, void *v) { return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL); }
/* May fail although *p is *expected: call it in a loop. */
static inline int se_pointer_cas_seqcst(void **p, void **expected, void *v)
{
    return __atomic_compare_exchange_n(p, expected, v, 1, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

static inline void se_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* A spin lock, for short sections without a system call. */
static inline void se_lock(uint64_t *p)
{
    while (__atomic_exchange_n(p, 1, __ATOMIC_ACQUIRE) != 0)
        while (__atomic_load_n(p, __ATOMIC_RELAXED) != 0)
            se_pause();
}
static inline void se_unlock(uint64_t *p) { __atomic_store_n(p, 0, __ATOMIC_RELEASE); }

#endif
