/* Helpers on the host. They exist so that a child is bound to its parent's life before it runs anything. */
#include "init.h"
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	return 125;
}

static int die_with(pid_t parent)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0))
		return -1;
	if (parent && getppid() != parent)
		_exit(125);
	return 0;
}

#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

/* Where lent files are: in a folder that is hidden, so that there is a filesystem in memory. */
#define LENT "/run/virtscope-lent"

/* One user as himself in a user namespace of his own, so that he may unshare mounts. */
static int private_mounts(void)
{
	uid_t uid = getuid();
	gid_t gid = getgid();
	char map[64];
	if (unshare(CLONE_NEWNS)) {
		if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
			return -1;
		write_whole("/proc/self/setgroups", "deny", 4, 0, 0);
		snprintf(map, sizeof map, "%u %u 1", (unsigned)uid, (unsigned)uid);
		if (write_whole("/proc/self/uid_map", map, strlen(map), 0, 0))
			return -1;
		snprintf(map, sizeof map, "%u %u 1", (unsigned)gid, (unsigned)gid);
		if (write_whole("/proc/self/gid_map", map, strlen(map), 0, 0))
			return -1;
	}
	return mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL);
}

/* Files that the child gets as descriptors, from a mount that nothing can be written through: what only a descriptor
 * says can be undone by opening it once more through /proc.
 */
static struct { int fd, handle; const char *path; } again[8];
static int again_count;

static int add_again(char *value)
{
	char *path = strchr(value, ':');
	if (!path || again_count == 8)
		return -1;
	again[again_count].fd = atoi(value);
	again[again_count++].path = path + 1;
	return 0;
}

static int find_again(void)
{
	struct stat given, found;
	for (int i = 0; i < again_count; i++) {
		again[i].handle = open(again[i].path, O_PATH | O_CLOEXEC);
		if (again[i].handle < 0 || fstat(again[i].handle, &found) || fstat(again[i].fd, &given))
			return -1;
		if (found.st_dev != given.st_dev || found.st_ino != given.st_ino)
			return errno = ESTALE, -1;
	}
	return 0;
}

static int open_again(void)
{
	char path[32];
	for (int i = 0; i < again_count; i++) {
		snprintf(path, sizeof path, "/proc/self/fd/%d", again[i].handle);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || dup2(fd, again[i].fd) < 0)
			return -1;
		close(fd);
		close(again[i].handle);
	}
	return 0;
}

/* What the child sees: everything read-only, the hidden folders empty, the shown paths back in their places `at`. */
static int confine(char **hide, int hidden, char **show, char **at, char *writable, int shown, const char *scratch)
{
	struct { uint64_t set, clear, propagation, userns; } attributes = { 1, 0, 0, 0 };
	int trees[32];
	struct stat kinds[32];
	if (private_mounts())
		return fail("mount namespace");
	if (find_again())
		return fail("a file that is passed on");
	for (int i = 0; i < shown; i++) {
		trees[i] = syscall(SYS_open_tree, AT_FDCWD, show[i], 1 | 0x8000 | O_CLOEXEC);
		if (trees[i] < 0 || stat(show[i], &kinds[i]))
			return fail(show[i]);
	}
	for (int i = 0; i < hidden; i++)
		if (mount("none", hide[i], "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m"))
			return fail(hide[i]);
	if (scratch && mount("scratch", scratch, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"))
		return fail(scratch);
	for (int i = 0; i < shown; i++) {
		if (S_ISDIR(kinds[i].st_mode)) {
			make_directories(at[i], 0755, -1, -1);
		} else {
			char folder[4096];
			snprintf(folder, sizeof folder, "%s", at[i]);
			*strrchr(folder, '/') = 0;
			make_directories(folder, 0755, -1, -1);
			if (access(at[i], F_OK))
				write_whole(at[i], "", 0, O_CREAT, 0644);
		}
	}
	if (syscall(SYS_mount_setattr, -1, "/", 0x8000, &attributes, sizeof attributes))
		return fail("read-only root");
	if (open_again())
		return fail("a file that is passed on");
	attributes.set = 0;
	attributes.clear = 1;
	if (scratch && syscall(SYS_mount_setattr, -1, scratch, 0, &attributes, sizeof attributes))
		return fail(scratch);
	attributes.set = 1;
	attributes.clear = 0;
	for (int i = 0; i < shown; i++) {
		if (!writable[i] && syscall(SYS_mount_setattr, trees[i], "", 0x8000 | 0x1000, &attributes, sizeof attributes))
			return fail(show[i]);
		if (syscall(SYS_move_mount, trees[i], "", AT_FDCWD, at[i], 4))
			return fail(at[i]);
	}
	return 0;
}

static volatile sig_atomic_t guarded;

static void end_guarded(int number)
{
	(void)number;
	kill(guarded, SIGKILL);
}

/* Outside a process namespace: end its first process when asked to, and be there to reap it. Does not return. */
static void guard(pid_t first)
{
	struct sigaction action = { .sa_handler = end_guarded };
	int status = 0;
	guarded = first;
	sigaction(SIGTERM, &action, NULL);
	while (waitpid(first, &status, 0) < 0 && errno == EINTR)
		;
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

/* A process namespace: when its first process dies the kernel ends all the others, whatever they are. */
static int own_processes(pid_t parent)
{
	if (unshare(CLONE_NEWPID) && (unshare(CLONE_NEWUSER | CLONE_NEWPID)))
		return -1;
	if (die_with(parent))
		return -1;
	pid_t first = fork();
	if (first > 0) {
		for (int fd = 3; fd < 256; fd++)
			close(fd);
		guard(first);
	}
	return first;
}

/* Numbers like "0-1,3" as a bit mask; the host checked them, so what is beyond the mask cannot be. */
static int read_list(const char *text, unsigned long *mask, int most)
{
	const int each = 8 * sizeof *mask;
	while (*text) {
		char *rest;
		long first = strtol(text, &rest, 10), last = first;
		if (rest == text)
			return errno = EINVAL, -1;
		if (*rest == '-')
			last = strtol(rest + 1, &rest, 10);
		if (first < 0 || last < first || last >= most || (*rest && *rest != ','))
			return errno = EINVAL, -1;
		for (; first <= last; first++)
			mask[first / each] |= 1ul << first % each;
		text = *rest ? rest + 1 : rest;
	}
	return 0;
}

/* On these processors, or with memory of these nodes, and no other: what a user without control groups can do. */
static int stay_on(const char *list, int nodes)
{
	unsigned long mask[64] = { 0 };
	const int bind = 2;
	if (read_list(list, mask, 8 * sizeof mask))
		return -1;
	if (nodes)
		return syscall(SYS_set_mempolicy, bind, mask, 8 * sizeof mask + 1);
	return syscall(SYS_sched_setaffinity, 0, sizeof mask, mask);
}

/* What the caller has open is not for the child: neither what his shell left open, nor this program's own file. */
static void close_others(void)
{
	if (!syscall(SYS_close_range, 3, ~0u, 4 /* on exec */))
		return;
	for (int fd = 3; fd < 4096; fd++)
		fcntl(fd, F_SETFD, FD_CLOEXEC);
}

/*
 * launch [close=others] [keep=FD]... [parent=PID] [cgroup=PROCS-FILE]... [user=UID:GID[:GID...]] [confine=1] [hide=DIR]... [show=PATH]...
 * [writable=PATH]... [scratch=DIR] [processes=own] [layout=fixed] [again=FD:PATH]... [processors=LIST] [nodes=LIST] [lend=N:FILE]... -- CMD ARG...
 */
int launch_main(int argc, char **argv)
{
	pid_t parent = 0;
	int i, hidden = 0, shown = 0, confined = 0, own = 0;
	char *user = NULL, *scratch = NULL, *hide[32], *show[32], *at[32], writable[32] = { 0 }, self[16];
	struct rlimit none = { 0, 0 };
	int n = snprintf(self, sizeof self, "%d", (int)getpid());
	for (i = 0; i < argc && strcmp(argv[i], "--"); i++) {
		char *value = strchr(argv[i], '=');
		if (!value || hidden == 32 || shown == 32)
			return fprintf(stderr, "launch: %s\n", argv[i]), 125;
		*value++ = 0;
		if (!strcmp(argv[i], "close")) {
			close_others();
		} else if (!strcmp(argv[i], "keep")) {
			fcntl(atoi(value), F_SETFD, 0);
		} else if (!strcmp(argv[i], "parent")) {
			parent = atoi(value);
		} else if (!strcmp(argv[i], "cgroup")) {
			if (write_whole(value, self, n, 0, 0))
				return fail(value);
		} else if (!strcmp(argv[i], "processors") || !strcmp(argv[i], "nodes")) {
			if (stay_on(value, *argv[i] == 'n'))
				return fail(value);
		} else if (!strcmp(argv[i], "user")) {
			user = value;
		} else if (!strcmp(argv[i], "confine")) {
			confined = 1;
		} else if (!strcmp(argv[i], "scratch")) {
			scratch = value;
		} else if (!strcmp(argv[i], "processes")) {
			own = 1;
		} else if (!strcmp(argv[i], "again")) {
			if (add_again(value))
				return fprintf(stderr, "launch: again=%s\n", value), 125;
		} else if (!strcmp(argv[i], "layout")) {
			personality(ADDR_NO_RANDOMIZE);
		} else if (!strcmp(argv[i], "hide")) {
			hide[hidden++] = value;
		} else if (!strcmp(argv[i], "show") || !strcmp(argv[i], "writable")) {
			writable[shown] = *argv[i] == 'w';
			at[shown] = value;
			show[shown++] = value;
		} else if (!strcmp(argv[i], "lend")) {
			/* one file, writable, alone in a folder: that can be exported, and nothing beside it */
			char *file = strchr(value, '/');
			if (!file || file == value || asprintf(&at[shown], LENT "/%.*s/file", (int)(file - value - 1), value) < 0)
				return fprintf(stderr, "launch: %s\n", value), 125;
			writable[shown] = 1;
			show[shown++] = file;
		}
	}
	if (i + 1 >= argc)
		return 125;
	setrlimit(RLIMIT_CORE, &none);
	if (confined && confine(hide, hidden, show, at, writable, shown, scratch))
		return 125;
	if (user) {
		gid_t groups[64];
		int count = 0;
		char *rest = user;
		uid_t uid = strtoul(rest, &rest, 10);
		gid_t gid = *rest ? strtoul(rest + 1, &rest, 10) : 0;
		while (*rest == ':' && count < 64)
			groups[count++] = strtoul(rest + 1, &rest, 10);
		if (setgroups(count, groups) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
			return fail("changing user");
	}
	/* after the identity: changing it clears the death signal */
	if (die_with(parent))
		return fail("prctl");
	setpgid(0, 0);
	if (own && (own_processes(parent) || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)))
		return fail("process namespace");
	signal(SIGPIPE, SIG_DFL);
	execvp(argv[i + 1], argv + i + 1);
	return fail(argv[i + 1]);
}

/* The map of a new user namespace: one user as himself, or everyone as they are, which only root may give. */
static int map_users(int everyone, uid_t uid, gid_t gid)
{
	char path[64], map[64];
	pid_t target = getpid();
	int go[2], status = 0;
	if (pipe2(go, O_CLOEXEC))
		return -1;
	pid_t writer = everyone ? fork() : 0;
	if (everyone && !writer) {
		char byte;
		close(go[1]);
		if (read(go[0], &byte, 1) != 1)
			_exit(1);
		const char *all = "0 0 4294967295";
		snprintf(path, sizeof path, "/proc/%d/uid_map", (int)target);
		if (write_whole(path, all, strlen(all), 0, 0))
			_exit(1);
		snprintf(path, sizeof path, "/proc/%d/gid_map", (int)target);
		_exit(write_whole(path, all, strlen(all), 0, 0) ? 1 : 0);
	}
	if (unshare(CLONE_NEWUSER))
		return -1;
	if (everyone) {
		if (writer < 0 || write(go[1], "x", 1) != 1 || waitpid(writer, &status, 0) < 0 || status)
			return errno = EPERM, -1;
	} else {
		write_whole("/proc/self/setgroups", "deny", 4, 0, 0);
		snprintf(map, sizeof map, "%u %u 1", (unsigned)uid, (unsigned)uid);
		if (write_whole("/proc/self/uid_map", map, strlen(map), 0, 0))
			return -1;
		snprintf(map, sizeof map, "%u %u 1", (unsigned)gid, (unsigned)gid);
		if (write_whole("/proc/self/gid_map", map, strlen(map), 0, 0))
			return -1;
	}
	close(go[0]);
	close(go[1]);
	return 0;
}

/* A user namespace in which we may do anything to a network namespace of our own. */
int own_network(void)
{
	return map_users(0, getuid(), getgid()) || unshare(CLONE_NEWNET) ? -1 : 0;
}

/* Into a network namespace that router.c made: directly, or through the user namespace that owns it. */
static int join_network(const char *fds)
{
	char *rest;
	int network = strtol(fds, &rest, 10), owner = *rest ? atoi(rest + 1) : -1;
	if (setns(network, CLONE_NEWNET) && (setns(owner, CLONE_NEWUSER) || setns(network, CLONE_NEWNET)))
		return -1;
	close(network);
	close(owner);
	return 0;
}

/* namespaces FD PARENT NETWORK (none, host, or descriptors of a namespace NET:USER): returns in the first process of the new namespaces; the outer one waits and dies. */
int namespaces_enter(int argc, char **argv)
{
	uid_t uid = getuid();
	gid_t gid = getgid();
	if (argc != 2)
		return fprintf(stderr, "namespaces: wrong arguments\n"), -1;
	if (strchr(argv[1], ':') && join_network(argv[1])) {
		fprintf(stderr, "network namespace: %s\n", strerror(errno));
		return -1;
	}
	/* a change of credentials clears the death signal, so it comes second */
	if (map_users(!geteuid(), uid, gid) || die_with(atoi(argv[0]))) {
		fprintf(stderr, "user namespace: %s\n", strerror(errno));
		return -1;
	}
	int flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;
	if (!strcmp(argv[1], "none"))
		flags |= CLONE_NEWNET;
	if (unshare(flags)) {
		fprintf(stderr, "namespaces: %s\n", strerror(errno));
		return -1;
	}
	unshare(CLONE_NEWCGROUP);
	pid_t first = fork();
	if (first < 0)
		return -1;
	if (first) {
		close(channel);
		guard(first);
	}
	/* The outer process's id is not known in here (getppid is 0), but its death still signals us. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0))
		return -1;
	setsid();
	return 0;
}
