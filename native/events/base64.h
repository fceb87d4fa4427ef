#ifndef SF_BASE64_H
#define SF_BASE64_H
/*
 * Base64 with the standard alphabet and padding, written where the caller wants it.
 *
 * Several encoders, one result: the best one that this machine has is chosen once, at run time.  None reads past
 * `bytes + count` or writes past the encoded length, so both ends may touch unmapped memory.  Safe from any thread.
 */
#include <stddef.h>
#include <stdint.h>

typedef struct sf_base64_encoder {
    const char *name;
    /* Writes exactly sf_base64_length(count) characters to `out`, no terminator.  The two must not overlap. */
    void (*encode)(uint8_t *out, const uint8_t *bytes, size_t count);
} sf_base64_encoder;

/* Characters that `count` bytes take, padding included. */
static inline size_t sf_base64_length(size_t count) { return (count + 2) / 3 * 4; }

/* The encoders that this machine can run, fastest first; *count says how many, at least one. */
const sf_base64_encoder *const *sf_base64_encoders(size_t *count);
#endif
