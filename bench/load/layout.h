/* Which thread holds which connections, from which address, and in which rooms they are. Connections are numbered
 * through all threads. */
#ifndef LOAD_LAYOUT_H
#define LOAD_LAYOUT_H

#include <stdint.h>

enum {
    NO_ROOM = -1,
    PORTS_AN_ADDRESS = 4096,  /* connects from one source address: ports are found fast, none runs out */
};

struct share {
    uint32_t first, count;
};

/* Returns one of `parts` shares: units stay whole, and a share has at most one more than another. */
static inline struct share layout_share(uint32_t units, uint32_t unit, uint32_t parts, uint32_t part)
{
    uint32_t each = units / parts, more = units % parts;
    uint32_t before = each * part + (part < more ? part : more);
    return (struct share){before * unit, (each + (part < more)) * unit};
}

/* Every `stride`th connection is in a room, until all rooms have their members; the first member publishes. */
struct rooms {
    uint32_t count, members, stride;
};

static inline int32_t layout_room(const struct rooms *rooms, uint32_t connection)
{
    if (!rooms->count || connection % rooms->stride)
        return NO_ROOM;
    uint32_t room = connection / rooms->stride / rooms->members;
    return room < rooms->count ? (int32_t)room : NO_ROOM;
}

static inline uint32_t layout_publisher(const struct rooms *rooms, uint32_t room)
{
    return room * rooms->members * rooms->stride;
}

/* Returns the rooms whose publisher is one of these connections. */
static inline struct share layout_published(const struct rooms *rooms, struct share of)
{
    uint32_t each = rooms->members * rooms->stride;
    if (!rooms->count)
        return (struct share){0, 0};
    uint32_t first = (of.first + each - 1) / each, end = (of.first + of.count + each - 1) / each;
    first = first < rooms->count ? first : rooms->count;
    end = end < rooms->count ? end : rooms->count;
    return (struct share){first, end - first};
}

/* Returns the source address of a thread's `turn`th connect on loopback. Threads share none, because an address has too
 * few ports. 127.64.0.0/10 has addresses for 256 threads of 60 million connects each. */
static inline uint32_t layout_source(uint32_t thread, uint32_t turn)
{
    uint32_t number = turn / PORTS_AN_ADDRESS;
    uint32_t second = 64 + thread % 64, third = 1 + thread / 64 % 4 * 60 + number / 250 % 60;
    return 127U << 24 | second << 16 | third << 8 | (number % 250 + 1);
}

#endif
