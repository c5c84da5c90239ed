/* Fills memory that stays filled: `fill PATH MIB` writes a file of pages that are all different. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    static uint64_t block[131072];
    if (count != 3)
        return 2;
    int fd = open(arguments[1], O_WRONLY | O_CREAT | O_TRUNC, 0600);
    uint64_t state = 88172645463325252u;
    for (size_t word = 0; word < 131072; word++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block[word] = state;
    }
    for (int mebibyte = 0; mebibyte < atoi(arguments[2]); mebibyte++) {
        for (size_t page = 0; page < 256; page++)
            block[page * 512] = (uint64_t)mebibyte << 32 | page;
        if (write(fd, block, sizeof block) != (ssize_t)sizeof block) {
            perror(arguments[1]);
            return 1;
        }
    }
    return 0;
}
