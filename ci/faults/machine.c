// A machine's wall clock and disk as a test wants them, changed while the program runs. Put before a program with
// LD_PRELOAD; MACHINE names a file of two 8-byte numbers, both nanoseconds: what is added to CLOCK_REALTIME, and how
// long each fsync and fdatasync takes more. The monotonic clock, which timeouts go by, stays as it is: that is what a
// step of the wall clock is on a real machine.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

struct machine {
    _Atomic int64_t clock;
    _Atomic int64_t sync;
};

static const struct machine *machine;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("MACHINE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *map = mmap(NULL, sizeof *machine, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (map != MAP_FAILED)
        machine = map;
}

// CLOCK_REALTIME, moved, in nanoseconds.
static int64_t now(void) {
    struct timespec at = {0};
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &at);
    return at.tv_sec * SECOND + at.tv_nsec + (machine ? atomic_load(&machine->clock) : 0);
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int failed = (int)syscall(SYS_clock_gettime, clock, at);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t moved = now();
        *at = (struct timespec){.tv_sec = moved / SECOND, .tv_nsec = moved % SECOND};
    }
    return failed;
}

int gettimeofday(struct timeval *at, void *zone) {
    (void)zone;
    int64_t moved = now();
    *at = (struct timeval){.tv_sec = moved / SECOND, .tv_usec = moved % SECOND / 1000};
    return 0;
}

time_t time(time_t *at) {
    time_t seconds = (time_t)(now() / SECOND);
    if (at)
        *at = seconds;
    return seconds;
}

static void wait_for_the_disk(void) {
    int64_t delay = machine ? atomic_load(&machine->sync) : 0;
    struct timespec pause = {.tv_sec = delay / SECOND, .tv_nsec = delay % SECOND};
    if (delay > 0)
        nanosleep(&pause, NULL);
}

int fdatasync(int file) {
    wait_for_the_disk();
    return (int)syscall(SYS_fdatasync, file);
}

int fsync(int file) {
    wait_for_the_disk();
    return (int)syscall(SYS_fsync, file);
}
