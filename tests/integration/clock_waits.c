/* Two holes of libfaketime 0.9.10, closed: it changes the time that a program reads, and forgets two ways to wait for it.
 *
 * librdkafka waits with C11's cnd_timedwait until a moment of the wall clock. libfaketime does not know that function, so a
 * program whose clock is an hour fast would wait an hour for what takes a second. Here the wait follows the faked clock, a
 * clock that is set back included, as the kernel's own would. Python sleeps until a moment of the monotonic clock, which
 * is not faked; libfaketime refuses it (EINVAL).
 *
 * Built by test_clocks.py, and named before libfaketime in LD_PRELOAD.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sys/syscall.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000LL
#define LOOK_NS (SECOND_NS / 10) /* how long a wait goes on before it looks at the faked clock again */

typedef int (*timedwait)(cnd_t *, mtx_t *, const struct timespec *);

static long long ns(const struct timespec *t) { return t->tv_sec * SECOND_NS + t->tv_nsec; }

int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict until)
{
    static _Thread_local timedwait real;
    struct timespec faked, now;
    if (!real)
        real = (timedwait)dlsym(RTLD_NEXT, "cnd_timedwait");
    clock_gettime(CLOCK_REALTIME, &faked);              /* libfaketime's */
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);   /* the kernel's */
    long long left = ns(until) - ns(&faked), wait = left < 0 ? 0 : left < LOOK_NS ? left : LOOK_NS;
    long long end = ns(&now) + wait;
    struct timespec real_until = {.tv_sec = end / SECOND_NS, .tv_nsec = end % SECOND_NS};
    int ended = real(condition, mutex, &real_until);
    /* A wake-up for nothing is allowed: the caller looks at what it waits for, and waits on. */
    return ended == thrd_timedout && left > LOOK_NS ? thrd_success : ended;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *request, struct timespec *left)
{
    return syscall(SYS_clock_nanosleep, clock, flags, request, left) == 0 ? 0 : errno;
}
