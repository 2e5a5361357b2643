/* Shortens or interrupts reads of the files below $ATTACK_ROOT, as an operating system may at any time.
   attack.py compiles it and loads it with LD_PRELOAD. $ATTACK_HOW is `short` or `interrupt`. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_ulong calls;

static uint64_t chance(void) {
    const char *seed = getenv("ATTACK_SEED");
    uint64_t x = (seed ? strtoull(seed, 0, 10) : 0) * 0x9e3779b97f4a7c15u + atomic_fetch_add(&calls, 1);
    x ^= x >> 31, x *= 0xbf58476d1ce4e5b9u, x ^= x >> 27, x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Returns how many of `count` bytes to read, or 0 to interrupt the call. */
static size_t allowed(int fd, size_t count) {
    const char *root = getenv("ATTACK_ROOT"), *how = getenv("ATTACK_HOW");
    char link[64], path[4096];
    if (!root || !how || count == 0) return count;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path);
    if (length < 0 || strncmp(path, root, strlen(root))) return count;
    uint64_t any = chance();
    if (!strcmp(how, "interrupt")) return any % 4 ? count : 0;
    size_t most = (any >> 32) % 4 ? 4096 : 16;
    return 1 + any % (count < most ? count : most);
}

#define REAL(name) (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define READ(name, ...)                                                 \
    size_t some = allowed(fd, count);                                   \
    if (some == 0 && count) return errno = EINTR, -1;                   \
    return (REAL(name))(fd, buffer, some, ##__VA_ARGS__);

ssize_t read(int fd, void *buffer, size_t count) { READ(read) }
ssize_t pread(int fd, void *buffer, size_t count, off_t at) { READ(pread, at) }
ssize_t pread64(int fd, void *buffer, size_t count, off64_t at) { READ(pread64, at) }

/* A short vectored read fills a part of the first buffer. */
#define READV(name, ...)                                                \
    if (parts < 1) return (REAL(name))(fd, all, parts, ##__VA_ARGS__);  \
    size_t some = allowed(fd, all[0].iov_len);                          \
    if (some == all[0].iov_len) return (REAL(name))(fd, all, parts, ##__VA_ARGS__); \
    if (some == 0) return errno = EINTR, -1;                            \
    struct iovec first = {all[0].iov_base, some};                       \
    return (REAL(name))(fd, &first, 1, ##__VA_ARGS__);

ssize_t readv(int fd, const struct iovec *all, int parts) { READV(readv) }
ssize_t preadv(int fd, const struct iovec *all, int parts, off_t at) { READV(preadv, at) }
ssize_t preadv64(int fd, const struct iovec *all, int parts, off64_t at) { READV(preadv64, at) }
