#include "sf_keeper.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

#define STACK_BYTES 16384

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define BARE __attribute__((no_sanitize("address", "thread", "undefined")))
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define BARE __attribute__((no_sanitize("address", "undefined")))
#endif
#ifndef BARE
#define BARE
#endif

/* A system call that leaves errno alone. */
BARE static long bare(long number, long a, long b, long c, long d, long e) {
#if defined(__x86_64__)
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    return x0;
#else
#error "no system calls are known for this architecture"
#endif
}

/* What rt_sigaction(2) takes; the libc's sigaction is another. */
struct kernel_sigaction {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};

BARE static int keep(void *self) {
    bare(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    /* Had the maker ended before that, its death would go unnoticed. */
    struct pollfd maker = {.fd = (int)(intptr_t)self, .events = POLLIN};
    struct timespec now = {0, 0};
    if (bare(SYS_ppoll, (long)&maker, 1, (long)&now, 0, 0) > 0) bare(SYS_exit_group, 0, 0, 0, 0, 0);
    struct kernel_sigaction ignore = {SIG_IGN, 0, NULL, 0};
    bare(SYS_rt_sigaction, SIGCHLD, (long)&ignore, 0, sizeof ignore.mask, 0);
    static const char name[] = "sf-keeper";
    bare(SYS_prctl, PR_SET_NAME, (long)name, 0, 0, 0);
    if (bare(SYS_close_range, 0, 0x7fffffff, 0, 0, 0) != 0) {
        for (long fd = 0; fd < 4096; fd++) bare(SYS_close, fd, 0, 0, 0, 0);
    }
    for (;;) bare(SYS_ppoll, 0, 0, 0, 0, 0);
    return 0;
}

int sf_keeper_start(int self, void **stack) {
    char *base = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (base == MAP_FAILED) return -1;
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    int pid = clone(keep, base + STACK_BYTES, CLONE_VM | CLONE_NEWPID | SIGCHLD, (void *)(intptr_t)self);
    int error = errno;
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (pid < 0) {
        munmap(base, STACK_BYTES);
        errno = error;
        return -1;
    }
    *stack = base;
    return pid;
}

void sf_keeper_free(void *stack) { munmap(stack, STACK_BYTES); }
