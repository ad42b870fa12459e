/* The system's OpenSSL, for TLS of the NATS link and of clients. It is loaded at first use: an engine without TLS needs
 * none, and the build needs no headers.
 * Source: OpenSSL's manual, section 3. */
#ifndef SE_OPENSSL_H
#define SE_OPENSSL_H

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

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
    const void *(*TLS_server_method)(void);
    void (*SSL_CTX_set_keylog_callback)(void *, void (*)(const void *, const char *));
    int (*SSL_CTX_set_session_id_context)(void *, const unsigned char *, unsigned int);
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
        "TLS_server_method", "SSL_CTX_set_keylog_callback", "SSL_CTX_set_session_id_context", "SSL_set_bio",
        "SSL_get_rbio", "SSL_accept", "SSL_has_pending", "SSL_get_current_cipher", "SSL_CIPHER_get_id",
        "SSL_session_reused", "BIO_get_new_index", "BIO_meth_new", "BIO_meth_set_read",
        "BIO_meth_set_write", "BIO_meth_set_ctrl", "BIO_new", "BIO_free", "BIO_up_ref", "BIO_set_init", "BIO_set_data",
        "BIO_get_data", "BIO_set_flags", "BIO_clear_flags", "OPENSSL_cleanse",
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

/* Whether OpenSSL 1.1.1 or newer is loaded; loads it if not. Call it with the GIL. */
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

#endif
