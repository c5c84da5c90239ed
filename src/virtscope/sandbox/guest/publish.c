/* Ports of the host that lead into a sandbox. The listening sockets are the host's, opened by our parent; the
 * connections on from here are made in the namespace that we are in. Each direction of a connection is a process
 * that reads and writes, so that neither waits for the other; all end with us. */
#include "init.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PORTS_MAX 32
#define CONNECTIONS_MAX 256  /* at once, over all ports */
#define PEERS_MAX 64         /* of a datagram port; the one that was silent longest makes room */

struct address { union { struct sockaddr any; struct sockaddr_in in; struct sockaddr_in6 in6; }; socklen_t size; };
static struct port { int listener, datagrams; struct address to; } ports[PORTS_MAX];
static int port_count;

int publish_add(const char *protocol, const char *listener, const char *address, const char *port)
{
	struct port *p = ports + port_count;
	if (port_count == PORTS_MAX)
		return errno = ENOSPC, -1;
	p->listener = atoi(listener);
	p->datagrams = !strcmp(protocol, "udp");
	memset(&p->to, 0, sizeof p->to);
	if (strchr(address, ':')) {
		p->to.in6.sin6_family = AF_INET6;
		p->to.in6.sin6_port = htons(atoi(port));
		p->to.size = sizeof p->to.in6;
	} else {
		p->to.in.sin_family = AF_INET;
		p->to.in.sin_port = htons(atoi(port));
		p->to.size = sizeof p->to.in;
	}
	if (inet_pton(p->to.any.sa_family, address, strchr(address, ':') ? (void *)&p->to.in6.sin6_addr :
		      (void *)&p->to.in.sin_addr) != 1)
		return errno = EINVAL, -1;
	fcntl(p->listener, F_SETFD, FD_CLOEXEC);
	port_count++;
	return 0;
}

pid_t publish_fork(void)
{
	pid_t parent = getpid(), child = fork();
	if (!child && (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) || getppid() != parent))
		_exit(1);
	return child;
}

static void carry(int from, int to)
{
	static char block[1 << 16];
	ssize_t n, w = 0;
	while ((n = read(from, block, sizeof block)) > 0)
		for (ssize_t done = 0; done < n; done += w)
			if ((w = write(to, block + done, n - done)) <= 0) {
				shutdown(from, SHUT_RD);
				return;
			}
	shutdown(to, SHUT_WR);
}

static void connection(int client, const struct port *p)
{
	int s = socket(p->to.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), status;
	/* a reset, not an orderly end, tells the client that there was nobody */
	struct linger reset = { 1, 0 };
	for (int i = 0; i < port_count; i++)
		close(ports[i].listener);
	if (s < 0 || connect(s, &p->to.any, p->to.size)) {
		setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
		_exit(1);
	}
	pid_t back = publish_fork();
	if (back)
		carry(client, s);
	else
		carry(s, client);
	if (back > 0)
		waitpid(back, &status, 0);
	_exit(0);
}

static int same(const struct address *a, const struct address *b)
{
	return a->size == b->size && !memcmp(&a->any, &b->any, a->size);
}

/* Every client of a datagram port has a socket of its own, so that answers find their way back. */
static void datagrams(const struct port *p)
{
	static struct { struct address from; unsigned used; } peers[PEERS_MAX];
	static char block[1 << 16];
	struct pollfd fds[PEERS_MAX + 1] = { { p->listener, POLLIN, 0 } };
	int count = 0, at;
	for (unsigned now = 1;; now++) {
		if (poll(fds, count + 1, -1) < 0 && errno != EINTR)
			return;
		for (int i = 0; i < count; i++) {
			ssize_t n = fds[i + 1].revents ? recv(fds[i + 1].fd, block, sizeof block, MSG_DONTWAIT) : -1;
			if (n >= 0) {
				peers[i].used = now;
				sendto(p->listener, block, n, MSG_DONTWAIT, &peers[i].from.any, peers[i].from.size);
			}
		}
		if (!fds[0].revents)
			continue;
		struct address from = { .size = sizeof from.in6 };
		ssize_t n = recvfrom(p->listener, block, sizeof block, MSG_DONTWAIT, &from.any, &from.size);
		if (n < 0)
			continue;
		for (at = 0; at < count && !same(&peers[at].from, &from); at++)
			;
		if (at == count) {
			int s = socket(p->to.any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
			if (s < 0 || connect(s, &p->to.any, p->to.size)) {
				close(s);
				continue;
			}
			if (count == PEERS_MAX) {
				at = 0;
				for (int i = 1; i < count; i++)
					if (peers[i].used < peers[at].used)
						at = i;
				close(fds[at + 1].fd);
			} else {
				count++;
			}
			peers[at].from = from;
			fds[at + 1] = (struct pollfd){ s, POLLIN, 0 };
		}
		peers[at].used = now;
		send(fds[at + 1].fd, block, n, MSG_DONTWAIT);
	}
}

static volatile sig_atomic_t ended;

static void child_ended(int number)
{
	(void)number;
	ended = 1;
}

/* Serve all ports until the other end of `control` is closed. */
void publish_serve(int control)
{
	struct pollfd fds[PORTS_MAX + 1] = { { control, POLLIN, 0 } };
	struct sigaction action = { .sa_handler = child_ended };
	int connections = 0, n = 1;
	sigaction(SIGCHLD, &action, NULL);
	for (int i = 0; i < port_count; i++) {
		if (ports[i].datagrams) {
			if (!publish_fork()) {
				datagrams(ports + i);
				_exit(1);
			}
		} else {
			fds[n++] = (struct pollfd){ ports[i].listener, POLLIN, 0 };
		}
	}
	for (;;) {
		int ready = poll(fds, n, connections >= CONNECTIONS_MAX ? 100 : -1);
		if (ended) {
			ended = 0;
			while (waitpid(-1, NULL, WNOHANG) > 0)
				connections -= connections > 0;
		}
		if (ready <= 0)
			continue;
		if (fds[0].revents)
			return;
		for (int i = 1, p = 0; i < n; i++, p++) {
			while (ports[p].datagrams)
				p++;
			if (!fds[i].revents || connections >= CONNECTIONS_MAX)
				continue;
			int client = accept4(ports[p].listener, NULL, NULL, SOCK_CLOEXEC);
			if (client < 0)
				continue;
			pid_t child = publish_fork();
			if (!child)
				connection(client, ports + p);
			connections += child > 0;
			close(client);
		}
		if (connections >= CONNECTIONS_MAX)
			poll(NULL, 0, 50);
	}
}
