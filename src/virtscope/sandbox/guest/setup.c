/* The setup operations. A record is the operation's name and its arguments; a name that starts with '?' may fail. */
#include "init.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/random.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#define TREE_CLONE 1
#define TREE_RECURSIVE 0x8000
#define MOVE_EMPTY_PATH 4

struct mount_attributes { uint64_t set, clear, propagation, userns; };

static int slots[64];
static char *held[64];
static int held_count;

int make_directories(const char *path, mode_t mode, uid_t uid, gid_t gid)
{
	char part[4096];
	struct stat s;
	if (!stat(path, &s))
		return S_ISDIR(s.st_mode) ? 0 : (errno = ENOTDIR, -1);
	if (strlen(path) >= sizeof part)
		return errno = ENAMETOOLONG, -1;
	strcpy(part, path);
	for (char *p = part + 1;; p++) {
		if (*p && *p != '/')
			continue;
		char kept = *p;
		*p = 0;
		if (!mkdir(part, kept ? 0755 : mode)) {
			if (!kept && chmod(part, mode))
				return -1;
			if (uid != (uid_t)-1 && chown(part, uid, gid) && !contained)
				return -1;
		} else if (errno != EEXIST && stat(part, &s)) {
			return -1;
		}
		if (!kept)
			return 0;
		*p = kept;
	}
}

int write_whole(const char *path, const void *data, size_t size, int flags, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | flags, mode);
	if (fd < 0)
		return -1;
	while (size) {
		ssize_t n = write(fd, data, size);
		if (n < 0) {
			int kept = errno;
			close(fd);
			return errno = kept, -1;
		}
		data = (const char *)data + n;
		size -= n;
	}
	return close(fd);
}

int load_module(const char *path, const char *params)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	int r = syscall(SYS_finit_module, fd, params, 0);
	int kept = errno;
	close(fd);
	errno = kept;
	return r && errno == EEXIST ? 0 : r;
}

static int copy_descriptor(int from, const char *to, mode_t mode, uid_t uid, gid_t gid)
{
	char block[65536];
	ssize_t n = -1;
	int fd = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -1;
	while ((n = read(from, block, sizeof block)) > 0)
		for (ssize_t done = 0; done < n;) {
			ssize_t w = write(fd, block + done, n - done);
			if (w < 0)
				goto failed;
			done += w;
		}
	if (n < 0 || fchmod(fd, mode) || (fchown(fd, uid, gid) && !contained))
		goto failed;
	return close(fd);
failed:;
	int kept = errno;
	close(fd);
	return errno = kept, -1;
}

/* Make the tree at path the root. A fresh rootfs cannot be pivoted away from; a mount namespace can and must be. */
static int change_root(const char *path)
{
	if (contained) {
		if (chdir(path) || syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH))
			return -1;
		return chdir("/");
	}
	if (chdir(path) || mount(".", "/", NULL, MS_MOVE, NULL) || chroot("."))
		return -1;
	return chdir("/");
}

static int seed_random(const char *data, size_t size)
{
	struct { int entropy, size; unsigned char data[256]; } pool;
	if (size > sizeof pool.data)
		size = sizeof pool.data;
	pool.entropy = size * 8;
	pool.size = size;
	memcpy(pool.data, data, size);
	int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	int r = ioctl(fd, RNDADDENTROPY, &pool);
	if (!r)
		r = ioctl(fd, RNDRESEEDCRNG, 0);
	close(fd);
	return r;
}

static int wait_for(const char *path, int milliseconds)
{
	for (int waited = 0; access(path, F_OK); waited += 5) {
		if (waited >= milliseconds)
			return errno = ETIMEDOUT, -1;
		poll(NULL, 0, 5);
	}
	return 0;
}

/* Filesystems the kernel offers for a block device, in its own order, until one fits. */
static int mount_any(const char *device, const char *target, unsigned long flags, const char *types)
{
	char list[256], *rest = list, *type;
	snprintf(list, sizeof list, "%s", types);
	while ((type = strsep(&rest, ",")))
		if (*type && !mount(device, target, type, flags, NULL))
			return 0;
	return -1;
}

/* The block device whose virtio serial is this one. */
static int find_disk(const char *serial, const char *link)
{
	for (int waited = 0; waited < 3000; waited += 10) {
		DIR *d = opendir("/sys/block");
		struct dirent *e;
		while (d && (e = readdir(d))) {
			char path[600], got[64] = "";
			snprintf(path, sizeof path, "/sys/block/%s/serial", e->d_name);
			FILE *f = fopen(path, "re");
			if (!f)
				continue;
			size_t n = fread(got, 1, sizeof got - 1, f);
			fclose(f);
			if (n && !strncmp(got, serial, strlen(serial)) && (size_t)n <= strlen(serial) + 1) {
				snprintf(path, sizeof path, "/dev/%s", e->d_name);
				closedir(d);
				unlink(link);
				/* sysfs knows the disk a moment before there is a device file */
				return wait_for(path, 1000) || symlink(path, link);
			}
		}
		if (d)
			closedir(d);
		poll(NULL, 0, 10);
	}
	return errno = ENODEV, -1;
}

#define IS(name, n) (!strcmp(op, name) && r->count == (n) + 1)
#define NUMBER(i) strtoul(a[i], NULL, 0)

static int apply(const struct record *r)
{
	const char *const *a = r->args;
	const char *op = *a[0] == '?' ? a[0] + 1 : a[0];

	if (IS("mkdir", 2))
		return make_directories(a[1], NUMBER(2), -1, -1);
	if (IS("mkdir", 4))
		return make_directories(a[1], NUMBER(2), NUMBER(3), NUMBER(4));
	if (IS("file", 5)) {
		if (write_whole(a[1], a[5], r->sizes[5], O_CREAT | O_TRUNC, 0600) || chmod(a[1], NUMBER(2)))
			return -1;
		return chown(a[1], NUMBER(3), NUMBER(4)) && !contained ? -1 : 0;
	}
	if (IS("write", 2))
		return write_whole(a[1], a[2], r->sizes[2], 0, 0);
	if (IS("symlink", 2))
		return symlink(a[1], a[2]);
	if (IS("device", 5)) {
		if (mknod(a[1], NUMBER(2), makedev(NUMBER(3), NUMBER(4))))
			return -1;
		return chmod(a[1], NUMBER(5));
	}
	if (IS("mount", 5))
		return mount(a[1], a[2], a[3], NUMBER(4), *a[5] ? a[5] : NULL);
	if (IS("mount-any", 4))
		return mount_any(a[1], a[2], NUMBER(3), a[4]);
	if (IS("bind", 2))
		return mount(a[1], a[2], NULL, MS_BIND | MS_REC, NULL);
	if (IS("read-only", 1)) {
		struct mount_attributes m = { 1 | 2, 0, 0, 0 };  /* rdonly, nosuid */
		return syscall(SYS_mount_setattr, -1, a[1], TREE_RECURSIVE, &m, sizeof m);
	}
	if (IS("remount", 2))
		return mount(NULL, a[1], NULL, MS_REMOUNT | MS_BIND | NUMBER(2), NULL);
	if (IS("private", 1))
		return mount(NULL, a[1], NULL, MS_REC | MS_SLAVE, NULL);
	if (IS("unmount", 1))
		return umount2(a[1], MNT_DETACH);
	if (IS("hold", 1) && held_count < 64) {
		held[held_count++] = strdup(a[1]);
		return 0;
	}
	if (IS("grab", 2) && NUMBER(1) < 64) {
		int fd = syscall(SYS_open_tree, AT_FDCWD, a[2], TREE_CLONE | TREE_RECURSIVE | O_CLOEXEC);
		slots[NUMBER(1)] = fd;
		return fd < 0 ? -1 : 0;
	}
	if (IS("place", 2) && NUMBER(1) < 64) {
		int fd = slots[NUMBER(1)];
		int failed = syscall(SYS_move_mount, fd, "", AT_FDCWD, a[2], MOVE_EMPTY_PATH);
		close(fd);
		return failed;
	}
	if (IS("open", 2) && NUMBER(1) < 64) {
		int fd = slots[NUMBER(1)] = open(a[2], O_RDONLY | O_CLOEXEC);
		return fd < 0 ? -1 : 0;
	}
	if (IS("copy", 5) && NUMBER(1) < 64) {
		int fd = slots[NUMBER(1)];
		int failed = copy_descriptor(fd, a[2], NUMBER(3), NUMBER(4), NUMBER(5));
		close(fd);
		return failed;
	}
	if (IS("root", 1))
		return change_root(a[1]);
	if (IS("module", 2))
		return load_module(a[1], a[2]);
	if (IS("hostname", 1))
		return sethostname(a[1], r->sizes[1]);
	if (IS("clock", 2)) {
		struct timespec t = { strtoll(a[1], NULL, 10), strtol(a[2], NULL, 10) };
		return clock_settime(CLOCK_REALTIME, &t);
	}
	if (IS("seed", 1))
		return seed_random(a[1], r->sizes[1]);
	if (IS("wait", 2))
		return wait_for(a[1], NUMBER(2));
	if (IS("disk", 2))
		return find_disk(a[1], a[2]);
	if (IS("mark", 1)) {
		mark(a[1]);
		return 0;
	}
	return net_apply(r);
}

int setup_apply(const unsigned char *body, size_t size, char *why, size_t why_size)
{
	struct record r = { 0 };
	size_t at = 0;
	int more, status = 0;
	while (!status && (more = record_next(body, size, &at, &r)) > 0) {
		if (apply(&r) && r.args[0][0] != '?') {
			int error = errno;
			snprintf(why, why_size, "%s %s%s%s: %s", r.args[0], r.count > 1 ? r.args[1] : "",
				 r.count > 2 ? " " : "", r.count > 2 ? r.args[2] : "", strerror(error));
			status = -1;
		}
		record_free(&r);
	}
	if (!status && at != size) {
		snprintf(why, why_size, "malformed setup record");
		status = -1;
	}
	return status;
}

void setup_release(void)
{
	while (held_count--)
		if (umount2(held[held_count], 0))
			mount(NULL, held[held_count], NULL, MS_REMOUNT | MS_RDONLY, NULL);
	held_count = 0;
}
