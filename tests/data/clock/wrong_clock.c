/* A wall clock that is wrong: real time plus the seconds that stand in the file WRONG_CLOCK. For LD_PRELOAD.
 * Monotonic clocks are left alone, as on a host whose clock somebody sets. Only Python sees it: a program that waits until
 * a time of day, such as srun, would ask the kernel, which knows better. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int in_python;

__attribute__((constructor)) static void find_program(void)
{
    char path[4096] = {0};

    in_python = readlink("/proc/self/exe", path, sizeof path - 1) > 0 && strstr(path, "/python") != NULL;
}

static long wrong_by(void)
{
    const char *path = in_python ? getenv("WRONG_CLOCK") : NULL;
    char text[32] = {0};
    int file = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC) : -1;
    long got = file < 0 ? -1 : syscall(SYS_read, file, text, sizeof text - 1);

    if (file >= 0)
        syscall(SYS_close, file);
    return got > 0 ? strtol(text, NULL, 10) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *at)
{
    long code = syscall(SYS_clock_gettime, clock, at);

    if (code == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        at->tv_sec += wrong_by();
    return (int)code;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    struct timespec now;

    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}
