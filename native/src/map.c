#include "sf_map.h"

#include <sys/mman.h>

void *sf_map(int fd, size_t size) {
    void *address = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    return address == MAP_FAILED ? NULL : address;
}

void sf_unmap(void *address, size_t size) { munmap(address, size); }
