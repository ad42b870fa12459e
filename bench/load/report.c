#include <stdio.h>

#include "measure.h"

static const char *const ERRORS[] = {
    [COUNT_CORRUPT] = "corrupt", [COUNT_DISORDER] = "disorder", [COUNT_CONNECT] = "connect",
    [COUNT_HANDSHAKE] = "handshake", [COUNT_CLOSED] = "closed", [COUNT_PROTOCOL] = "protocol",
    [COUNT_BLOCKED] = "blocked",
};

static double seconds(const struct result *r)
{
    return (double)(r->after.when - r->before.when) / 1e9;
}

/* What a counter grew by in the measured window. */
static uint64_t grown(const struct result *r, int which)
{
    return r->after.counts[which] - r->before.counts[which];
}

static void print_setting(const struct result *r)
{
    const struct options *opt = r->opt;
    printf("{\"mode\":\"%s\",\"protocol\":\"%s\",", opt->mode_name, opt->protocol->name);
    printf("\"connections\":%u,\"threads\":%u,\"targets\":%u,\"window\":%u,\"payload\":%u,",
           opt->connections, opt->threads, opt->targets, opt->window, opt->payload);
    printf("\"binary\":%s,\"rate\":%g,", opt->binary ? "true" : "false", opt->rate);
    if (opt->rooms.count)
        printf("\"rooms\":%u,\"members\":%u,", opt->rooms.count, opt->rooms.members);
    if (opt->mode == MODE_MIX)
        printf("\"room_rate\":%g,", opt->room_rate);
    printf("\"shared_descriptor_table\":%s,", r->shared_table ? "true" : "false");
    printf("\"seconds\":%.3f,\n", seconds(r));
}

/* How fast all connections were opened; churn opens none to keep. */
static void print_opened(const struct result *r)
{
    double n = r->opt->connections + r->opt->storm;
    if (r->opt->mode == MODE_CHURN)
        printf(" \"opened\":null,\n");
    else
        printf(" \"opened\":{\"seconds\":%.3f,\"per_second\":%.1f},\n", r->opened, n / r->opened);
}

static uint64_t refused(const struct result *r)
{
    uint64_t sum = 0;
    for (int i = COUNT_ERR; i < COUNTS; i++)
        sum += r->final[i];
    return sum;
}

long report_lost(const struct result *r)
{
    const uint64_t *all = r->final;
    uint64_t told = all[COUNT_DELIVERED] + all[COUNT_VERIFIED] + all[COUNT_GAP] + refused(r);
    return all[COUNT_EXPECTED] ? (long)(all[COUNT_EXPECTED] - told) : 0;
}

static void print_counts(const struct result *r)
{
    const uint64_t *all = r->final;
    printf(" \"sent\":%lu,\"delivered\":%lu,", grown(r, COUNT_SENT), grown(r, COUNT_DELIVERED));
    printf("\"per_second\":%.1f,", (double)grown(r, COUNT_DELIVERED) / seconds(r));
    printf("\"lost\":%ld,\"gap\":%lu,\"verified\":%lu,\"pings\":%lu,"
           "\"pings_measured\":%lu,\n", report_lost(r), all[COUNT_GAP],
           all[COUNT_VERIFIED], all[COUNT_PINGS], grown(r, COUNT_PINGS));
    printf(" \"errors\":{");
    for (int i = COUNT_CORRUPT; i <= COUNT_BLOCKED; i++)
        printf("%s\"%s\":%lu", i > COUNT_CORRUPT ? "," : "", ERRORS[i], all[i]);
    printf("},\n \"err\":{");
    for (int i = COUNT_ERR, n = 0; i < COUNTS; i++)
        if (all[i])
            printf("%s\"%s\":%lu", n++ ? "," : "", err_codes[i - COUNT_ERR], all[i]);
    printf("},\n");
}

/* Percentiles, and the curve as [percentile, µs]. */
static void print_latency(const char *name, const struct hist *h)
{
    static const struct { const char *name; double share; } POINTS[] = {
        {"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999},
    };
    struct hist_point curve[HIST_CURVE];
    printf(" \"%s\":{\"count\":%lu,\"mean\":%.2f", name, h->count,
           h->count ? (double)h->sum / (double)h->count / 1e3 : 0.0);
    for (size_t i = 0; i < sizeof POINTS / sizeof *POINTS; i++)
        printf(",\"%s\":%.2f", POINTS[i].name, (double)hist_percentile(h, POINTS[i].share) / 1e3);
    printf(",\"max\":%.2f,\n  \"curve\":[", (double)h->max / 1e3);
    for (uint32_t i = 0, n = hist_curve(h, curve); i < n; i++)
        printf("%s[%.9g,%.2f]", i ? "," : "", curve[i].share * 100, (double)curve[i].value / 1e3);
    printf("]}");
}

/* How the reconnects went, and what the steady connections had of it. */
static void print_storm(const struct result *r)
{
    const uint64_t *then = r->calm.counts, *before = r->struck.counts;
    double took = (double)(r->calm.when - r->struck.when) / 1e9;
    printf(" \"storm\":{\"connections\":%u,\"threads\":%u,\"reopened\":%lu,", r->opt->storm,
           r->opt->storm_threads, then[COUNT_REOPENED]);
    printf("\"seconds\":%.3f,\"per_second\":%.1f,", took, (double)then[COUNT_REOPENED] / took);
    printf("\"sent\":%lu,\"delivered\":%lu,\n", then[COUNT_SENT] - before[COUNT_SENT],
           then[COUNT_DELIVERED] - before[COUNT_DELIVERED]);
    print_latency("latency_us", &r->latency[SERIES_OTHER]);
    printf("},\n");
}

/* This process's own CPU, so that a reader sees whether it was the bottleneck. */
static void print_own(const struct result *r)
{
    double busiest = 0;
    for (uint32_t i = 0; i < r->opt->threads + r->opt->storm_threads; i++) {
        double used = (r->after.thread_cpu[i] - r->before.thread_cpu[i]) / seconds(r);
        busiest = used > busiest ? used : busiest;
    }
    printf(" \"load_cpu\":{\"user_s\":%.3f,\"system_s\":%.3f,\"busiest_thread\":%.3f},\n",
           r->after.own.user - r->before.own.user, r->after.own.system - r->before.own.system, busiest);
}

/* `amount` divided by `n`, or null where one of them is missing: an amount below 0, or n = 0. */
static void print_each(const char *name, double amount, uint64_t n)
{
    if (n && amount >= 0)
        printf(",\"%s\":%.4f", name, amount / (double)n);
    else
        printf(",\"%s\":null", name);
}

static void print_cpu(struct usage used, uint64_t delivered)
{
    bool known = used.user >= 0 && used.system >= 0;
    printf("\"user_s\":%.3f,\"system_s\":%.3f", used.user, used.system);
    print_each("user_us_per_delivery", known ? used.user * 1e6 : -1, delivered);
    print_each("cpu_us_per_delivery", known ? (used.user + used.system) * 1e6 : -1, delivered);
}

/* What a server used between two samples; -1 where it was not there all the time. */
static struct usage server_cpu(const struct sample *from, const struct sample *to, uint32_t i)
{
    struct usage a = from->server[i], b = to->server[i];
    if (a.user < 0 || b.user < 0)
        return (struct usage){-1, -1};
    return (struct usage){b.user - a.user, b.system - a.system};
}

/* The same of all servers; -1 where one of them was not there all the time. */
static struct usage servers_cpu(const struct result *r, const struct sample *from, const struct sample *to)
{
    struct usage sum = {0, 0};
    for (uint32_t i = 0; i < r->opt->servers; i++) {
        struct usage used = server_cpu(from, to, i);
        if (used.user < 0)
            return used;
        sum = (struct usage){sum.user + used.user, sum.system + used.system};
    }
    return sum;
}

/* The time before the first send, on the clock that is CLOCK_MONOTONIC for everyone on this machine. */
static void print_quiet(const struct result *r)
{
    const struct sample *from = &r->still, *to = &r->stirred;
    struct usage used = servers_cpu(r, from, to);
    printf(" \"quiet\":{\"from\":%.3f,\"to\":%.3f,", (double)from->when / 1e9, (double)to->when / 1e9);
    printf("\"pings\":%lu,", to->counts[COUNT_PINGS] - from->counts[COUNT_PINGS]);
    printf("\"user_s\":%.3f,\"system_s\":%.3f},\n", used.user, used.system);
}

/* By how many bytes a server grew; -1 where that is not known, or it shrank. */
static double server_growth(const struct result *r, uint32_t i)
{
    if (r->pss_before[i] < 0 || r->pss_after[i] < r->pss_before[i])
        return -1;
    return (double)(r->pss_after[i] - r->pss_before[i]) * 1024;
}

static void print_server(const struct result *r, uint32_t i)
{
    char name[64];
    proc_name(r->opt->server[i], name, sizeof name);
    printf("%s\n  {\"pid\":%d,\"name\":\"%s\",", i ? "," : "", r->opt->server[i], name);
    print_cpu(server_cpu(&r->before, &r->after, i), grown(r, COUNT_DELIVERED));
    printf(",\"pss_before_kb\":%ld,\"pss_after_kb\":%ld", r->pss_before[i], r->pss_after[i]);
    print_each("bytes_per_connection", server_growth(r, i), r->after.counts[COUNT_READY]);
    printf("}");
}

/* Each server, and their sums; a sum lacks a figure that one of them lacks. */
static void print_servers(const struct result *r)
{
    double growth = 0;
    printf(" \"servers\":[");
    for (uint32_t i = 0; i < r->opt->servers; i++) {
        double grew = server_growth(r, i);
        print_server(r, i);
        growth = grew >= 0 && growth >= 0 ? growth + grew : -1;
    }
    bool any = r->opt->servers > 0;
    printf("],\n \"all_servers\":{");
    print_cpu(servers_cpu(r, &r->before, &r->after), any ? grown(r, COUNT_DELIVERED) : 0);
    print_each("bytes_per_connection", growth, any ? r->after.counts[COUNT_READY] : 0);
    printf("}}\n");
}

void report_print(const struct result *r)
{
    print_setting(r);
    print_opened(r);
    print_counts(r);
    print_latency("latency_us", &r->latency[SERIES_MAIN]);
    printf(",\n");
    if (r->opt->mode == MODE_MIX) {
        print_latency("room_latency_us", &r->latency[SERIES_OTHER]);
        printf(",\n");
    }
    if (r->opt->quiet > 0)
        print_quiet(r);
    if (r->opt->mode == MODE_STORM)
        print_storm(r);
    print_own(r);
    print_servers(r);
    fflush(stdout);
}
