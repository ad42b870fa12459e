/* TLS of the NATS link, by the system's OpenSSL. It is loaded at first use: an engine without TLS needs none, and
 * the build needs no headers. The control thread makes contexts and sessions; the link's loop then owns the session.
 * Source: OpenSSL's manual, section 3; RFC 8446. */
#ifndef SE_TLS_H
#define SE_TLS_H

#include "se_openssl.h"

/* Result of a step of a session; above 0: bytes, or done. */
enum {
    SE_TLS_CLOSED = 0,
    SE_TLS_FAILED = -1,
    SE_TLS_WANTS_READ = -2,
    SE_TLS_WANTS_WRITE = -3,
};

/* Returns a client context that verifies the server with the certificates in the file `ca`, or the system's if it is
 * "". `cert` and `key` are the files of a client certificate, or "". NULL on failure: `wrong` is then "ca", "cert",
 * "key" or "library", and `reason` says why. */
static inline void *se_tls_context(const char *ca, const char *cert, const char *key, const char **wrong, char *reason,
                                   size_t room)
{
    se_ssl.ERR_clear_error();
    void *context = se_ssl.SSL_CTX_new(se_ssl.TLS_client_method());
    *wrong = "library";
    if (context != NULL) {
        se_ssl.SSL_CTX_ctrl(context, SE_SSL_CTRL_SET_MIN_PROTO_VERSION, SE_TLS1_2_VERSION, NULL);
        se_ssl.SSL_CTX_ctrl(context, SE_SSL_CTRL_MODE, SE_SSL_MODE_PARTIAL_AND_MOVING, NULL);
        se_ssl.SSL_CTX_ctrl(context, SE_SSL_CTRL_SET_READ_AHEAD, 1, NULL);
        /* TLS 1.2: the server cannot start a second handshake; nats-server never does. */
        se_ssl.SSL_CTX_set_options(context, SE_SSL_OP_NO_RENEGOTIATION);
        se_ssl.SSL_CTX_set_verify(context, SE_SSL_VERIFY_PEER, NULL);
        se_ssl.SSL_CTX_set_default_passwd_cb(context, se_tls_no_passphrase);
        *wrong = NULL;
        if (!(*ca ? se_ssl.SSL_CTX_load_verify_locations(context, ca, NULL)
                  : se_ssl.SSL_CTX_set_default_verify_paths(context)))
            *wrong = "ca";
        else if (*cert && se_ssl.SSL_CTX_use_certificate_chain_file(context, cert) != 1)
            *wrong = "cert";
        else if (*key && (se_ssl.SSL_CTX_use_PrivateKey_file(context, key, SE_SSL_FILETYPE_PEM) != 1 ||
                          se_ssl.SSL_CTX_check_private_key(context) != 1))
            *wrong = "key";
        if (*wrong == NULL)
            return context;
        se_tls_reason(reason, room);
        se_ssl.SSL_CTX_free(context);
        return NULL;
    }
    se_tls_reason(reason, room);
    return NULL;
}

/* Returns a session that accepts only a certificate for `name`, a host name or an IP address. NULL without memory, or
 * if OpenSSL refuses the name. */
static inline void *se_tls_session(void *context, const char *name, int is_ip)
{
    void *session = se_ssl.SSL_new(context);
    if (session == NULL)
        return NULL;
    int good = is_ip ? se_ssl.X509_VERIFY_PARAM_set1_ip_asc(se_ssl.SSL_get0_param(session), name)
                     : se_ssl.SSL_set1_host(session, name) &&
                           se_ssl.SSL_ctrl(session, SE_SSL_CTRL_SET_TLSEXT_HOSTNAME, 0, (void *)(size_t)name) == 1;
    if (good)
        return session;
    se_ssl.SSL_free(session);
    return NULL;
}

static inline int se_tls_result(void *session, int got)
{
    if (got > 0)
        return got;
    switch (se_ssl.SSL_get_error(session, got)) {
    case SE_SSL_ERROR_WANT_READ: return SE_TLS_WANTS_READ;
    case SE_SSL_ERROR_WANT_WRITE: return SE_TLS_WANTS_WRITE;
    case SE_SSL_ERROR_ZERO_RETURN: return SE_TLS_CLOSED;
    default: return SE_TLS_FAILED;
    }
}

/* Gives a session its non-blocking socket, before the handshake. se_tls_free does not close the socket. */
static inline void se_tls_attach(void *session, int fd)
{
    se_ssl.SSL_set_fd(session, fd);
}

/* Goes on with the handshake. Returns 1 when done, SE_TLS_WANTS_…, or another SE_TLS_… whose `reason` says why. */
static inline int se_tls_handshake(void *session, char *reason, size_t room)
{
    se_ssl.ERR_clear_error();
    int result = se_tls_result(session, se_ssl.SSL_connect(session));
    if (result == SE_TLS_CLOSED || result == SE_TLS_FAILED) {
        long verdict = se_ssl.SSL_get_verify_result(session);
        if (verdict != 0) {
            snprintf(reason, room, "%s", se_ssl.X509_verify_cert_error_string(verdict));
            se_ssl.ERR_clear_error();
        } else {
            se_tls_reason(reason, room);
        }
    }
    return result;
}

/* Returns the bytes read, or SE_TLS_…. Read until SE_TLS_WANTS_…: epoll does not report what the session holds. */
static inline int se_tls_read(void *session, void *out, size_t n)
{
    se_ssl.ERR_clear_error();
    return se_tls_result(session, se_ssl.SSL_read(session, out, (int)n));
}

/* Returns the bytes taken, or SE_TLS_…. After SE_TLS_WANTS_… the next call must begin with the same bytes, at least as
 * many. */
static inline int se_tls_write(void *session, const void *bytes, size_t n)
{
    se_ssl.ERR_clear_error();
    return se_tls_result(session, se_ssl.SSL_write(session, bytes, (int)n));
}

static inline void se_tls_context_free(void *context)
{
    se_ssl.SSL_CTX_free(context);
}

/* Sends close_notify if the socket takes it at once, and frees the session. */
static inline void se_tls_free(void *session)
{
    se_ssl.ERR_clear_error();
    se_ssl.SSL_shutdown(session);
    se_ssl.ERR_clear_error();
    se_ssl.SSL_free(session);
}

#endif
