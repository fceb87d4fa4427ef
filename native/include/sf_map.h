#ifndef SF_MAP_H
#define SF_MAP_H
/*
 * Mapping a segment read-only, without keeping a descriptor (Python's mmap keeps a duplicate of it open).
 */
#include <stddef.h>

/* cdef: begin */
/* `size` bytes of the file, shared and read-only; NULL with errno set. */
void *sf_map(int fd, size_t size);
void sf_unmap(void *address, size_t size);
/* cdef: end */
#endif
