/* The guest side of a sandbox: one small static program, the init of the VM or container.
 *
 * main.c    how it starts (VM, User Mode Linux, namespaces, container), the event loop, the end
 * wire.c    frames on the one channel to the host
 * setup.c   the setup operations the host sends: mounts, files, clock, hostname, modules
 * run.c     running commands: pipes or a pty, credit, signals, exit status
 * net.c     interfaces, addresses, routes, DHCP
 * clock.c   the rate of the host's time stamp counter
 * launch.c  helpers that run on the host: die with the parent, namespaces
 * publish.c ports of the host that lead into a sandbox
 * router.c  the host's side of a sandbox's network: a namespace between it and the host's connections
 *
 * It holds no policy: the host decides, in Python, and sends operations (see wire.py for the frames).
 */
#ifndef VIRTSCOPE_INIT_H
#define VIRTSCOPE_INIT_H

#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
	/* host to guest */
	T_BODY = 1, T_SETUP = 2, T_RUN = 3, T_STDIN = 4, T_STDIN_EOF = 5, T_CREDIT_OUT = 6, T_CREDIT_ERR = 7,
	T_SIGNAL = 8, T_WINSIZE = 9, T_BYE = 10, T_CLOSE = 11,
	/* guest to host */
	T_HELLO = 65, T_DONE = 66, T_FAILED = 67, T_STARTED = 68, T_STDOUT = 69, T_STDERR = 70, T_CREDIT_IN = 71,
	T_EXIT = 72, T_MARK = 73, T_GONE = 74, T_TAKEN = 75
};

#define FRAME_MAX 32768u
#define WINDOW (256u * 1024u)
#define RING (1u << 20)
#define BODY_MAX (16u << 20)
#define RUNS_MAX 16

struct bytes { unsigned char *at; size_t head, len, cap; };

void bytes_reserve(struct bytes *b, size_t extra);
void bytes_add(struct bytes *b, const void *data, size_t size);
void bytes_drop(struct bytes *b, size_t size);

/* One record of a body: strings that end in NUL, lengths beside them. */
struct record { uint32_t count; const char **args; uint32_t *sizes; };
int record_next(const unsigned char *body, size_t size, size_t *at, struct record *r);
void record_free(struct record *r);

extern int channel;            /* file descriptor to the host */
extern struct bytes outgoing;  /* frames not yet written */
void frame_send(uint8_t type, uint16_t id, const void *payload, uint32_t size);
void frame_text(uint8_t type, uint16_t id, const char *format, ...) __attribute__((format(printf, 3, 4)));
void mark(const char *name);
void flush_blocking(void);
int flush_some(void);          /* 0, or -1 when the host is gone */

extern int contained;          /* no machine of our own: drop privileges for every command, exit at the end */
int setup_apply(const unsigned char *body, size_t size, char *why, size_t why_size);
void setup_release(void);      /* unmount what may hold data */
int make_directories(const char *path, mode_t mode, uid_t uid, gid_t gid);
int write_whole(const char *path, const void *data, size_t size, int flags, mode_t mode);
int load_module(const char *path, const char *params);

void run_start(uint16_t id, const unsigned char *body, size_t size);
void run_stdin(uint16_t id, const void *data, size_t size);
void run_stdin_eof(uint16_t id);
void run_credit(uint16_t id, int which, uint32_t amount);
void run_close(uint16_t id, int which);  /* the host's reader went away */
void run_signal(uint16_t id, int signal);
void run_winsize(uint16_t id, unsigned rows, unsigned columns);
void run_reap(void);
struct pollfd;
int run_poll(struct pollfd *fds, int most);
void run_service(struct pollfd *fds, int count);
int run_pending(void);         /* something can be done without waiting */

int net_apply(const struct record *r);
int net_pair(const char *name, const char *peer, int peer_namespace);

int clock_main(void);
int launch_main(int argc, char **argv);
int namespaces_enter(int argc, char **argv);
int own_network(void);
int network_main(int argc, char **argv);
int publish_add(const char *protocol, const char *listener, const char *address, const char *port);
void publish_serve(int control);
pid_t publish_fork(void);      /* a child that ends with us */

#endif
