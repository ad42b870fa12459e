/* Functions of libraries that are loaded at run time: an engine without TLS or compression needs neither library, and
 * the build needs no headers. */
#ifndef SE_LIBRARY_H
#define SE_LIBRARY_H

#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

enum { SE_LIBRARY_NAMES = 64 }; /* most functions of a table */

/* Writes the addresses of the `n` functions `names` to `table`, in that order: all, or none. Returns whether the
 * library has all of them. */
static inline int se_library_bind(void *library, const char *const *names, size_t n, void *table)
{
    void *found[SE_LIBRARY_NAMES];
    for (size_t i = 0; i < n; i++) {
        found[i] = i < SE_LIBRARY_NAMES ? dlsym(library, names[i]) : NULL;
        if (found[i] == NULL)
            return 0;
    }
    memcpy(table, found, n * sizeof *found);
    return 1;
}

/* Loads the first of the libraries, whose list ends with NULL, that has all functions; as se_library_bind. Returns its
 * handle, which stays open; NULL: there is none. Call it with the GIL. */
static inline void *se_library_load(const char *const *libraries, const char *const *names, size_t n, void *table)
{
    for (; *libraries != NULL; libraries++) {
        void *library = dlopen(*libraries, RTLD_NOW | RTLD_LOCAL);
        if (library != NULL && se_library_bind(library, names, n, table))
            return library;
        if (library != NULL)
            dlclose(library);
    }
    return NULL;
}

#endif
