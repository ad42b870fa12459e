#include "load.h"

/* 0: measured; 1: not all connections opened, so nothing was measured. */
int main(int argc, char **argv)
{
    static struct options opt;
    static struct shared shared;
    options_parse(&opt, argc, argv);
    shared.opt = &opt;
    phases_start(&shared);
    bool open = phases_open(&shared);
    if (open)
        phases_measure(&shared);
    phases_stop(&shared);
    return !open;
}
