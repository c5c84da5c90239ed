/*
 * Loaded before User Mode Linux on hosts whose processors have more register state than it has room for (AMX): the
 * host takes a process's extended state only whole, User Mode Linux hands it a part, and so can start no process.
 *
 * Here the part is put into the whole: reading gives User Mode Linux as much as it asks for, writing takes the rest
 * from what the process has. The rest are the AMX tiles, which User Mode Linux's own processes do not have anyway.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define STATE 0x202 /* NT_X86_XSTATE */

long ptrace(enum __ptrace_request request, ...)
{
	static __thread unsigned char whole[65536] __attribute__((aligned(64)));
	va_list ap;
	va_start(ap, request);
	pid_t pid = va_arg(ap, pid_t);
	void *address = va_arg(ap, void *);
	void *data = va_arg(ap, void *);
	va_end(ap);

	if (request == PTRACE_SETREGSET && (long)address == STATE) {
		const struct iovec *part = data;
		struct iovec all = { whole, sizeof whole };
		long r = syscall(SYS_ptrace, PTRACE_GETREGSET, pid, STATE, &all);
		if (r < 0)
			return r;
		if (part->iov_len < all.iov_len) {
			memcpy(whole, part->iov_base, part->iov_len);
			return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, STATE, &all);
		}
	}
	if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
		long value;
		long r = syscall(SYS_ptrace, request, pid, address, &value);
		return r < 0 ? r : value;
	}
	return syscall(SYS_ptrace, request, pid, address, data);
}
