/* Prints the rate of the time stamp counter in kHz. */
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC_RAW, &time);
    return time.tv_sec * 1e3 + time.tv_nsec * 1e-6;
}

int main(void)
{
    double start = now();
    unsigned long long ticks = __rdtsc();
    while (now() - start < 100)
        ;
    ticks = __rdtsc() - ticks;
    printf("%.0f\n", ticks / (now() - start));
}
