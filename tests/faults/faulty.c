/* A file system that asks before it changes anything: preloaded, it tells a hook of every call that
 * would change a file below one folder, and fails it with the errno that the hook answers.
 *
 *     cc -shared -fPIC -O1 -o faulty.so faulty.c -ldl
 *     LD_PRELOAD=./faulty.so python ...      faulty.py arms it with a Python function
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

/* errno to fail with, or 0. `other`: second path of a rename or link. */
typedef int (*hook_t)(const char *call, const char *path, const char *other, const void *bytes,
                      long offset, long length);
static hook_t hook;
static char below[4096];
static __thread int inside;

void faulty_arm(const char *folder, hook_t with)
{
    snprintf(below, sizeof below, "%s", folder);
    hook = with;
}

/* Sets the clock of the wall, of this process alone, by so many seconds against the true one. */
static long shift;
void faulty_clock(long seconds) { shift = seconds; }

int clock_gettime(clockid_t clock, struct timespec *to)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int found = real(clock, to);
    if (clock == CLOCK_REALTIME)
        to->tv_sec += shift;
    return found;
}

static int ask(const char *call, const char *path, const char *other, const void *bytes, long offset,
               long length)
{
    size_t n = strlen(below);
    if (!hook || inside || n == 0)
        return 0;
    if (strncmp(path, below, n) != 0 || (path[n] != '/' && path[n] != 0))
        return 0;
    inside = 1;
    int error = hook(call, path, other, bytes, offset, length);
    inside = 0;
    return error;
}

static const char *whole(int at, const char *path, char *to)
{
    char link[64];
    ssize_t n;
    if (path[0] == '/')
        return path;
    if (at == AT_FDCWD) {
        if (!getcwd(to, 4000))
            return path;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        if ((n = readlink(link, to, 4000)) < 0)
            return path;
        to[n] = 0;
    }
    strncat(to, "/", 8190 - strlen(to));
    strncat(to, path, 8190 - strlen(to));
    return to;
}

static const char *of(int fd, char *to)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, to, 8190);
    to[n > 0 ? n : 0] = 0;
    return to;
}

#define REAL(name, type, ...)                                   \
    static type (*real)(__VA_ARGS__);                           \
    if (!real)                                                  \
        real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name);
#define ASK(...)                    \
    do {                            \
        int error = ask(__VA_ARGS__); \
        if (error) {                \
            errno = error;          \
            return -1;              \
        }                           \
    } while (0)
#define WRITES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))

#define OPEN(name)                                              \
    int name(const char *path, int flags, ...)                  \
    {                                                           \
        char text[8192] = "";                                   \
        va_list more;                                           \
        va_start(more, flags);                                  \
        int mode = va_arg(more, int);                           \
        va_end(more);                                           \
        REAL(name, int, const char *, int, ...)                 \
        if (WRITES(flags))                                      \
            ASK("open", whole(AT_FDCWD, path, text), "", 0, flags, 0); \
        return real(path, flags, mode);                         \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                            \
    int name(int at, const char *path, int flags, ...)          \
    {                                                           \
        char text[8192] = "";                                   \
        va_list more;                                           \
        va_start(more, flags);                                  \
        int mode = va_arg(more, int);                           \
        va_end(more);                                           \
        REAL(name, int, int, const char *, int, ...)            \
        if (WRITES(flags))                                      \
            ASK("open", whole(at, path, text), "", 0, flags, 0); \
        return real(at, path, flags, mode);                     \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int fd, const void *bytes, size_t n)
{
    char text[8192];
    REAL(write, ssize_t, int, const void *, size_t)
    if (hook && !inside && fd > 2) {
        int flags = fcntl(fd, F_GETFL);
        long at = lseek(fd, 0, flags & O_APPEND ? SEEK_END : SEEK_CUR);
        if (at >= 0)
            ASK("write", of(fd, text), "", bytes, at, (long)n);
    }
    return real(fd, bytes, n);
}

#define PWRITE(name, offset_type)                               \
    ssize_t name(int fd, const void *bytes, size_t n, offset_type at) \
    {                                                           \
        char text[8192];                                        \
        REAL(name, ssize_t, int, const void *, size_t, offset_type) \
        if (hook && !inside)                                    \
            ASK("write", of(fd, text), "", bytes, (long)at, (long)n); \
        return real(fd, bytes, n, at);                          \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define BY_DESCRIPTOR(name, call)                               \
    int name(int fd)                                            \
    {                                                           \
        char text[8192];                                        \
        REAL(name, int, int)                                    \
        if (hook && !inside)                                    \
            ASK(call, of(fd, text), "", 0, 0, 0);               \
        return real(fd);                                        \
    }
BY_DESCRIPTOR(fsync, "fsync")
BY_DESCRIPTOR(fdatasync, "fsync")

#define TRUNCATE(name, offset_type)                             \
    int name(int fd, offset_type size)                          \
    {                                                           \
        char text[8192];                                        \
        REAL(name, int, int, offset_type)                       \
        if (hook && !inside)                                    \
            ASK("truncate", of(fd, text), "", 0, 0, (long)size); \
        return real(fd, size);                                  \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define BY_PATH(name, call)                                     \
    int name(const char *path)                                  \
    {                                                           \
        char text[8192] = "";                                   \
        REAL(name, int, const char *)                           \
        ASK(call, whole(AT_FDCWD, path, text), "", 0, 0, 0);    \
        return real(path);                                      \
    }
BY_PATH(unlink, "unlink")
BY_PATH(rmdir, "rmdir")

int unlinkat(int at, const char *path, int flags)
{
    char text[8192] = "";
    REAL(unlinkat, int, int, const char *, int)
    ASK(flags & AT_REMOVEDIR ? "rmdir" : "unlink", whole(at, path, text), "", 0, 0, 0);
    return real(at, path, flags);
}

int mkdir(const char *path, mode_t mode)
{
    char text[8192] = "";
    REAL(mkdir, int, const char *, mode_t)
    ASK("mkdir", whole(AT_FDCWD, path, text), "", 0, 0, 0);
    return real(path, mode);
}

#define TWO_PATHS(name, call)                                   \
    int name(const char *from, const char *to)                  \
    {                                                           \
        char one[8192] = "", other[8192] = "";                  \
        REAL(name, int, const char *, const char *)             \
        ASK(call, whole(AT_FDCWD, from, one), whole(AT_FDCWD, to, other), 0, 0, 0); \
        return real(from, to);                                  \
    }
TWO_PATHS(rename, "rename")
TWO_PATHS(link, "link")

int linkat(int from_at, const char *from, int to_at, const char *to, int flags)
{
    char one[8192] = "", other[8192] = "";
    REAL(linkat, int, int, const char *, int, const char *, int)
    ASK("link", whole(from_at, from, one), whole(to_at, to, other), 0, 0, 0);
    return real(from_at, from, to_at, to, flags);
}
