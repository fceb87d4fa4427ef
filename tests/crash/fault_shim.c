/*
 * Preloaded into a process: counts the system calls that concern one directory, and makes one of them fail.
 *
 *      fault_watch(directory, log)     count calls on paths below `directory` and on descriptors opened there; write a line
 *                                      "<number> <call> <site> <file>" for each to the descriptor `log` (-1: none)
 *      fault_arm(number, fault)        let call `number` (from 1) fail: an errno; SHORT: half of a write is done;
 *                                      KILL: SIGKILL before it
 *      fault_site(name)                what the log calls the place in the program that calls next
 *      fault_count()                   calls so far; fault_hit(): whether the armed one has come
 *
 * Single-threaded on purpose: the number of a call must mean the same in every run.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SHORT = -1, KILL = -2, DESCRIPTORS = 1 << 14 };

static char directory[PATH_MAX], site[256] = "-";
static size_t directory_bytes;
static int log_fd = -1;
static long count, armed_at;
static int armed_fault;
static bool hit;
static bool watched[DESCRIPTORS];

void fault_watch(const char *path, int log) {
    snprintf(directory, sizeof directory, "%s", path);
    directory_bytes = strlen(directory);
    log_fd = log;
    count = 0;
}

void fault_arm(long number, int fault) {
    armed_at = number;
    armed_fault = fault;
    hit = false;
}

void fault_site(const char *name) { snprintf(site, sizeof site, "%s", name); }
long fault_count(void) { return count; }
int fault_hit(void) { return hit; }

static bool below(const char *path) { return directory_bytes && path && strncmp(path, directory, directory_bytes) == 0; }
static bool ours(int fd) { return fd >= 0 && fd < DESCRIPTORS && watched[fd]; }

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static void note(const char *call, const char *path) {
    if (log_fd < 0) return;
    const char *file = path ? strrchr(path, '/') : NULL;
    dprintf(log_fd, "%ld %s %s %s\n", count, call, site, file ? file + 1 : "-");
}

/* Counts one call.  0: go on; an errno: fail with it; SHORT. */
static int faulty(const char *call, const char *path) {
    count++;
    note(call, path);
    if (count != armed_at) return 0;
    hit = true;
    if (armed_fault == KILL) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    return armed_fault;
}

static const char *path_of(int fd, char *buffer) {
    char link[64];
    if (log_fd < 0) return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, buffer, PATH_MAX - 1);
    if (length < 0) return NULL;
    buffer[length] = 0;
    return buffer;
}

/* A call on a descriptor; -1 and errno where it is to fail. */
static int on_descriptor(const char *call, int fd) {
    char buffer[PATH_MAX];
    if (!ours(fd)) return 0;
    int fault = faulty(call, path_of(fd, buffer));
    if (fault > 0) {
        errno = fault;
        return -1;
    }
    return fault == SHORT ? 1 : 0;
}

static int on_path(const char *call, const char *path) {
    if (!below(path)) return 0;
    int fault = faulty(call, path);
    if (fault <= 0) return 0;
    errno = fault;
    return -1;
}

static int opened(int fd, const char *path) {
    if (fd >= 0 && fd < DESCRIPTORS) watched[fd] = below(path);
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list arguments; \
        va_start(arguments, flags); \
        mode = va_arg(arguments, mode_t); \
        va_end(arguments); \
    }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        MODE(flags) \
        REAL(name); \
        return on_path("open", path) ? -1 : opened(real(path, flags, mode), path); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) { \
        MODE(flags) \
        REAL(name); \
        return on_path("open", path) ? -1 : opened(real(at, path, flags, mode), path); \
    }
OPENAT(openat)
OPENAT(openat64)

int close(int fd) {
    REAL(close);
    if (fd >= 0 && fd < DESCRIPTORS) watched[fd] = false;
    return real(fd);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    REAL(write);
    int fault = on_descriptor("write", fd);
    return fault < 0 ? -1 : real(fd, bytes, fault ? (length + 1) / 2 : length);
}

#define PWRITE(name, offset) \
    ssize_t name(int fd, const void *bytes, size_t length, offset at) { \
        REAL(name); \
        int fault = on_descriptor("pwrite", fd); \
        return fault < 0 ? -1 : real(fd, bytes, fault ? (length + 1) / 2 : length, at); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t read(int fd, void *bytes, size_t length) {
    REAL(read);
    return on_descriptor("read", fd) < 0 ? -1 : real(fd, bytes, length);
}

#define PREAD(name, offset) \
    ssize_t name(int fd, void *bytes, size_t length, offset at) { \
        REAL(name); \
        return on_descriptor("pread", fd) < 0 ? -1 : real(fd, bytes, length, at); \
    }
PREAD(pread, off_t)
PREAD(pread64, off64_t)

#define MMAP(name, offset) \
    void *name(void *address, size_t length, int protection, int flags, int fd, offset at) { \
        REAL(name); \
        return on_descriptor("mmap", fd) < 0 ? MAP_FAILED : real(address, length, protection, flags, fd, at); \
    }
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)

#define ON_DESCRIPTOR(name, parameters, arguments) \
    int name parameters { \
        REAL(name); \
        return on_descriptor(#name, fd) < 0 ? -1 : real arguments; \
    }
ON_DESCRIPTOR(fsync, (int fd), (fd))
ON_DESCRIPTOR(fdatasync, (int fd), (fd))
ON_DESCRIPTOR(ftruncate, (int fd, off_t size), (fd, size))
ON_DESCRIPTOR(ftruncate64, (int fd, off64_t size), (fd, size))
ON_DESCRIPTOR(fallocate, (int fd, int mode, off_t start, off_t length), (fd, mode, start, length))
ON_DESCRIPTOR(fallocate64, (int fd, int mode, off64_t start, off64_t length), (fd, mode, start, length))
ON_DESCRIPTOR(flock, (int fd, int operation), (fd, operation))

#define ON_PATH(name, parameters, arguments) \
    int name parameters { \
        REAL(name); \
        return on_path(#name, path) ? -1 : real arguments; \
    }
ON_PATH(rename, (const char *path, const char *target), (path, target))
ON_PATH(unlink, (const char *path), (path))
ON_PATH(mkdir, (const char *path, mode_t mode), (path, mode))

DIR *opendir(const char *path) {
    REAL(opendir);
    return on_path("opendir", path) ? NULL : real(path);
}

int renameat(int from, const char *path, int to, const char *target) {
    REAL(renameat);
    return on_path("rename", path) ? -1 : real(from, path, to, target);
}

int unlinkat(int at, const char *path, int flags) {
    REAL(unlinkat);
    return on_path("unlink", path) ? -1 : real(at, path, flags);
}

int mkdirat(int at, const char *path, mode_t mode) {
    REAL(mkdirat);
    return on_path("mkdir", path) ? -1 : real(at, path, mode);
}
