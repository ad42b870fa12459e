/* TLS 1.3 handshakes of clients, by the system's OpenSSL, in memory. The control thread makes a server set; a loop has
 * one io, which its handshakes share. After the handshake the caller has the secrets, and frees the session: the
 * records that follow are its own. All functions need se_server_load's 1.
 * Source: RFC 8446, OpenSSL's manual, section 3. */
#ifndef SE_TLS_SERVER_H
#define SE_TLS_SERVER_H

#include <stdlib.h>

#include "se_openssl.h"

enum {
    SE_SERVER_SECRET = 48,      /* most bytes of a traffic secret */
    SE_SERVER_OUT_MOST = 65536, /* bytes that a step may send: a chain of certificates fits */
    SE_SERVER_REASON = 128,

    /* Results of se_server_step */
    SE_SERVER_MORE = 0,
    SE_SERVER_DONE_13 = 1,
    SE_SERVER_FAILED = -1,

    /* OpenSSL's constants (bio.h, ssl.h): part of its ABI. */
    SE_BIO_TYPE_SOURCE_SINK = 0x0400,
    SE_BIO_CTRL_FLUSH = 11,
    SE_BIO_FLAGS_RWS = 0x07,
    SE_BIO_FLAGS_READ = 0x01,
    SE_BIO_FLAGS_SHOULD_RETRY = 0x08,
    SE_SSL_CTRL_SET_SESS_CACHE_MODE = 44,
    SE_SSL_OP_NO_COMPRESSION = 1 << 17,
    SE_TLS1_3_VERSION = 0x0304,
    SE_TLS_RECORD_HEAD = 5,
    SE_TLS_RECORD_SEALED = 23, /* the outer type of encrypted records */
};

/* OpenSSL's functions for servers, besides those of se_ssl: all pointers are set, or none. */
static struct {
    const void *(*TLS_server_method)(void);
    void (*SSL_CTX_set_keylog_callback)(void *, void (*)(const void *, const char *));
    int (*SSL_CTX_set_session_id_context)(void *, const unsigned char *, unsigned int);
    int (*SSL_CTX_set_ciphersuites)(void *, const char *);
    void (*SSL_set_bio)(void *, void *, void *);
    void *(*SSL_get_rbio)(const void *);
    int (*SSL_accept)(void *);
    int (*SSL_has_pending)(const void *);
    const void *(*SSL_get_current_cipher)(const void *);
    uint32_t (*SSL_CIPHER_get_id)(const void *);
    int (*SSL_session_reused)(const void *);
    int (*BIO_get_new_index)(void);
    void *(*BIO_meth_new)(int, const char *);
    int (*BIO_meth_set_read)(void *, int (*)(void *, char *, int));
    int (*BIO_meth_set_write)(void *, int (*)(void *, const char *, int));
    int (*BIO_meth_set_ctrl)(void *, long (*)(void *, int, long, void *));
    void *(*BIO_new)(const void *);
    int (*BIO_free)(void *);
    int (*BIO_up_ref)(void *);
    void (*BIO_set_init)(void *, int);
    void (*BIO_set_data)(void *, void *);
    void *(*BIO_get_data)(void *);
    void (*BIO_set_flags)(void *, int);
    void (*BIO_clear_flags)(void *, int);
    void (*OPENSSL_cleanse)(void *, size_t);
} se_server;

/* Whether OpenSSL 1.1.1 or newer is loaded; loads it if not. Call it with the GIL. */
static inline int se_server_load(void)
{
    static const char *const names[] = {
        "TLS_server_method", "SSL_CTX_set_keylog_callback", "SSL_CTX_set_session_id_context",
        "SSL_CTX_set_ciphersuites", "SSL_set_bio", "SSL_get_rbio", "SSL_accept", "SSL_has_pending",
        "SSL_get_current_cipher", "SSL_CIPHER_get_id", "SSL_session_reused", "BIO_get_new_index", "BIO_meth_new",
        "BIO_meth_set_read", "BIO_meth_set_write", "BIO_meth_set_ctrl", "BIO_new", "BIO_free", "BIO_up_ref",
        "BIO_set_init", "BIO_set_data", "BIO_get_data", "BIO_set_flags", "BIO_clear_flags", "OPENSSL_cleanse",
    };
    _Static_assert(sizeof names == sizeof se_server, "a name for each function");
    return se_server.TLS_server_method != NULL ||
           (se_tls_load() && se_library_bind(se_ssl_library, names, sizeof names / sizeof *names, &se_server));
}

/* Those that se_crypto.h has, in OpenSSL's order: its configuration file may name others. */
static const char se_server_suites[] =
    "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256";

/* What the caller takes over of one session. It keeps it from the first step to the last, zeroed at first. */
struct se_server_taken {
    uint8_t client[SE_SERVER_SECRET]; /* client_application_traffic_secret_0 */
    uint8_t server[SE_SERVER_SECRET];
    uint32_t written; /* records under the server's secret that are in io.out already: tickets */
    uint8_t told;     /* secrets that OpenSSL told: 1 the client's, 2 the server's */
    uint8_t suite;    /* the low byte of its number (RFC 8446 §B.4) */
    uint8_t resumed;
};

/* The memory BIO of one loop. Only one step runs at a time; `out` is valid until the next. */
struct se_server_io {
    void *bio;
    const uint8_t *in;
    size_t in_size;
    size_t out_size;
    struct se_server_taken *taken; /* of the session whose step runs */
    int overflowed;                /* it had more to send than `out` takes */
    char reason[SE_SERVER_REASON]; /* why the last step failed */
    uint8_t out[SE_SERVER_OUT_MOST];
};

static int _se_server_bio_read(void *bio, char *out, int n)
{
    struct se_server_io *io = (struct se_server_io *)se_server.BIO_get_data(bio);
    se_server.BIO_clear_flags(bio, SE_BIO_FLAGS_RWS | SE_BIO_FLAGS_SHOULD_RETRY);
    if (n <= 0)
        return 0;
    if (io->in_size == 0) {
        se_server.BIO_set_flags(bio, SE_BIO_FLAGS_READ | SE_BIO_FLAGS_SHOULD_RETRY);
        return -1;
    }
    size_t taken = (size_t)n < io->in_size ? (size_t)n : io->in_size;
    memcpy(out, io->in, taken);
    io->in += taken;
    io->in_size -= taken;
    return (int)taken;
}

static int _se_server_bio_write(void *bio, const char *bytes, int n)
{
    struct se_server_io *io = (struct se_server_io *)se_server.BIO_get_data(bio);
    se_server.BIO_clear_flags(bio, SE_BIO_FLAGS_RWS | SE_BIO_FLAGS_SHOULD_RETRY);
    if (n <= 0 || (size_t)n > SE_SERVER_OUT_MOST - io->out_size) {
        io->overflowed = 1;
        return -1;
    }
    memcpy(io->out + io->out_size, bytes, (size_t)n);
    io->out_size += (size_t)n;
    return n;
}

static long _se_server_bio_ctrl(void *bio, int command, long number, void *argument)
{
    (void)bio, (void)number, (void)argument;
    return command == SE_BIO_CTRL_FLUSH;
}

/* Frees an io. Sessions that are left keep a dangling pointer: free them first. */
static inline void se_server_io_free(struct se_server_io *io)
{
    if (io == NULL)
        return;
    if (io->bio != NULL)
        se_server.BIO_free(io->bio);
    free(io);
}

/* Returns the kind of all ios' BIOs, which is made once: a process has 128 numbers for such kinds. NULL: no memory. */
static inline void *_se_server_method(void)
{
    static void *made;
    if (made == NULL && (made = se_server.BIO_meth_new(se_server.BIO_get_new_index() | SE_BIO_TYPE_SOURCE_SINK,
                                                    "signal-engine")) != NULL) {
        se_server.BIO_meth_set_read(made, _se_server_bio_read);
        se_server.BIO_meth_set_write(made, _se_server_bio_write);
        se_server.BIO_meth_set_ctrl(made, _se_server_bio_ctrl);
    }
    return made;
}

/* Returns the io of a loop. NULL: no memory. Call it with the GIL. */
static inline struct se_server_io *se_server_io_new(void)
{
    struct se_server_io *io = (struct se_server_io *)calloc(1, sizeof *io);
    if (io == NULL)
        return NULL;
    if (_se_server_method() != NULL)
        io->bio = se_server.BIO_new(_se_server_method());
    if (io->bio == NULL) {
        se_server_io_free(io);
        return NULL;
    }
    se_server.BIO_set_data(io->bio, io);
    se_server.BIO_set_init(io->bio, 1);
    return io;
}

static inline int _se_server_nibble(char c)
{
    const char *const digits = "0123456789abcdef";
    const char *found = c ? strchr(digits, c | 0x20) : NULL; /* letters of either case */
    return found ? (int)(found - digits) : -1;
}

/* Reads the secret behind the client's random: "LABEL random secret", in hexadecimal. Returns its bytes. */
static inline size_t _se_server_secret(const char *line, uint8_t *out)
{
    const char *p = strrchr(line, ' ');
    size_t n = 0;
    for (p = p ? p + 1 : ""; n < SE_SERVER_SECRET && p[0] && p[1]; p += 2) {
        int high = _se_server_nibble(p[0]), low = _se_server_nibble(p[1]);
        if (high < 0 || low < 0)
            return 0;
        out[n++] = (uint8_t)(high << 4 | low);
    }
    return n;
}

/* OpenSSL tells secrets as lines of an SSLKEYLOGFILE. */
static void _se_server_keylog(const void *ssl, const char *line)
{
    static const char client[] = "CLIENT_TRAFFIC_SECRET_0 ", server[] = "SERVER_TRAFFIC_SECRET_0 ";
    struct se_server_io *io = (struct se_server_io *)se_server.BIO_get_data(se_server.SSL_get_rbio(ssl));
    if (strncmp(line, client, sizeof client - 1) == 0 && _se_server_secret(line, io->taken->client))
        io->taken->told |= 1;
    else if (strncmp(line, server, sizeof server - 1) == 0 && _se_server_secret(line, io->taken->server))
        io->taken->told |= 2;
}

/* Returns a server set of the certificate chain in the file `cert` and its key in the file `key`. NULL on failure:
 * `wrong` is then "cert", "key" or "library", and `reason` says why. Free it with se_server_set_free: sessions that
 * are left keep what they need. Call both with the GIL. */
static inline void *se_server_set_new(const char *cert, const char *key, const char **wrong, char *reason, size_t room)
{
    se_ssl.ERR_clear_error();
    void *set = se_ssl.SSL_CTX_new(se_server.TLS_server_method());
    *wrong = "library";
    if (set != NULL && se_ssl.SSL_CTX_ctrl(set, SE_SSL_CTRL_SET_MIN_PROTO_VERSION, SE_TLS1_3_VERSION, NULL) == 1 &&
        se_server.SSL_CTX_set_session_id_context(set, (const unsigned char *)"signal-engine", 13) == 1 &&
        se_server.SSL_CTX_set_ciphersuites(set, se_server_suites) == 1) {
        se_ssl.SSL_CTX_ctrl(set, SE_SSL_CTRL_SET_SESS_CACHE_MODE, 0, NULL);
        /* The caller gets what is behind the client's Finished: OpenSSL must not read ahead. */
        se_ssl.SSL_CTX_ctrl(set, SE_SSL_CTRL_SET_READ_AHEAD, 0, NULL);
        se_ssl.SSL_CTX_set_options(set, SE_SSL_OP_NO_RENEGOTIATION | SE_SSL_OP_NO_COMPRESSION);
        se_server.SSL_CTX_set_keylog_callback(set, _se_server_keylog);
        se_ssl.SSL_CTX_set_default_passwd_cb(set, se_tls_no_passphrase);
        if (se_ssl.SSL_CTX_use_certificate_chain_file(set, cert) != 1)
            *wrong = "cert";
        else if (se_ssl.SSL_CTX_use_PrivateKey_file(set, key, SE_SSL_FILETYPE_PEM) != 1 ||
                 se_ssl.SSL_CTX_check_private_key(set) != 1)
            *wrong = "key";
        else
            return set;
    }
    se_tls_reason(reason, room);
    se_ssl.SSL_CTX_free(set);
    return NULL;
}

static inline void se_server_set_free(void *set)
{
    se_ssl.SSL_CTX_free(set);
}

/* Returns a session for se_server_step, on the loop's io. NULL: no memory. */
static inline void *se_server_session_new(void *set, struct se_server_io *io)
{
    void *ssl = se_ssl.SSL_new(set);
    if (ssl == NULL)
        return NULL;
    se_server.BIO_up_ref(io->bio);
    se_server.SSL_set_bio(ssl, io->bio, io->bio);
    return ssl;
}

/* Frees a session, in a handshake or after it. Sends nothing. */
static inline void se_server_session_free(void *ssl)
{
    se_ssl.SSL_free(ssl);
}

/* Overwrites the secrets. */
static inline void se_server_taken_wipe(struct se_server_taken *taken)
{
    se_server.OPENSSL_cleanse(taken, sizeof *taken);
}

/* Counts the encrypted records in what OpenSSL wrote. */
static inline uint32_t _se_server_records(const uint8_t *p, size_t n)
{
    uint32_t count = 0;
    for (size_t at = 0; at + SE_TLS_RECORD_HEAD <= n; at += SE_TLS_RECORD_HEAD + ((size_t)p[at + 3] << 8 | p[at + 4]))
        count += p[at] == SE_TLS_RECORD_SEALED;
    return count;
}

/* Fills in what is known at the end of a handshake. The step that ends it has read the client's Finished, so all that
 * it wrote is under the application secret. */
static inline int _se_server_done(struct se_server_io *io, void *ssl)
{
    if (io->taken->told != 3 || se_server.SSL_has_pending(ssl)) {
        snprintf(io->reason, sizeof io->reason, "%s", "OpenSSL keeps what must be taken over");
        return SE_SERVER_FAILED;
    }
    io->taken->suite = (uint8_t)se_server.SSL_CIPHER_get_id(se_server.SSL_get_current_cipher(ssl));
    io->taken->resumed = se_server.SSL_session_reused(ssl) == 1;
    io->taken->written = _se_server_records(io->out, io->out_size);
    return SE_SERVER_DONE_13;
}

/* Goes on with a handshake: feeds the n bytes of `in`. io.out then holds io.out_size bytes to send, after a failure, an
 * alert, too. `used` bytes of `in` are the handshake's; after SE_SERVER_DONE_13 the rest is the caller's. Returns
 * SE_SERVER_…; after SE_SERVER_FAILED io.reason says why. Don't step a session that is done or has failed. */
static inline int se_server_step(struct se_server_io *io, void *ssl, const uint8_t *in, size_t n, size_t *used,
                                 struct se_server_taken *taken)
{
    io->in = in;
    io->in_size = n;
    io->out_size = 0;
    io->taken = taken;
    io->overflowed = 0;
    io->reason[0] = '\0';
    se_ssl.ERR_clear_error();
    int got = se_server.SSL_accept(ssl), result = SE_SERVER_MORE;
    if (got == 1) {
        result = _se_server_done(io, ssl);
    } else if (se_ssl.SSL_get_error(ssl, got) != SE_SSL_ERROR_WANT_READ) {
        se_tls_reason(io->reason, sizeof io->reason);
        if (io->overflowed)
            snprintf(io->reason, sizeof io->reason, "%s", "the certificate chain is too long");
        result = SE_SERVER_FAILED;
    }
    *used = n - io->in_size;
    io->in = NULL;
    io->in_size = 0;
    io->taken = NULL;
    return result;
}

#endif
