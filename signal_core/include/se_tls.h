/* TLS of the NATS link, by the system's OpenSSL. It is loaded at first use: an engine without TLS needs none, and
 * the build needs no headers. The control thread makes contexts and sessions; the link's loop then owns the session.
 * Source: OpenSSL's manual, section 3; RFC 8446. */
#ifndef SE_TLS_H
#define SE_TLS_H

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Result of a step of a session; above 0: bytes, or done. */
enum {
    SE_TLS_CLOSED = 0,
    SE_TLS_FAILED = -1,
    SE_TLS_WANTS_READ = -2,
    SE_TLS_WANTS_WRITE = -3,
};

/* OpenSSL's constants (ssl.h, tls1.h): part of its ABI. */
enum {
    SE_SSL_FILETYPE_PEM = 1,
    SE_SSL_VERIFY_PEER = 1,
    SE_SSL_ERROR_WANT_READ = 2,
    SE_SSL_ERROR_WANT_WRITE = 3,
    SE_SSL_ERROR_ZERO_RETURN = 6,
    SE_SSL_CTRL_MODE = 33,
    SE_SSL_CTRL_SET_READ_AHEAD = 41,
    SE_SSL_CTRL_SET_TLSEXT_HOSTNAME = 55,
    SE_SSL_CTRL_SET_MIN_PROTO_VERSION = 123,
    SE_SSL_MODE_PARTIAL_AND_MOVING = 3,
    SE_SSL_OP_NO_RENEGOTIATION = 1 << 30,
    SE_TLS1_2_VERSION = 0x0303,
};

/* OpenSSL's functions: all pointers are set, or none. */
static struct {
    const void *(*TLS_client_method)(void);
    void *(*SSL_CTX_new)(const void *);
    void (*SSL_CTX_free)(void *);
    long (*SSL_CTX_ctrl)(void *, int, long, void *);
    uint64_t (*SSL_CTX_set_options)(void *, uint64_t);
    void (*SSL_CTX_set_verify)(void *, int, void *);
    int (*SSL_CTX_set_default_verify_paths)(void *);
    int (*SSL_CTX_load_verify_locations)(void *, const char *, const char *);
    int (*SSL_CTX_use_certificate_chain_file)(void *, const char *);
    void (*SSL_CTX_set_default_passwd_cb)(void *, int (*)(char *, int, int, void *));
    int (*SSL_CTX_use_PrivateKey_file)(void *, const char *, int);
    int (*SSL_CTX_check_private_key)(const void *);
    void *(*SSL_new)(void *);
    void (*SSL_free)(void *);
    int (*SSL_set_fd)(void *, int);
    long (*SSL_ctrl)(void *, int, long, void *);
    int (*SSL_set1_host)(void *, const char *);
    void *(*SSL_get0_param)(void *);
    int (*X509_VERIFY_PARAM_set1_ip_asc)(void *, const char *);
    int (*SSL_connect)(void *);
    int (*SSL_read)(void *, void *, int);
    int (*SSL_write)(void *, const void *, int);
    int (*SSL_shutdown)(void *);
    int (*SSL_get_error)(const void *, int);
    long (*SSL_get_verify_result)(const void *);
    const char *(*X509_verify_cert_error_string)(long);
    unsigned long (*ERR_get_error)(void);
    void (*ERR_clear_error)(void);
    const char *(*ERR_reason_error_string)(unsigned long);
} se_ssl;

static inline int se_tls_bind(void *library)
{
    static const char *const names[] = {
        "TLS_client_method", "SSL_CTX_new", "SSL_CTX_free", "SSL_CTX_ctrl", "SSL_CTX_set_options", "SSL_CTX_set_verify",
        "SSL_CTX_set_default_verify_paths", "SSL_CTX_load_verify_locations", "SSL_CTX_use_certificate_chain_file",
        "SSL_CTX_set_default_passwd_cb",
        "SSL_CTX_use_PrivateKey_file", "SSL_CTX_check_private_key", "SSL_new", "SSL_free", "SSL_set_fd", "SSL_ctrl",
        "SSL_set1_host", "SSL_get0_param", "X509_VERIFY_PARAM_set1_ip_asc", "SSL_connect", "SSL_read", "SSL_write",
        "SSL_shutdown", "SSL_get_error", "SSL_get_verify_result", "X509_verify_cert_error_string", "ERR_get_error",
        "ERR_clear_error", "ERR_reason_error_string",
    };
    void *found[sizeof names / sizeof *names];
    _Static_assert(sizeof found == sizeof se_ssl, "a name for each function");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        found[i] = dlsym(library, names[i]);
        if (found[i] == NULL)
            return 0;
    }
    memcpy(&se_ssl, found, sizeof found);
    return 1;
}

/* Whether OpenSSL 1.1 or newer is loaded; loads it if not. Call it with the GIL. */
static inline int se_tls_load(void)
{
    static const char *const libraries[] = {"libssl.so.3", "libssl.so.1.1", "libssl.so"};
    for (size_t i = 0; se_ssl.SSL_new == NULL && i < sizeof libraries / sizeof *libraries; i++) {
        void *library = dlopen(libraries[i], RTLD_NOW | RTLD_LOCAL);
        if (library != NULL && !se_tls_bind(library))
            dlclose(library);
    }
    return se_ssl.SSL_new != NULL;
}

/* Writes the oldest reason in the thread's OpenSSL error queue, and clears the queue. */
static inline void se_tls_reason(char *out, size_t room)
{
    unsigned long code = se_ssl.ERR_get_error();
    const char *reason = code ? se_ssl.ERR_reason_error_string(code) : NULL;
    snprintf(out, room, "%s", reason ? reason : "unknown");
    se_ssl.ERR_clear_error();
}

/* Answers that a key has no passphrase. OpenSSL's default would prompt on the terminal, and wait. */
static int se_tls_no_passphrase(char *out, int room, int for_writing, void *argument)
{
    (void)out, (void)room, (void)for_writing, (void)argument;
    return -1;
}

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
