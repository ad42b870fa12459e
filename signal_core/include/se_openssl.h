/* The system's OpenSSL, for TLS of the NATS link and of clients.
 * Source: OpenSSL's manual, section 3. */
#ifndef SE_OPENSSL_H
#define SE_OPENSSL_H

#include <stdint.h>
#include <stdio.h>

#include "se_library.h"

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

/* The libssl that they are from; NULL: not loaded yet. */
static void *se_ssl_library;

/* Whether OpenSSL 1.1 or newer is loaded; loads it if not. Call it with the GIL. */
static inline int se_tls_load(void)
{
    static const char *const libraries[] = {"libssl.so.3", "libssl.so.1.1", "libssl.so", NULL};
    static const char *const names[] = {
        "TLS_client_method", "SSL_CTX_new", "SSL_CTX_free", "SSL_CTX_ctrl", "SSL_CTX_set_options", "SSL_CTX_set_verify",
        "SSL_CTX_set_default_verify_paths", "SSL_CTX_load_verify_locations", "SSL_CTX_use_certificate_chain_file",
        "SSL_CTX_set_default_passwd_cb",
        "SSL_CTX_use_PrivateKey_file", "SSL_CTX_check_private_key", "SSL_new", "SSL_free", "SSL_set_fd", "SSL_ctrl",
        "SSL_set1_host", "SSL_get0_param", "X509_VERIFY_PARAM_set1_ip_asc", "SSL_connect", "SSL_read", "SSL_write",
        "SSL_shutdown", "SSL_get_error", "SSL_get_verify_result", "X509_verify_cert_error_string", "ERR_get_error",
        "ERR_clear_error", "ERR_reason_error_string",
    };
    _Static_assert(sizeof names == sizeof se_ssl, "a name for each function");
    if (se_ssl_library == NULL)
        se_ssl_library = se_library_load(libraries, names, sizeof names / sizeof *names, &se_ssl);
    return se_ssl_library != NULL;
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

#endif
