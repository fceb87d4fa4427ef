/*
 * A main for a fuzz target without libFuzzer: runs it on the files it is given, under any compiler and for any machine.
 */
#include "fuzz.h"

__attribute__((weak)) int LLVMFuzzerInitialize(int *count, char ***arguments);
/* libFuzzer's own; a custom mutator calls it, and nothing calls that here. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size)
{
    (void)data, (void)max_size;
    return size;
}

int main(int count, char **arguments)
{
    if (LLVMFuzzerInitialize != NULL)
        LLVMFuzzerInitialize(&count, &arguments);
    for (int i = 1; i < count; i++) {
        FILE *file = fopen(arguments[i], "rb");
        REQUIRE(file != NULL && fseek(file, 0, SEEK_END) == 0);
        size_t size = (size_t)ftell(file);
        uint8_t *data = malloc(size + 1);
        rewind(file);
        REQUIRE(fread(data, 1, size, file) == size);
        uint8_t *input = exact(data, size);
        LLVMFuzzerTestOneInput(input, size);
        free(input), free(data), fclose(file);
    }
    printf("%d inputs\n", count - 1);
    return 0;
}
