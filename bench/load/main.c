/* Parse, open, measure, report. */
#include <stdio.h>

#include "measure.h"

static void explain(const struct shared *shared)
{
    const struct options *opt = shared->opt;
    fprintf(stderr, "load: %lu of %u connections opened; failed: ", phases_total(shared, COUNT_READY),
            opt->connections + opt->storm);
    fprintf(stderr, "connect %lu, handshake %lu, closed %lu, protocol %lu\n",
            phases_total(shared, COUNT_CONNECT), phases_total(shared, COUNT_HANDSHAKE),
            phases_total(shared, COUNT_CLOSED), phases_total(shared, COUNT_PROTOCOL));
}

/* Whether what was to hold did: --verify heard of all; mix and storm lost nothing, and all are open again. */
static bool kept(const struct result *r)
{
    const struct options *opt = r->opt;
    const uint64_t *all = r->final;
    if (opt->verify && all[COUNT_VERIFIED] < opt->connections)
        return false;
    if (opt->mode != MODE_MIX && opt->mode != MODE_STORM)
        return true;
    return report_lost(r) == 0 && !all[COUNT_GAP] && !all[COUNT_CORRUPT] && !all[COUNT_DISORDER]
           && all[COUNT_READY] == opt->connections + opt->storm && all[COUNT_REOPENED] >= opt->storm;
}

/* 0: measured as asked; 1: not all connections opened, so nothing was measured, or something was not kept. */
int main(int argc, char **argv)
{
    static struct options opt;
    static struct shared shared;
    static struct result result;
    options_parse(&opt, argc, argv);
    result.opt = shared.opt = &opt;
    phases_start(&shared, &result);
    bool open = phases_open(&shared, &result);
    if (open)
        phases_measure(&shared, &result);
    else
        explain(&shared);
    phases_stop(&shared, &result);
    if (open)
        report_print(&result);
    phases_finish(&shared);
    return open && kept(&result) ? 0 : 1;
}
