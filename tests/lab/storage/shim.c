/* What a process says to the disk about one database, with faults in it: loaded by LD_PRELOAD.
 *
 * Counts the calls on files whose path begins with a prefix, and on their folder. From the n-th call on it lets some
 * fail, or ends the process there. Writes down what the others did, if it is asked to, for `trace.py`. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { OPEN = 1, WRITE = 2, TRUNCATE = 4, SYNC = 8, UNLINK = 16, MARK = 32 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char prefix[4096], folder[4096];
static int kinds, nth, times, code, die_after; /* what was asked for */
static int counted, failed;                    /* what came of it */
static int trace = -1;

#define REAL(type, name, ...) \
    static type (*real_##name)(__VA_ARGS__); \
    if (!real_##name) real_##name = dlsym(RTLD_NEXT, #name)

/* Counting begins. `how_often` is negative for a fault that stays; `calls_until_death` is negative for a process that
 * lives on, 0 for one that ends instead of failing, and else counts the calls after the first fault. */
void shim_arm(const char *path, int which, int from, int how_often, int error, int calls_until_death) {
    pthread_mutex_lock(&mutex);
    snprintf(prefix, sizeof prefix, "%s", path);
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash) *slash = 0;
    kinds = which, nth = from, times = how_often, code = error, die_after = calls_until_death;
    counted = failed = 0;
    pthread_mutex_unlock(&mutex);
}

int shim_counted(void) { return counted; }
int shim_failed(void) { return failed; }
void shim_trace(int fd) { trace = fd; }

static int ours(const char *path) {
    return *prefix && (!strncmp(path, prefix, strlen(prefix)) || !strcmp(path, folder));
}

static int path_of(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    path[length < 0 ? 0 : length] = 0;
    return ours(path);
}

/* Whether this call is to fail; with the mutex held. */
static int fails(int kind) {
    if (!(kinds & kind)) return 0;
    counted++;
    if (!nth || counted < nth) return 0;
    if (die_after >= 0 && counted >= nth + die_after) _exit(77);
    if (times >= 0 && failed >= times) return 0;
    failed++;
    errno = code;
    return 1;
}

static void put(const void *data, size_t length) {
    REAL(ssize_t, write, int, const void *, size_t);
    for (const char *at = data; length;) {
        ssize_t done = real_write(trace, at, length);
        if (done < 0) _exit(78);
        at += done, length -= done;
    }
}

static void note(int kind, const char *path, int64_t offset, const void *data, size_t length) {
    if (trace < 0) return;
    int before = errno;
    int64_t head[4] = {kind, (int64_t)strlen(path), offset, (int64_t)length};
    put(head, sizeof head);
    put(path, strlen(path));
    put(data, length);
    errno = before;
}

void shim_mark(const char *text) {
    pthread_mutex_lock(&mutex);
    note(MARK, "", 0, text, strlen(text));
    pthread_mutex_unlock(&mutex);
}

#define GUARDED(type, kind, call, then) \
    pthread_mutex_lock(&mutex); \
    type answer = fails(kind) ? -1 : (call); \
    if (answer >= 0) { then; } \
    pthread_mutex_unlock(&mutex); \
    return answer

#define OPENING(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0; \
        va_end(rest); \
        if (!ours(path)) return real_##name(path, flags, mode); \
        int made = (flags & O_CREAT) && access(path, F_OK); \
        GUARDED(int, OPEN, real_##name(path, flags, mode), if (made) note(OPEN, path, 0, "", 0)); \
    }
OPENING(open)
OPENING(open64)

#define POSITIONED(name, offset_type) \
    ssize_t name(int fd, const void *data, size_t length, offset_type offset) { \
        REAL(ssize_t, name, int, const void *, size_t, offset_type); \
        char path[4096]; \
        if (!path_of(fd, path, sizeof path)) return real_##name(fd, data, length, offset); \
        GUARDED(ssize_t, WRITE, real_##name(fd, data, length, offset), note(WRITE, path, offset, data, answer)); \
    }
POSITIONED(pwrite, off_t)
POSITIONED(pwrite64, off64_t)

ssize_t write(int fd, const void *data, size_t length) {
    REAL(ssize_t, write, int, const void *, size_t);
    char path[4096];
    if (!path_of(fd, path, sizeof path)) return real_write(fd, data, length);
    GUARDED(ssize_t, WRITE, real_write(fd, data, length),
            note(WRITE, path, lseek(fd, 0, SEEK_CUR) - answer, data, answer));
}

#define TRUNCATING(name, size_type) \
    int name(int fd, size_type size) { \
        REAL(int, name, int, size_type); \
        char path[4096]; \
        if (!path_of(fd, path, sizeof path)) return real_##name(fd, size); \
        GUARDED(int, TRUNCATE, real_##name(fd, size), note(TRUNCATE, path, size, "", 0)); \
    }
TRUNCATING(ftruncate, off_t)
TRUNCATING(ftruncate64, off64_t)

#define SYNCING(name) \
    int name(int fd) { \
        REAL(int, name, int); \
        char path[4096]; \
        if (!path_of(fd, path, sizeof path)) return real_##name(fd); \
        GUARDED(int, SYNC, real_##name(fd), note(SYNC, path, 0, "", 0)); \
    }
SYNCING(fsync)
SYNCING(fdatasync)

int unlink(const char *path) {
    REAL(int, unlink, const char *);
    if (!ours(path)) return real_unlink(path);
    GUARDED(int, UNLINK, real_unlink(path), note(UNLINK, path, 0, "", 0));
}
