/* A network of a sandbox's own, on the host's side: a network namespace that stands between the sandbox and a
 * program (pasta) that makes its connections with the host's sockets. The sandbox is on the other side of a tap
 * device or of a pair of interfaces, so it has no power over what is set up here. */
#include "init.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int outer = -1, inner = -1;  /* the two network namespaces */
static int handed = -1;             /* the sandbox's end, for our parent */

static int own_namespace(void)
{
	return open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
}

/* A tap device that stays when nobody has it open; its open file, or -1. */
static int make_tap(const char *name, int headers)
{
	struct ifreq q = { .ifr_flags = IFF_TAP | IFF_NO_PI | (headers ? IFF_VNET_HDR : 0) };
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return -1;
	snprintf(q.ifr_name, IFNAMSIZ, "%s", name);
	return ioctl(fd, TUNSETIFF, &q) ? -1 : fd;
}

/* A second network namespace, for the sandbox, and a pair of interfaces that joins the two. */
static int make_inside(const char *name, const char *peer)
{
	if (unshare(CLONE_NEWNET))
		return -1;
	inner = handed = own_namespace();
	return setns(outer, CLONE_NEWNET) || net_pair(name, peer, inner) ? -1 : 0;
}

/* Executing a program takes the powers of a user who is not root away, unless he says that they are to stay. */
static int keep_network_power(void)
{
	struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct d[2];
	if (syscall(SYS_capget, &h, d))
		return -1;
	d[0].inheritable |= 1u << CAP_NET_ADMIN;
	return syscall(SYS_capset, &h, d) || prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_ADMIN, 0, 0) ? -1 : 0;
}

static int run_tool(char **argv)
{
	int status;
	pid_t child = fork();
	if (!child) {
		if (keep_network_power())
			_exit(126);
		execvp(argv[0], argv);
		_exit(127);
	}
	if (child < 0 || waitpid(child, &status, 0) < 0)
		return -1;
	return status ? (errno = WIFEXITED(status) && WEXITSTATUS(status) == 127 ? ENOENT : EINVAL, -1) : 0;
}

static int tell(int to, const char *word)
{
	char room[CMSG_SPACE(2 * sizeof(int))] = { 0 };
	struct iovec data = { (void *)word, strlen(word) };
	struct msghdr m = { .msg_iov = &data, .msg_iovlen = 1 };
	int fds[2] = { handed, -1 }, count = handed < 0 ? 0 : 1;
	if (inner >= 0 && handed >= 0)
		fds[count++] = open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC);
	if (count) {
		m.msg_control = room;
		m.msg_controllen = CMSG_SPACE(count * sizeof *fds);
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(count * sizeof *fds);
		memcpy(CMSG_DATA(c), fds, count * sizeof *fds);
	}
	ssize_t n = sendmsg(to, &m, MSG_NOSIGNAL);
	for (int i = 0; i < count; i++)
		if (fds[i] != inner)
			close(fds[i]);
	handed = -1;
	return n < 0 ? -1 : 0;
}

/* Wait until the connector has made its interface. */
static int await(const char *name, pid_t connector)
{
	for (int waited = 0; !if_nametoindex(name); waited++) {
		if (waitpid(connector, NULL, WNOHANG) || waited > 10000)
			return errno = ENOLINK, -1;
		poll(NULL, 0, 1);
	}
	return 0;
}

/* Of the name server on the host's loopback, which nobody else can reach: one process stays outside and makes the
 * connections, on sockets of the namespace that it is sent. */
static int resolver = -1;

static int make_resolver(const char *address)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -1;
	pid_t child = publish_fork();
	if (!child) {
		char room[CMSG_SPACE(2 * sizeof(int))], byte, numbers[2][12];
		struct iovec data = { &byte, 1 };
		struct msghdr m = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
		int fds[2];
		for (int fd = 3; fd < 256; fd++)
			if (fd != pair[1])
				close(fd);
		if (recvmsg(pair[1], &m, MSG_CMSG_CLOEXEC) != 1 || !CMSG_FIRSTHDR(&m))
			_exit(1);
		memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fds);
		for (int i = 0; i < 2; i++) {
			snprintf(numbers[i], sizeof numbers[i], "%d", fds[i]);
			if (publish_add(i ? "tcp" : "udp", numbers[i], address, "53"))
				_exit(1);
		}
		publish_serve(pair[1]);
		_exit(0);
	}
	close(pair[1]);
	resolver = pair[0];
	return child < 0 ? -1 : 0;
}

static int serve_names(const char *address)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(53) };
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons(53) };
	int v6 = inet_pton(AF_INET, address, &in.sin_addr) != 1;
	if (v6 && inet_pton(AF_INET6, address, &in6.sin6_addr) != 1)
		return errno = EINVAL, -1;
	char room[CMSG_SPACE(2 * sizeof(int))] = { 0 };
	struct iovec data = { "r", 1 };
	struct msghdr m = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
	int fds[2];
	for (int i = 0; i < 2; i++) {
		fds[i] = socket(v6 ? AF_INET6 : AF_INET, (i ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC, 0);
		if (fds[i] < 0 || bind(fds[i], v6 ? (void *)&in6 : (void *)&in, v6 ? sizeof in6 : sizeof in) ||
		    (i && listen(fds[i], 16)))
			return -1;
	}
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof fds);
	memcpy(CMSG_DATA(c), fds, sizeof fds);
	int failed = sendmsg(resolver, &m, MSG_NOSIGNAL) != 1;
	close(fds[0]);
	close(fds[1]);
	return failed ? -1 : 0;
}

#define IS(name, n) (!strcmp(a[0], name) && count == (n) + 1)

static int step(char **a, int count, int control, pid_t connector, int go)
{
	struct record r = { count, (const char **)a, NULL };
	if (IS("tap", 2)) {
		handed = make_tap(a[1], atoi(a[2]));
		return handed < 0 ? -1 : 0;
	}
	if (IS("inside", 2))
		return make_inside(a[1], a[2]);
	if (IS("enter", 0))
		return setns(inner, CLONE_NEWNET);
	if (IS("leave", 0))
		return setns(outer, CLONE_NEWNET);
	if (IS("connect", 0))
		return write(go, &outer, sizeof outer) == sizeof outer ? 0 : -1;
	if (IS("tell", 1))
		return tell(control, a[1]);
	if (IS("set", 2))
		return write_whole(a[1], a[2], strlen(a[2]), 0, 0);
	if (count > 1 && !strcmp(a[0], "run"))
		return run_tool(a + 1);
	if (IS("publish", 4))
		return publish_add(a[1], a[2], a[3], a[4]);
	if (IS("resolve", 2))
		return serve_names(a[1]);
	if (IS("await", 1))
		return await(a[1], connector);
	return net_apply(&r);
}

/* network FD OPERATION [ARG...] [, OPERATION...]... -- CONNECTOR [ARG...]: set up, tell through FD, stay until FD ends. */
int network_main(int argc, char **argv)
{
	int go[2], control = argc ? atoi(argv[0]) : -1, last = 1;
	while (last < argc && strcmp(argv[last], "--"))
		last++;
	if (last + 1 >= argc || argc - last > 100 || pipe2(go, O_CLOEXEC))
		return 125;
	fcntl(control, F_SETFD, FD_CLOEXEC);
	pid_t holder = getpid(), connector = fork();
	if (!connector) {
		char *args[110], net[40], user[40];
		int n = 0;
		close(go[1]);
		for (int fd = 3; fd < 256; fd++)
			fcntl(fd, F_SETFD, FD_CLOEXEC);
		if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) || getppid() != holder ||
		    read(go[0], &outer, sizeof outer) != sizeof outer)
			_exit(125);
		for (int i = last + 1; i < argc; i++)
			args[n++] = argv[i];
		/* not its ns/net: it is in either namespace in turn */
		snprintf(net, sizeof net, "/proc/%d/fd/%d", (int)holder, outer);
		snprintf(user, sizeof user, "/proc/%d/ns/user", (int)holder);
		args[n++] = "--netns", args[n++] = net, args[n++] = "--userns", args[n++] = user, args[n] = NULL;
		signal(SIGPIPE, SIG_DFL);  /* pasta takes one that is ignored for a failure */
		execvp(args[0], args);
		fprintf(stderr, "%s: %s\n", args[0], strerror(errno));
		_exit(127);
	}
	close(go[0]);
	for (int i = 1; i + 2 < last; i++)
		if (!strcmp(argv[i], "resolve") && make_resolver(argv[i + 2]))
			return 125;
	if (connector < 0 || own_network() || (outer = own_namespace()) < 0) {
		fprintf(stderr, "user and network namespace: %s\n", strerror(errno));
		return 125;
	}
	for (int i = 1, end; i < last; i = end + 1) {
		for (end = i; end < last && strcmp(argv[end], ","); end++)
			;
		char *mark = argv[end];
		argv[end] = NULL;
		if (step(argv + i, end - i, control, connector, go[1])) {
			fprintf(stderr, "%s%s%s: %s\n", argv[i], end > i + 1 ? " " : "", end > i + 1 ? argv[i + 1] : "",
				strerror(errno));
			return 125;
		}
		argv[end] = mark;
	}
	publish_serve(control);
	/* the ports are closed when nobody has them open: all children, before us */
	signal(SIGTERM, SIG_IGN);
	kill(connector, SIGKILL);
	kill(0, SIGTERM);
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
		;
	return 0;
}
