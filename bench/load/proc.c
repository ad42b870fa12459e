#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "measure.h"

/* Read a small file of /proc/PID into `out`, terminated; false where it can't be read. */
static bool read_proc(pid_t pid, const char *name, char *out, size_t room)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    size_t n = fread(out, 1, room - 1, file);
    fclose(file);
    out[n] = 0;
    return n > 0;
}

struct usage proc_cpu(pid_t pid)
{
    char text[1024];
    unsigned long user, system;
    struct usage gone = {-1, -1};
    if (!read_proc(pid, "stat", text, sizeof text))
        return gone;
    const char *rest = strrchr(text, ')');  /* the name before it may hold spaces */
    static const char FIELDS[] = " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu";
    if (!rest || sscanf(rest + 1, FIELDS, &user, &system) != 2)
        return gone;
    double tick = (double)sysconf(_SC_CLK_TCK);
    return (struct usage){(double)user / tick, (double)system / tick};
}

long proc_pss(pid_t pid)
{
    char text[4096];
    long kb;
    if (!read_proc(pid, "smaps_rollup", text, sizeof text))
        return -1;
    const char *line = strstr(text, "\nPss:");
    return line && sscanf(line, "\nPss: %ld", &kb) == 1 ? kb : -1;
}

void proc_name(pid_t pid, char *out, size_t room)
{
    if (!read_proc(pid, "comm", out, room))
        snprintf(out, room, "?");
    for (char *c = out; *c; c++)
        if (*c == '\n')
            *c = 0;
        else if (!isalnum((unsigned char)*c) && !strchr(" .-_", *c))
            *c = '_';
}
