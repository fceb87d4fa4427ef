#ifndef SF_KEEPER_H
#define SF_KEEPER_H
/*
 * The keeper: process 1 of a new PID namespace, which does nothing but be there.
 *
 * A worker must not be process 1 itself: signals that it sends to itself, and abort(), would do nothing, and it
 * would have to reap what its handler leaves behind.  The keeper reaps by ignoring SIGCHLD, and when it is killed the
 * kernel kills everything else in the namespace.
 *
 * Cost         It shares its maker's memory, so nothing is copied, unlike at a fork: some 60 us.
 * Memory       It runs on a stack of its own and makes bare system calls only.  It shares the thread-local storage of
 *              the thread that made it, so it must not touch errno, and does not.
 * Signals      All are blocked in it: a handler that its maker had set would run in the maker's memory.
 * Descriptors  It closes all of its copies.
 * End          Killed by its maker, or with it (the maker's *thread*): see prctl(2), PR_SET_PDEATHSIG.
 */

/* cdef: begin */
/*
 * Start one.  `self` is a pidfd of the calling process.  Its pid in the caller's namespace, the child of the caller's
 * to reap; -1 with errno set.  `stack` is to be given to sf_keeper_free once it has been reaped.
 */
int sf_keeper_start(int self, void **stack);
void sf_keeper_free(void *stack);
/* cdef: end */
#endif
