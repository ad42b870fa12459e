/* For LD_PRELOAD: refuses memory to the engine's loops, and to nobody else in the process.
 *
 * The file that SIGNAL_TEST_REFUSE names holds one byte: 0 refuses nothing, 1 everything, n one wish in n, in an
 * order that looks random and is always the same. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

static volatile unsigned char *mode;
static atomic_uint wishes;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("SIGNAL_TEST_REFUSE");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *p = fd < 0 ? MAP_FAILED : mmap(NULL, 1, PROT_READ, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (p != MAP_FAILED)
        mode = p;
}

static int refused(void)
{
    char name[16] = "";
    if (!mode || !*mode)
        return 0;
    prctl(PR_GET_NAME, name);
    if (strncmp(name, "signal-", 7) != 0)
        return 0;
    if ((atomic_fetch_add(&wishes, 1) * 2654435761U >> 16) % *mode != 0)
        return 0;
    errno = ENOMEM;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void *malloc(size_t n)
{
    static __typeof__(&malloc) real;
    real = real ? real : REAL(malloc);
    return refused() ? NULL : real(n);
}

void *calloc(size_t count, size_t n)
{
    static __typeof__(&calloc) real;
    real = real ? real : REAL(calloc);
    return refused() ? NULL : real(count, n);
}

void *realloc(void *p, size_t n)
{
    static __typeof__(&realloc) real;
    real = real ? real : REAL(realloc);
    return refused() ? NULL : real(p, n);
}

void *mmap(void *p, size_t n, int protection, int flags, int fd, off_t offset)
{
    static __typeof__(&mmap) real;
    real = real ? real : REAL(mmap);
    return refused() ? MAP_FAILED : real(p, n, protection, flags, fd, offset);
}
