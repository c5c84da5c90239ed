/*
 * Loaded before a QEMU that starts from a snapshot. QEMU opens the file of its memory for writing even when it maps it
 * privately, which never writes to it. Here that one file is opened for reading only, so that the descriptor QEMU gets,
 * and the mount it comes from, need not allow anything else.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

int open64(const char *path, int flags, ...)
{
	int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
	const char *memory = getenv("VIRTSCOPE_MEMORY");
	va_list ap;
	va_start(ap, flags);
	mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	if (memory && !strcmp(path, memory))
		flags = (flags & ~O_ACCMODE) | O_RDONLY;
	return next(path, flags, mode);
}

int __open64_2(const char *path, int flags)
{
	return open64(path, flags);
}
