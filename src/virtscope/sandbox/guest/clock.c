/* The rate of the host's time stamp counter. /proc/cpuinfo shows how fast the processor is at the moment, which is
 * something else wherever it can be slower or faster.
 */
#include "init.h"
#include <linux/perf_event.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#ifdef __x86_64__
#include <x86intrin.h>

/* As the kernel has measured it: it tells all who may count events, so that they can read its clock. */
static unsigned long told(void)
{
	struct perf_event_attr event = { .type = PERF_TYPE_SOFTWARE, .size = sizeof event, .config = PERF_COUNT_SW_DUMMY };
	unsigned long khz = 0;
	int fd = syscall(SYS_perf_event_open, &event, 0, -1, -1, 0);
	if (fd < 0)
		return 0;
	struct perf_event_mmap_page *page = mmap(NULL, sysconf(_SC_PAGESIZE), PROT_READ, MAP_SHARED, fd, 0);
	if (page != MAP_FAILED && page->cap_user_time && page->time_mult)
		khz = (1000000ULL << page->time_shift) / page->time_mult;
	close(fd);
	return khz;
}

static long long nanoseconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC_RAW, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Against the kernel's clock; of several reads the one that was interrupted least. */
static unsigned long long together(long long *when)
{
	unsigned long long best = ~0ull, at = 0;
	for (int i = 0; i < 64; i++) {
		unsigned long long before = __rdtsc();
		long long now = nanoseconds();
		unsigned long long after = __rdtsc();
		if (after - before < best) {
			best = after - before;
			at = before + best / 2;
			*when = now;
		}
	}
	return at;
}

static unsigned long measured(void)
{
	long long from, to;
	unsigned long long first = together(&from);
	usleep(50000);
	unsigned long long last = together(&to);
	return (unsigned long)((last - first) * 1000000.0 / (to - from) + 0.5);
}

int clock_main(void)
{
	unsigned long khz = told();
	return printf("%lu\n", khz ? khz : measured()) < 0;
}
#else
int clock_main(void)
{
	return puts("0") < 0;
}
#endif
