/* A power cut for one process: an LD_PRELOAD library that writes down, in order, everything that the process does to
 * the files under one folder, and what of it was synced. Whoever replays the journal (server/flotilla/tests) gets what
 * a disk may hold after losing power at any moment: what was synced, and of the rest as little or as much as it likes.
 *
 *   cc -shared -fPIC -O1 -Wall -Wextra -o shim.so shim.c -ldl -lpthread
 *   LD_PRELOAD=shim.so POWERCUT_DIR=/a/folder POWERCUT_JOURNAL=/a/file PROGRAM
 *
 * The journal is a sequence of records, little-endian, as `struct record` says, each followed by its bytes. A record is
 * written after its call has succeeded and before the call returns, all under one lock, so that whatever the process
 * tells others it did is in the journal before. A sync's record comes after the sync; `begun` is the journal's length when
 * the sync began: what was written after that may not be covered by it. Several processes may share a journal.
 *
 * Not taken for a sync: sync_file_range, which flushes no disk cache and no file size. Written down as UNKNOWN, so that
 * a test fails instead of passing unseen: ways to change files that this library doesn't follow (shared writable
 * mappings, fallocate, copies in the kernel, links, O_SYNC). System calls made without libc are not seen. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind {
    OPEN = 1,     /* file: its inode; bytes: its path */
    CREATE = 2,   /* as OPEN, for a file that was not there before */
    WRITE = 3,    /* file; at: where; bytes */
    ZEROS = 4,    /* file; at: where; size: how many */
    TRUNCATE = 5, /* file; size: the new length */
    SYNC = 6,     /* file; begun: see above */
    SYNC_DIR = 7, /* bytes: the path; begun */
    MKDIR = 8,    /* bytes: the path */
    RMDIR = 9,    /* bytes: the path */
    UNLINK = 10,  /* bytes: the path */
    RENAME = 11,  /* bytes: the old path, 0, the new path */
    SYNC_ALL = 12, /* begun */
    UNKNOWN = 13, /* bytes: what was called */
};

struct record {
    uint32_t kind;
    uint32_t length; /* of the bytes that follow */
    uint64_t file;
    uint64_t at;
    uint64_t size;
    uint64_t begun;
    uint64_t nanoseconds; /* CLOCK_REALTIME */
};

#define MAX_FILES 65536
#define REAL(name) real_##name
#define LOAD(name) (REAL(name) ? (void)0 : (void)(*(void **)&REAL(name) = dlsym(RTLD_NEXT, #name)))
#define WRAP(result, name, ...) static result (*REAL(name))(__VA_ARGS__)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t inodes[MAX_FILES]; /* of the open files under the folder, by descriptor; 0: another one */
static char folder[PATH_MAX];
static size_t folder_length;
static int journal = -1;

WRAP(int, open, const char *, int, ...);
WRAP(int, openat, int, const char *, int, ...);
WRAP(int, close, int);
WRAP(int, fcntl, int, int, ...);
WRAP(int, dup, int);
WRAP(int, dup2, int, int);
WRAP(int, dup3, int, int, int);
WRAP(ssize_t, write, int, const void *, size_t);
WRAP(ssize_t, writev, int, const struct iovec *, int);
WRAP(ssize_t, pwrite64, int, const void *, size_t, off64_t);
WRAP(ssize_t, pwritev64, int, const struct iovec *, int, off64_t);
WRAP(int, ftruncate64, int, off64_t);
WRAP(int, fsync, int);
WRAP(int, fdatasync, int);
WRAP(int, syncfs, int);
WRAP(int, rename, const char *, const char *);
WRAP(int, renameat2, int, const char *, int, const char *, unsigned);
WRAP(int, unlinkat, int, const char *, int);
WRAP(int, mkdirat, int, const char *, mode_t);
WRAP(int, linkat, int, const char *, int, const char *, int);
WRAP(int, posix_fallocate64, int, off64_t, off64_t);
WRAP(int, fallocate64, int, int, off64_t, off64_t);
WRAP(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
WRAP(ssize_t, sendfile64, int, int, off64_t *, size_t);
WRAP(void *, mmap64, void *, size_t, int, int, int, off64_t);

static void start(void)
{
    LOAD(open); LOAD(openat); LOAD(close); LOAD(fcntl); LOAD(dup); LOAD(dup2); LOAD(dup3);
    LOAD(write); LOAD(writev); LOAD(pwrite64); LOAD(pwritev64); LOAD(ftruncate64);
    LOAD(fsync); LOAD(fdatasync); LOAD(syncfs); LOAD(rename); LOAD(renameat2); LOAD(unlinkat); LOAD(mkdirat);
    LOAD(linkat); LOAD(posix_fallocate64); LOAD(fallocate64); LOAD(copy_file_range); LOAD(sendfile64); LOAD(mmap64);
    const char *dir = getenv("POWERCUT_DIR"), *path = getenv("POWERCUT_JOURNAL");
    if (!dir || !path || !realpath(dir, folder)) {
        return;
    }
    folder_length = strlen(folder);
    journal = REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

/* The lock, taken once everything is loaded. */
static void enter(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start);
    pthread_mutex_lock(&lock);
}

static void leave(void)
{
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
}

static void note(enum kind kind, uint64_t file, uint64_t at, uint64_t size, uint64_t begun, const void *bytes, size_t length)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct record record = {kind, (uint32_t)length, file, at, size, begun,
                            (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec};
    struct iovec parts[2] = {{&record, sizeof record}, {(void *)bytes, length}};
    if (journal >= 0 && REAL(writev)(journal, parts, 2) != (ssize_t)(sizeof record + length)) {
        abort(); /* A journal with a gap would make every test lie. */
    }
}

static uint64_t journal_length(void)
{
    return journal < 0 ? 0 : (uint64_t)lseek64(journal, 0, SEEK_END);
}

static void note_path(enum kind kind, uint64_t file, uint64_t begun, const char *path)
{
    note(kind, file, 0, 0, begun, path, strlen(path));
}

static uint64_t tracked(int fd)
{
    return fd >= 0 && fd < MAX_FILES ? inodes[fd] : 0;
}

static void track(int fd, uint64_t inode)
{
    if (fd >= MAX_FILES) {
        abort();
    }
    if (fd >= 0) {
        inodes[fd] = inode;
    }
}


/* The path within the folder, or NULL. `text` is absolute, or relative to `dir`. */
static const char *inside(int dir, const char *text, char *buffer)
{
    char base[PATH_MAX] = "";
    if (journal < 0) {
        return NULL;
    }
    if (text[0] != '/') {
        char link[64];
        snprintf(link, sizeof link, dir == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", dir);
        ssize_t length = readlink(link, base, sizeof base - 2);
        if (length <= 0) {
            return NULL;
        }
        base[length] = '/';
        base[length + 1] = 0;
    }
    if (snprintf(buffer, 2 * PATH_MAX, "%s%s", base, text) < 0 || strncmp(buffer, folder, folder_length) != 0) {
        return NULL;
    }
    size_t length = strlen(buffer);
    while (length > folder_length && buffer[length - 1] == '/') {
        buffer[--length] = 0;
    }
    switch (buffer[folder_length]) {
    case 0: return buffer + folder_length;
    case '/': return buffer + folder_length + 1;
    default: return NULL;
    }
}

static int open_noted(int dir, const char *path, int flags, mode_t mode)
{
    char buffer[2 * PATH_MAX];
    struct stat status;
    enter();
    const char *name = inside(dir, path, buffer);
    int existed = name && fstatat(dir, path, &status, 0) == 0;
    int fd = REAL(openat)(dir, path, flags, mode);
    if (fd >= 0) {
        track(fd, 0);
    }
    if (fd >= 0 && name && fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) {
        track(fd, status.st_ino);
        note_path(existed ? OPEN : CREATE, status.st_ino, 0, name);
        if (existed && (flags & O_TRUNC)) {
            note(TRUNCATE, status.st_ino, 0, 0, 0, NULL, 0);
        }
        if (flags & (O_SYNC | O_DSYNC) || (flags & __O_TMPFILE) == __O_TMPFILE) {
            note_path(UNKNOWN, 0, 0, "open with O_SYNC, O_DSYNC or O_TMPFILE");
        }
    }
    leave();
    return fd;
}

static mode_t mode_of(int flags, va_list *arguments)
{
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(*arguments, mode_t) : 0;
}

#define OPENS(name, dir, ...)                                   \
    int name(__VA_ARGS__, const char *path, int flags, ...)     \
    {                                                           \
        va_list arguments;                                      \
        va_start(arguments, flags);                             \
        mode_t mode = mode_of(flags, &arguments);               \
        va_end(arguments);                                      \
        return open_noted(dir, path, flags, mode);              \
    }

OPENS(openat, dir, int dir)
OPENS(openat64, dir, int dir)

int open(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = mode_of(flags, &arguments);
    va_end(arguments);
    return open_noted(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));

int creat(const char *path, mode_t mode)
{
    return open_noted(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

int creat64(const char *path, mode_t mode) __attribute__((alias("creat")));

int close(int fd)
{
    enter();
    track(fd, 0);
    int result = REAL(close)(fd);
    leave();
    return result;
}

static int duplicated(int from, int to)
{
    if (to >= 0) {
        track(to, tracked(from));
    }
    leave();
    return to;
}

int dup(int fd) { enter(); return duplicated(fd, REAL(dup)(fd)); }
int dup2(int fd, int to) { enter(); return duplicated(fd, REAL(dup2)(fd, to)); }
int dup3(int fd, int to, int flags) { enter(); return duplicated(fd, REAL(dup3)(fd, to, flags)); }

int fcntl(int fd, int command, ...)
{
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    if (command == F_DUPFD || command == F_DUPFD_CLOEXEC) {
        enter();
        return duplicated(fd, REAL(fcntl)(fd, command, argument));
    }
    LOAD(fcntl);
    return REAL(fcntl)(fd, command, argument);
}

int fcntl64(int fd, int command, ...) __attribute__((alias("fcntl")));

static void note_write(uint64_t file, off64_t at, const char *bytes, size_t length)
{
    if (length > 0 && bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0) {
        note(ZEROS, file, (uint64_t)at, length, 0, NULL, 0);
    } else if (length > 0) {
        note(WRITE, file, (uint64_t)at, length, 0, bytes, length);
    }
}

static void note_parts(uint64_t file, off64_t at, const struct iovec *parts, int count, ssize_t written)
{
    for (int i = 0; i < count && written > 0; i++) {
        size_t length = parts[i].iov_len < (size_t)written ? parts[i].iov_len : (size_t)written;
        note_write(file, at, parts[i].iov_base, length);
        at += (off64_t)length;
        written -= (ssize_t)length;
    }
}

/* Sockets and pipes are written to without the lock, which a full one would hold for long. */
#define FOLLOWED(fd, name, ...)             \
    LOAD(name);                             \
    if (journal < 0 || !tracked(fd)) {      \
        return REAL(name)(__VA_ARGS__);     \
    }                                       \
    enter()

ssize_t write(int fd, const void *bytes, size_t length)
{
    FOLLOWED(fd, write, fd, bytes, length);
    ssize_t written = REAL(write)(fd, bytes, length);
    if (written > 0) {
        note_write(tracked(fd), lseek64(fd, 0, SEEK_CUR) - written, bytes, (size_t)written);
    }
    leave();
    return written;
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    FOLLOWED(fd, writev, fd, parts, count);
    ssize_t written = REAL(writev)(fd, parts, count);
    if (written > 0) {
        note_parts(tracked(fd), lseek64(fd, 0, SEEK_CUR) - written, parts, count, written);
    }
    leave();
    return written;
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at)
{
    FOLLOWED(fd, pwrite64, fd, bytes, length, at);
    ssize_t written = REAL(pwrite64)(fd, bytes, length, at);
    if (written > 0) {
        note_write(tracked(fd), at, bytes, (size_t)written);
    }
    leave();
    return written;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) __attribute__((alias("pwrite64")));

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at)
{
    FOLLOWED(fd, pwritev64, fd, parts, count, at);
    ssize_t written = REAL(pwritev64)(fd, parts, count, at);
    note_parts(tracked(fd), at, parts, count, written);
    leave();
    return written;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) __attribute__((alias("pwritev64")));

int ftruncate64(int fd, off64_t length)
{
    FOLLOWED(fd, ftruncate64, fd, length);
    int result = REAL(ftruncate64)(fd, length);
    if (result == 0) {
        note(TRUNCATE, tracked(fd), 0, (uint64_t)length, 0, NULL, 0);
    }
    leave();
    return result;
}

int ftruncate(int fd, off_t length) __attribute__((alias("ftruncate64")));

/* Syncs without the lock, so that other threads write meanwhile, as they would without this library. */
static int synced(int fd, int (*sync)(int))
{
    char link[64], path[PATH_MAX], buffer[2 * PATH_MAX];
    struct stat status;
    enter();
    uint64_t begun = journal_length(), file = tracked(fd);
    leave();
    int result = sync(fd);
    if (result != 0 || fstat(fd, &status) != 0) {
        return result;
    }
    enter();
    if (file) {
        note(SYNC, file, 0, 0, begun, NULL, 0);
    } else if (S_ISDIR(status.st_mode)) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        path[length > 0 ? length : 0] = 0;
        const char *name = inside(AT_FDCWD, path, buffer);
        if (name) {
            note_path(SYNC_DIR, 0, begun, name);
        }
    }
    leave();
    return result;
}

int fsync(int fd) { LOAD(fsync); return synced(fd, REAL(fsync)); }
int fdatasync(int fd) { LOAD(fdatasync); return synced(fd, REAL(fdatasync)); }

int syncfs(int fd)
{
    enter();
    uint64_t begun = journal_length();
    int result = REAL(syncfs)(fd);
    if (result == 0) {
        note(SYNC_ALL, 0, 0, 0, begun, NULL, 0);
    }
    leave();
    return result;
}

static int renamed(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    char first[2 * PATH_MAX], second[2 * PATH_MAX], both[4 * PATH_MAX];
    enter();
    const char *old_name = inside(from_dir, from, first), *new_name = inside(to_dir, to, second);
    int result = REAL(renameat2)(from_dir, from, to_dir, to, flags);
    if (result == 0 && old_name && new_name && !(flags & ~1u)) {
        int length = snprintf(both, sizeof both, "%s%c%s", old_name, 0, new_name);
        note(RENAME, 0, 0, 0, 0, both, (size_t)length);
    } else if (result == 0 && (old_name || new_name)) {
        note_path(UNKNOWN, 0, 0, "a rename into or out of the folder, or an exchange");
    }
    leave();
    return result;
}

int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int from_dir, const char *from, int to_dir, const char *to) { return renamed(from_dir, from, to_dir, to, 0); }
int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    return renamed(from_dir, from, to_dir, to, flags);
}

int unlinkat(int dir, const char *path, int flags)
{
    char buffer[2 * PATH_MAX];
    enter();
    const char *name = inside(dir, path, buffer);
    int result = REAL(unlinkat)(dir, path, flags);
    if (result == 0 && name) {
        note_path(flags & AT_REMOVEDIR ? RMDIR : UNLINK, 0, 0, name);
    }
    leave();
    return result;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int dir, const char *path, mode_t mode)
{
    char buffer[2 * PATH_MAX];
    enter();
    const char *name = inside(dir, path, buffer);
    int result = REAL(mkdirat)(dir, path, mode);
    if (result == 0 && name) {
        note_path(MKDIR, 0, 0, name);
    }
    leave();
    return result;
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
    char buffer[2 * PATH_MAX];
    enter();
    if (inside(to_dir, to, buffer)) {
        note_path(UNKNOWN, 0, 0, "linkat");
    }
    int result = REAL(linkat)(from_dir, from, to_dir, to, flags);
    leave();
    return result;
}

int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

/* --- What is not followed --- */

static void refuse(int fd, const char *what)
{
    enter();
    if (tracked(fd)) {
        note_path(UNKNOWN, 0, 0, what);
    }
    leave();
}

int posix_fallocate64(int fd, off64_t at, off64_t length)
{
    refuse(fd, "posix_fallocate");
    return REAL(posix_fallocate64)(fd, at, length);
}

int posix_fallocate(int fd, off_t at, off_t length) __attribute__((alias("posix_fallocate64")));

int fallocate64(int fd, int mode, off64_t at, off64_t length)
{
    refuse(fd, "fallocate");
    return REAL(fallocate64)(fd, mode, at, length);
}

int fallocate(int fd, int mode, off_t at, off_t length) __attribute__((alias("fallocate64")));

ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *to_at, size_t length, unsigned flags)
{
    refuse(to, "copy_file_range");
    return REAL(copy_file_range)(from, at, to, to_at, length, flags);
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t length)
{
    refuse(to, "sendfile");
    return REAL(sendfile64)(to, from, at, length);
}

ssize_t sendfile(int to, int from, off_t *at, size_t length) __attribute__((alias("sendfile64")));

void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t at)
{
    /* Memory without a file is asked for before anything is loaded. */
    if (fd >= 0 && tracked(fd) && (flags & MAP_SHARED) && (protection & PROT_WRITE)) {
        refuse(fd, "mmap, shared and writable");
    }
    LOAD(mmap64);
    return REAL(mmap64)(address, length, protection, flags, fd, at);
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t at) __attribute__((alias("mmap64")));
