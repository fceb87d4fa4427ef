/*
 * CRC32C as a program of its own, for machines that are not this one: by instruction and by table, at every block's edge and every
 * alignment, against each other and a published value.  Prints how it was done.
 */
#include <stdio.h>
#include <stdlib.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include "sf_log.h"

int main(void)
{
    static uint8_t bytes[40008];
    static const size_t lengths[] = {0, 1, 7, 8, 9, 63, 767, 768, 769, 1023, 12287, 12288, 12289, 40000};
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(7 * i + (i >> 8));
    if (sf_crc32c(0, "123456789", 9) != 0xe3069283u)
        return 1;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++)
        for (size_t shift = 0; shift < 8; shift++)
            if (sf_crc32c(1, bytes + shift, lengths[i]) != sf_crc32c_by_table(1, bytes + shift, lengths[i]))
                return 2;
#if defined(__aarch64__)
    printf("%s\n", getauxval(AT_HWCAP) & (1 << 7) ? "instruction" : "table");
#endif
    return 0;
}
