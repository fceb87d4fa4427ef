#ifndef SF_ASSERT_H
#define SF_ASSERT_H
/*
 * Assertions that no build leaves out.
 *
 * CPython's own compiler flags, which extensions inherit, have NDEBUG in them; an `assert` would be gone from exactly the
 * builds that people use.  What is asserted here would end in a wrong answer or in memory that is not ours, so the process ends
 * first, and says where.
 */
#include <stdio.h>
#include <stdlib.h>

#define SF_ASSERT(what) ((what) ? (void)0 : sf_assertion_failed(#what, __FILE__, __LINE__))

__attribute__((noreturn, cold, unused)) static void sf_assertion_failed(const char *what, const char *file, int line) {
    fprintf(stderr, "streamfn: %s:%d: this must hold, and does not: %s\n", file, line, what);
    abort();
}
#endif
