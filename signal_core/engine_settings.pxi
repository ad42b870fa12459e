# Included by engine.pyx: the Settings made from a dict, and a reload. Who owns them is in tables/settings.pxd.

cdef void* memory_for(size_t n) except NULL:
    """Allocates n bytes, for the caller to free. Raises MemoryError."""
    cdef void* memory = malloc(n)
    if memory == NULL:
        raise MemoryError("no memory for the engine's settings")
    return memory


cdef char* text_kept(bytes text) except NULL:
    """Copies a text, without a NUL, for the caller to free. Raises MemoryError."""
    cdef char* copy = <char*>memory_for(len(text))
    memcpy(copy, <char*>text, len(text))
    return copy


cdef Settings* settings_new(dict s, uint32_t nloops) except NULL:
    """Returns the settings as a new block, for settings_free. Raises MemoryError, ValueError."""
    cdef Settings* set = <Settings*>calloc(1, sizeof(Settings))
    if set == NULL:
        raise MemoryError("no memory for the engine's settings")
    try:
        fill_texts(set, s)
        fill_site(set, s)
        fill_messages(set, s, nloops)
        fill_connections(set, s)
        fill_auth(set, s, nloops)
        fill_lists(set, s)
        set.hooks = bool(s["hooks"])
        set.memory_trim = s["memory_trim"] and se_malloc_trims()
    except BaseException:
        settings_free(set)
        raise
    return set


cdef fill_texts(Settings* set, dict s):
    """Fills in what clients are told: the URL of a drain, HELLO."""
    cdef bytes text = s["drain_url"].encode()
    if <size_t>len(text) > sizeof(set.drain_url):
        raise ValueError(f"drain_url has {len(text)} bytes: {sizeof(set.drain_url)} at most")
    set.drain_url_len = <uint32_t>len(text)
    memcpy(set.drain_url, <char*>text, set.drain_url_len)
    hello = {"node": s["node"], "version": s["version"], "max_message": s["max_message"],
             "max_rooms": s["max_rooms"], "ping_interval": s["ping_ms"], "ttl": s["ttl_ms"]}
    text = json.dumps(hello, separators=(",", ":")).encode()
    set.hello = text_kept(text)
    set.hello_len = <uint32_t>len(text)


cdef fill_site(Settings* set, dict s):
    """Fills in the settings about requests: their sizes and path."""
    cdef bytes path = s["path"].rstrip("/").encode()
    if <size_t>len(path) >= sizeof(set.site.path):
        raise ValueError(f"path has {len(path)} bytes: {sizeof(set.site.path) - 1} at most")
    set.site.max_line = s["max_request_line"]
    set.site.max_head = s["max_head"]
    set.site.deflate = s["deflate"]
    set.site.path_len = <uint32_t>len(path)
    memcpy(set.site.path, <char*>path, len(path))


cdef fill_messages(Settings* set, dict s, uint32_t nloops):
    """Fills in the settings about messages: their size, rate and life, and how many may wait."""
    set.max_message = s["max_message"]
    set.ordinary = -1 if s["echo"] else s["max_message"]
    set.max_frame = s["max_message"] + HEAD_MAX + 1
    if s["auth"] != "off" and set.max_frame < HEAD_MAX_AUTH:
        set.max_frame = HEAD_MAX_AUTH
    set.max_refs = s["max_refs"]
    set.deflate_least = s["deflate_threshold"] if s["deflate"] else UINT32_MAX
    set.deflate_level = s["deflate_level"]
    set.echo = s["echo"]
    set.message = ticks(s["message_ms"]) if s["message_ms"] else 0
    set.ttl_ms = s["ttl_ms"]
    set.rate = s["max_rate"]
    set.burst = max(s["max_burst"] or s["max_rate"], -(-s["max_rate"] * TICK_MS // 1000))
    set.input_loop = s["input_total"] // nloops
    set.backlog_messages = s["backlog_messages"]
    set.backlog_bytes = s["backlog_bytes"]
    set.backlog_loop = s["backlog_total"] // nloops
    set.nats_pending = s["nats_pending"]


cdef fill_connections(Settings* set, dict s):
    """Fills in the settings about connections: their number, pace, times and buffers."""
    set.max_rooms = s["max_rooms"]
    set.max_connections = s["max_connections"]
    set.max_per_address = s["max_connections_per_address"]
    set.max_per_user = s["max_connections_per_user"]
    set.accept_interval = 1000000000 // s["accept_rate"] if s["accept_rate"] else 0
    if s["accept_yield"]:
        set.yield_shortest = 1000000000 // (YIELD_MOST * s["processors"])
        set.yield_longest = 1000000000 // (YIELD_LEAST * s["processors"])
    set.handshake = ticks(s["handshake_ms"])
    set.ping = ticks(s["ping_ms"])
    set.pong = ticks(s["pong_ms"])
    set.stall = ticks(s["stall_ms"])
    set.close = ticks(s["close_ms"])
    set.send_buffer = s["send_buffer"]
    set.receive_buffer = s["receive_buffer"]


cdef fill_auth(Settings* set, dict s, uint32_t nloops):
    """Fills in the settings about tokens."""
    set.auth = {"off": AUTH_OFF, "jwt": AUTH_TOKEN, "callback": AUTH_ANY}[s["auth"]]
    set.auth_patience = ticks(s["auth_timeout_ms"])
    set.auth_grace = <uint32_t>(s["auth_grace_ms"] // TICK_MS)
    set.auth_pending = max(1, s["auth_pending"] // nloops)


cdef fill_lists(Settings* set, dict s):
    """Fills in the allowed origins and the trusted proxies."""
    cdef uint32_t i
    cdef bytes text
    set.proxy_protocol = s["proxy_protocol"]
    if s["origins"]:
        text = b"".join(origin.lower().encode() + b"\n" for origin in s["origins"])
        set.origins = text_kept(text)
        set.origins_len = <uint32_t>len(text)
    if s["proxies"]:
        set.proxies = <Network*>memory_for(len(s["proxies"]) * sizeof(Network))
        set.nproxies = <uint32_t>len(s["proxies"])
        for i, (address, bits) in enumerate(s["proxies"]):
            memcpy(set.proxies[i].address, <char*><bytes>address, ADDRESS_BYTES)
            set.proxies[i].bits = bits


cdef dict settings_dict(const Settings* set):
    """The content of a block."""
    cdef uint32_t i
    proxies = [(bytes(set.proxies[i].address[:ADDRESS_BYTES]), set.proxies[i].bits) for i in range(set.nproxies)]
    return {
        "max_line": set.site.max_line, "max_head": set.site.max_head,
        "path": bytes_of(span_of(set.site.path, set.site.path_len)),
        "hello": bytes_of(span_of(set.hello, set.hello_len)),
        "origins": bytes_of(span_of(set.origins, set.origins_len)) if set.origins != NULL else None,
        "drain_url": bytes_of(span_of(set.drain_url, set.drain_url_len)), "proxies": proxies,
        "proxy_protocol": set.proxy_protocol, "deflate": set.site.deflate, "deflate_least": set.deflate_least,
        "deflate_level": set.deflate_level, "echo": set.echo,
        "max_message": set.max_message, "max_frame": set.max_frame, "max_rooms": set.max_rooms,
        "max_refs": set.max_refs, "handshake": set.handshake, "ping": set.ping, "pong": set.pong,
        "stall": set.stall, "message": set.message, "close": set.close, "ttl_ms": set.ttl_ms,
        "backlog_messages": set.backlog_messages, "backlog_bytes": set.backlog_bytes,
        "backlog_loop": set.backlog_loop, "send_buffer": set.send_buffer, "receive_buffer": set.receive_buffer,
        "max_connections": set.max_connections, "max_per_address": set.max_per_address,
        "max_per_user": set.max_per_user, "accept_interval": set.accept_interval,
        "yield_shortest": set.yield_shortest, "yield_longest": set.yield_longest, "rate": set.rate,
        "burst": set.burst, "input_loop": set.input_loop, "nats_pending": set.nats_pending, "hooks": set.hooks,
        "memory_trim": set.memory_trim, "auth": set.auth, "auth_patience": set.auth_patience,
        "auth_grace": set.auth_grace, "auth_pending": set.auth_pending,
    }
