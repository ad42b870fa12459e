# Python wrappers of the pure functions for tokens, origins and addresses. For probe.pyx, after probe_ws.pxi.

from signal_core.base.limits cimport ADDRESS_BYTES
from signal_core.client.origin cimport origin_matches as c_origin_matches
from signal_core.client.remote_addr cimport remote_addr_parse as c_address_parse
from signal_core.tables.acl cimport (
    Rights, rights_are as c_rights_are, rights_are_whole as c_rights_are_whole, rights_new as c_rights_new,
    rights_publish as c_rights_publish, rights_release, rights_sub as c_rights_sub,
)
from signal_core.wire.proxy_protocol cimport ProxyHeader, proxy_header_parse as c_proxy_header_parse
from signal_core.wire.handshake cimport (
    TOKEN_BEARER, TOKEN_PROTOCOL, TOKEN_QUERY, upgrade_token_decode as c_token_decode,
)


def rights_are_whole(bytes text):
    cdef uint8_t* p = ws_copy(text)
    whole = c_rights_are_whole(span_of(p, len(text)))
    free(p)
    return bool(whole)


def rights_allow(bytes text, bytes room):
    """Returns (may join, may publish) for encoded rights that are whole."""
    cdef uint8_t* p = ws_copy(text)
    cdef uint8_t* name = ws_copy(room)
    cdef Rights* rights = c_rights_new(span_of(p, len(text)))
    if rights == NULL:
        raise MemoryError
    answer = (bool(c_rights_sub(rights, span_of(name, len(room)))),
              bool(c_rights_publish(rights, span_of(name, len(room)))))
    same = c_rights_are(rights, span_of(p, len(text)))
    rights_release(rights)
    free(p)
    free(name)
    return answer if same else None


def origin_matches(bytes rule, bytes origin):
    cdef uint8_t* r = ws_copy(rule)
    cdef uint8_t* o = ws_copy(origin)
    matches = c_origin_matches(span_of(r, len(rule)), span_of(o, len(origin)))
    free(r)
    free(o)
    return bool(matches)


def token_decode(str source, bytes token):
    """Returns the token, None if it is malformed. `source`: bearer, protocol or query."""
    cdef uint8_t kind = {"bearer": TOKEN_BEARER, "protocol": TOKEN_PROTOCOL, "query": TOKEN_QUERY}[source]
    cdef uint8_t* p = ws_copy(token)
    cdef uint8_t* out = ws_copy(token)
    cdef int size = c_token_decode(kind, span_of(p, len(token)), <char*>out)
    decoded = None if size < 0 else out[:size]
    free(p)
    free(out)
    return decoded


def address_parse(bytes text):
    """Returns 16 bytes, None if it is no address."""
    cdef uint8_t address[ADDRESS_BYTES]
    cdef uint8_t* p = ws_copy(text)
    good = c_address_parse(span_of(p, len(text)), address)
    free(p)
    return address[:16] if good else None


def proxy_header_parse(bytes text):
    """Returns (result, family, address of 16 bytes, port) of a PROXY protocol header."""
    cdef ProxyHeader header
    cdef uint8_t* p = ws_copy(text)
    result = c_proxy_header_parse(span_of(p, len(text)), &header)
    free(p)
    return result, header.family, header.source[:ADDRESS_BYTES], header.port
