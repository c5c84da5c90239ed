/* How the program starts, the event loop, and the end.
 *
 *   init vm                  first process of a virtual machine: load /modules, find the virtio port
 *   init uml TTY RING        first process of User Mode Linux: the channel is a raw terminal line; what the host
 *                            sends is in memory shared with it, the line only says how much more there is
 *   init container FD        first process of a container somebody else made (libvirt LXC)
 *   init namespaces FD ...   make the namespaces, then be the first process in them
 *   init clock               on the host: print the rate of its time stamp counter in kHz
 *   init launch ... -- CMD   on the host: die with the parent, limits, identity, then run CMD
 *   init network FD ...      on the host: a network between a sandbox and the host's connections
 */
#include "init.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

int contained;
static int is_machine, ring = -1;
static struct bytes incoming, body;

static void end(int status)
{
	if (!is_machine)
		_exit(status);
	reboot(contained ? RB_POWER_OFF : RB_AUTOBOOT);
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

static void stop_everything(void)
{
	kill(-1, SIGTERM);
	kill(-1, SIGKILL);
	/* without a machine of our own these would be the host's disks, all of them */
	if (!contained)
		sync();
	setup_release();
}

static void take(uint8_t type, uint16_t id, const unsigned char *p, uint32_t size)
{
	char why[512];
	uint32_t number = size >= 4 ? p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24 : 0;
	switch (type) {
	case T_BODY:
		if (body.len + size > BODY_MAX)
			end(71);
		bytes_add(&body, p, size);
		break;
	case T_SETUP:
		if (setup_apply(body.at + body.head, body.len, why, sizeof why))
			frame_text(T_FAILED, id, "%s", why);
		else
			frame_send(T_DONE, id, NULL, 0);
		bytes_drop(&body, body.len);
		break;
	case T_RUN:
		run_start(id, body.at + body.head, body.len);
		bytes_drop(&body, body.len);
		break;
	case T_STDIN:
		run_stdin(id, p, size);
		break;
	case T_STDIN_EOF:
		run_stdin_eof(id);
		break;
	case T_CREDIT_OUT:
	case T_CREDIT_ERR:
		run_credit(id, type == T_CREDIT_ERR, number);
		break;
	case T_CLOSE:
		run_close(id, number);
		break;
	case T_SIGNAL:
		run_signal(id, number);
		break;
	case T_WINSIZE:
		run_winsize(id, number & 0xffff, number >> 16);
		break;
	case T_BYE:
		stop_everything();
		frame_send(T_GONE, 0, NULL, 0);
		flush_blocking();
		end(0);
	}
}

static void take_all(void)
{
	while (incoming.len >= 8) {
		const unsigned char *h = incoming.at + incoming.head;
		uint32_t size = h[4] | h[5] << 8 | h[6] << 16 | (uint32_t)h[7] << 24;
		if (size > FRAME_MAX)
			end(71);
		if (incoming.len < 8 + size)
			return;
		take(h[0], h[2] | h[3] << 8, h + 8, size);
		bytes_drop(&incoming, 8 + size);
	}
}

/* A line takes input a byte at a time and drops what does not fit. So each four bytes of it say how many more are in
 * the ring, and the host hears when they have been taken.
 */
static void take_from_ring(const unsigned char *said, size_t size)
{
	static unsigned char number[4];
	static size_t have, at;
	while (size--) {
		number[have++] = *said++;
		if (have < sizeof number)
			continue;
		have = 0;
		size_t more = number[0] | number[1] << 8 | number[2] << 16 | (size_t)number[3] << 24;
		if (more > RING)
			end(71);
		bytes_reserve(&incoming, more);
		for (size_t left = more; left;) {
			size_t piece = left < RING - at ? left : RING - at;
			ssize_t got = pread(ring, incoming.at + incoming.head + incoming.len, piece, at);
			if (got <= 0)
				end(73);
			incoming.len += got;
			left -= got;
			at = (at + got) % RING;
		}
		frame_send(T_TAKEN, 0, number, sizeof number);
	}
}

/* Returns when the host has gone. */
static void serve(void)
{
	static unsigned char block[65536];
	struct pollfd fds[2 + 3 * RUNS_MAX];
	sigset_t children;
	int heard = 0;
	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	sigprocmask(SIG_BLOCK, &children, NULL);
	int signals = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
	fcntl(channel, F_SETFL, fcntl(channel, F_GETFL) | O_NONBLOCK);
	fcntl(channel, F_SETFD, FD_CLOEXEC);
	frame_text(T_HELLO, 0, "virtscope-init 1");
	for (;;) {
		if (flush_some() < 0 && heard)
			return;
		fds[0] = (struct pollfd){ channel, POLLIN | (outgoing.len ? POLLOUT : 0), 0 };
		fds[1] = (struct pollfd){ signals, POLLIN, 0 };
		int n = 2 + run_poll(fds + 2, 3 * RUNS_MAX);
		if (poll(fds, n, run_pending() ? 0 : -1) < 0 && errno != EINTR)
			return;
		if (fds[0].revents & (POLLIN | POLLHUP | POLLERR)) {
			ssize_t got = read(channel, block, sizeof block);
			if (got > 0) {
				heard = 1;
				if (ring < 0)
					bytes_add(&incoming, block, got);
				else
					take_from_ring(block, got);
				take_all();
			} else if (!got || (errno != EAGAIN && errno != EINTR)) {
				/* A virtio port reads as ended until the machine has told us that the host is there. */
				if (heard || !is_machine)
					return;
				poll(NULL, 0, 2);
			}
		}
		if (fds[1].revents) {
			struct signalfd_siginfo info;
			while (read(signals, &info, sizeof info) > 0)
				;
			run_reap();
		}
		run_service(fds + 2, n - 2);
	}
}

static void load_listed_modules(void)
{
	char name[256], path[300];
	FILE *list = fopen("/modules/list", "re");
	if (!list)
		return;
	while (fgets(name, sizeof name, list)) {
		name[strcspn(name, "\n")] = 0;
		snprintf(path, sizeof path, "/modules/%s", name);
		if (load_module(path, ""))
			fprintf(stderr, "virtscope: %s: %s\n", path, strerror(errno));
		snprintf(path, sizeof path, "module %s", name);
		mark(path);
	}
	fclose(list);
}

static int machine(const char *port)
{
	is_machine = 1;
	mark("init");
	mount("dev", "/dev", "devtmpfs", MS_NOSUID, "mode=755");
	load_listed_modules();
	for (int waited = 0; (channel = open(port, O_RDWR | O_NOCTTY)) < 0; waited++) {
		if (waited > 20000)
			end(72);
		poll(NULL, 0, 1);
	}
	mark("channel");
	return 0;
}

static void raw_line(int fd)
{
	struct termios t;
	if (!tcgetattr(fd, &t)) {
		cfmakeraw(&t);
		tcsetattr(fd, TCSANOW, &t);
	}
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	signal(SIGPIPE, SIG_IGN);
	if (!strcmp(mode, "clock"))
		return clock_main();
	if (!strcmp(mode, "launch"))
		return launch_main(argc - 2, argv + 2);
	if (!strcmp(mode, "network"))
		return network_main(argc - 2, argv + 2);
	umask(0);
	if (!strcmp(mode, "vm")) {
		machine(argc > 2 ? argv[2] : "/dev/vport0p1");
	} else if (!strcmp(mode, "uml") && argc > 3) {
		machine(argv[2]);
		raw_line(channel);
		if ((ring = open(argv[3], O_RDONLY | O_CLOEXEC)) < 0)
			end(72);
	} else if (!strcmp(mode, "container") && argc > 2) {
		contained = 1;
		channel = atoi(argv[2]);
		mark("init");
	} else if (!strcmp(mode, "namespaces") && argc > 2) {
		contained = 1;
		channel = atoi(argv[2]);
		if (namespaces_enter(argc - 3, argv + 3))
			return 125;
		mark("init");
	} else {
		fprintf(stderr, "virtscope init: started by virt-sandbox, not by hand\n");
		return 2;
	}
	serve();
	stop_everything();
	end(0);
}
