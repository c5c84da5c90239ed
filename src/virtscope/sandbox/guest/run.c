/* Commands: each has an id, stdin with a window of WINDOW bytes, stdout and stderr sent as far as the host's credit goes. */
#include "init.h"
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

struct run {
	int used, exited, tty, in_eof, in_slot, out_slot, err_slot;
	uint16_t id;
	pid_t pid;
	int in, out, err;      /* our ends; with a tty in and out are the same pty master */
	uint32_t kind, value;  /* 0: exit status, 1: signal */
	uint32_t out_credit, err_credit;
	struct bytes queue;    /* stdin not yet taken by the command */
};

static struct run runs[RUNS_MAX];

struct spec {
	const char **argv, **env, *cwd, *term;
	uint32_t argc, envc;
	uid_t uid;
	gid_t gid, groups[64];
	int group_count, rows, columns, tty, keep_caps;
	struct { int what; struct rlimit limit; } limits[16];
	int limit_count;
	unsigned umask;
};

static struct run *find(uint16_t id)
{
	for (int i = 0; i < RUNS_MAX; i++)
		if (runs[i].used && runs[i].id == id)
			return &runs[i];
	return NULL;
}

static int parse(const unsigned char *body, size_t size, struct spec *s)
{
	struct record r = { 0 };
	size_t at = 0;
	int more;
	memset(s, 0, sizeof *s);
	s->cwd = "/";
	s->umask = 022;
	while ((more = record_next(body, size, &at, &r)) > 0) {
		const char *op = r.args[0];
		if (!strcmp(op, "argv") && r.count > 1) {
			s->argv = r.args + 1;
			s->argc = r.count - 1;
			r.args = NULL;
		} else if (!strcmp(op, "env")) {
			s->env = r.args + 1;
			s->envc = r.count - 1;
			r.args = NULL;
		} else if (!strcmp(op, "cwd") && r.count == 2) {
			s->cwd = r.args[1];
		} else if (!strcmp(op, "user") && r.count >= 3) {
			s->uid = strtoul(r.args[1], NULL, 10);
			s->gid = strtoul(r.args[2], NULL, 10);
			for (uint32_t i = 3; i < r.count && s->group_count < 64; i++)
				s->groups[s->group_count++] = strtoul(r.args[i], NULL, 10);
		} else if (!strcmp(op, "tty") && r.count == 3) {
			s->tty = 1;
			s->rows = atoi(r.args[1]);
			s->columns = atoi(r.args[2]);
		} else if (!strcmp(op, "limit") && r.count == 3 && s->limit_count < 16) {
			s->limits[s->limit_count].what = atoi(r.args[1]);
			s->limits[s->limit_count].limit.rlim_cur = s->limits[s->limit_count].limit.rlim_max =
				strtoull(r.args[2], NULL, 10);
			s->limit_count++;
		} else if (!strcmp(op, "umask") && r.count == 2) {
			s->umask = strtoul(r.args[1], NULL, 8);
		} else if (!strcmp(op, "keep-capabilities")) {
			s->keep_caps = 1;
		}
		free(r.args);
		free(r.sizes);
	}
	return more < 0 || !s->argv ? -1 : 0;
}

static int drop_capabilities(void)
{
	for (int cap = 0; cap < 64; cap++)
		prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct none[2] = { { 0 } };
	return syscall(SYS_capset, &header, none);
}

/* In the child. Returns only on failure, with errno set; *stage says what was being done. */
static void become(const struct spec *s, int in, int out, int err, int slave, char *stage)
{
	sigset_t empty;
	struct sigaction usual = { .sa_handler = SIG_DFL };
	*stage = 'e';
	sigemptyset(&empty);
	for (int n = 1; n < 32; n++)
		sigaction(n, &usual, NULL);
	sigprocmask(SIG_SETMASK, &empty, NULL);
	setsid();
	if (s->tty) {
		ioctl(slave, TIOCSCTTY, 0);
		in = out = err = slave;
	}
	if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
		return;
	/* a pipe is opened again as /dev/stderr or the like only by its owner */
	for (int fd = 0; fd < 3 && !s->tty; fd++)
		if (fchown(fd, s->uid, s->gid) && !contained)
			return;
	for (int i = 0; i < s->limit_count; i++)
		if (setrlimit(s->limits[i].what, &s->limits[i].limit))
			return;
	umask(s->umask);
	if (contained && !s->keep_caps)
		for (int cap = 0; cap < 64; cap++)
			prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
	if (setgroups(s->group_count, s->groups) && !contained)
		return;
	if (s->tty && fchown(slave, s->uid, -1) && !contained)
		return;
	if ((getgid() != s->gid && setresgid(s->gid, s->gid, s->gid)) ||
	    (getuid() != s->uid && setresuid(s->uid, s->uid, s->uid)))
		return;
	if (contained && !s->keep_caps && (drop_capabilities() || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)))
		return;
	*stage = 'c';
	if (chdir(s->cwd))
		return;
	*stage = 'x';
	environ = (char **)s->env;
	execvp(s->argv[0], (char **)s->argv);
}

static int open_pty(const struct spec *s, int *slave)
{
	int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC), unlock = 0;
	unsigned number;
	char name[32];
	if (master < 0)
		master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (master < 0)
		return -1;
	if (ioctl(master, TIOCSPTLCK, &unlock) || ioctl(master, TIOCGPTN, &number)) {
		close(master);
		return -1;
	}
	snprintf(name, sizeof name, "/dev/pts/%u", number);
	*slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	struct winsize w = { s->rows, s->columns, 0, 0 };
	if (*slave >= 0)
		ioctl(*slave, TIOCSWINSZ, &w);
	return *slave < 0 ? (close(master), -1) : master;
}

static void report_exit(uint16_t id, uint32_t kind, uint32_t value)
{
	unsigned char p[8];
	for (int i = 0; i < 4; i++) {
		p[i] = kind >> 8 * i;
		p[4 + i] = value >> 8 * i;
	}
	frame_send(T_EXIT, id, p, sizeof p);
}

static void close_pair(int *p)
{
	close(p[0]);
	close(p[1]);
}

void run_start(uint16_t id, const unsigned char *body, size_t size)
{
	struct spec s;
	struct run *r = NULL;
	int in[2] = { -1, -1 }, out[2] = { -1, -1 }, err[2] = { -1, -1 }, trouble[2], slave = -1, master = -1;
	char stage = 'p', failure[1 + sizeof(int)];

	for (int i = 0; i < RUNS_MAX && !r; i++)
		if (!runs[i].used)
			r = &runs[i];
	if (!r || find(id) || parse(body, size, &s)) {
		report_exit(id, 2, EINVAL << 8 | 'p');
		return;
	}
	if (pipe2(trouble, O_CLOEXEC))
		goto failed;
	if (s.tty ? (master = open_pty(&s, &slave)) < 0
		  : pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC)) {
		close_pair(trouble);
		goto failed;
	}
	pid_t pid = fork();
	if (!pid) {
		become(&s, in[0], out[1], err[1], slave, &stage);
		failure[0] = stage;
		memcpy(failure + 1, &errno, sizeof errno);
		if (write(trouble[1], failure, sizeof failure) < 0)
			_exit(125);
		_exit(127);
	}
	close(trouble[1]);
	close(slave);
	close(in[0]);
	close(out[1]);
	close(err[1]);
	if (pid < 0 || read(trouble[0], failure, sizeof failure) == sizeof failure) {
		if (pid >= 0) {
			stage = failure[0];
			memcpy(&errno, failure + 1, sizeof errno);
			int kept = errno;
			waitpid(pid, NULL, 0);
			errno = kept;
		}
		int kept = errno;
		close(trouble[0]);
		close(master);
		close(in[1]);
		close(out[0]);
		close(err[0]);
		errno = kept;
		goto failed;
	}
	close(trouble[0]);
	memset(r, 0, offsetof(struct run, queue));
	r->queue.head = r->queue.len = 0;
	r->used = 1;
	r->id = id;
	r->pid = pid;
	r->tty = s.tty;
	r->in = s.tty ? master : in[1];
	r->out = s.tty ? master : out[0];
	r->err = s.tty ? -1 : err[0];
	r->out_credit = r->err_credit = WINDOW;
	fcntl(r->in, F_SETFL, O_NONBLOCK);
	fcntl(r->out, F_SETFL, O_NONBLOCK);
	if (r->in != r->out) {
		fcntl(r->err, F_SETFL, O_NONBLOCK);
		fcntl(r->in, F_SETPIPE_SZ, 1 << 18);
		fcntl(r->out, F_SETPIPE_SZ, 1 << 18);
	}
	frame_send(T_STARTED, id, NULL, 0);
	goto done;
failed:
	report_exit(id, 2, errno << 8 | (unsigned char)stage);
done:
	free(s.argv ? s.argv - 1 : NULL);
	free(s.env ? s.env - 1 : NULL);
}

static void close_input(struct run *r)
{
	if (r->in >= 0 && r->in != r->out)
		close(r->in);
	r->in = -1;
	bytes_drop(&r->queue, r->queue.len);
}

static void give_credit(struct run *r, uint32_t n)
{
	unsigned char p[4] = { n & 255, n >> 8 & 255, n >> 16 & 255, n >> 24 };
	frame_send(T_CREDIT_IN, r->id, p, 4);
}

static void feed(struct run *r)
{
	while (r->in >= 0 && r->queue.len) {
		ssize_t n = write(r->in, r->queue.at + r->queue.head, r->queue.len);
		if (n < 0) {
			if (errno == EAGAIN)
				return;
			give_credit(r, r->queue.len);
			close_input(r);
			return;
		}
		bytes_drop(&r->queue, n);
		give_credit(r, n);
	}
	if (r->in_eof && r->in >= 0) {
		if (r->tty) {
			/* what the key for end of file does, as the line discipline is set now */
			struct termios t;
			r->in_eof = 0;
			if (!tcgetattr(r->in, &t) && (t.c_lflag & ICANON) && write(r->in, &t.c_cc[VEOF], 1) < 0)
				return;
		} else {
			close_input(r);
		}
	}
}

void run_stdin(uint16_t id, const void *data, size_t size)
{
	struct run *r = find(id);
	if (!r)
		return;
	if (r->in < 0 || r->queue.len + size > WINDOW) {
		give_credit(r, size);
		return;
	}
	bytes_add(&r->queue, data, size);
	feed(r);
}

void run_stdin_eof(uint16_t id)
{
	struct run *r = find(id);
	if (r) {
		r->in_eof = 1;
		feed(r);
	}
}

void run_credit(uint16_t id, int which, uint32_t amount)
{
	struct run *r = find(id);
	if (r)
		*(which ? &r->err_credit : &r->out_credit) += amount;
}

void run_close(uint16_t id, int which)
{
	struct run *r = find(id);
	int *fd = r ? which ? &r->err : &r->out : NULL;
	if (!r || *fd < 0 || r->tty)
		return;
	close(*fd);
	*fd = -1;
}

void run_signal(uint16_t id, int signal)
{
	struct run *r = find(id);
	if (r && !r->exited && signal > 0 && signal < 65)
		kill(-r->pid, signal);
}

void run_winsize(uint16_t id, unsigned rows, unsigned columns)
{
	struct run *r = find(id);
	struct winsize w = { rows, columns, 0, 0 };
	if (r && r->tty && r->out >= 0)
		ioctl(r->out, TIOCSWINSZ, &w);
}

/* Move one block; returns whether more may follow at once. */
static int drain(struct run *r, int *fd, uint32_t *credit, uint8_t type)
{
	static unsigned char block[FRAME_MAX];
	if (*fd < 0 || !*credit || outgoing.len > 4 * WINDOW)
		return 0;
	ssize_t n = read(*fd, block, *credit < FRAME_MAX ? *credit : FRAME_MAX);
	if (n > 0) {
		*credit -= n;
		frame_send(type, r->id, block, n);
		return 1;
	}
	/* After the command itself ended, an empty pipe is the end even if something it left behind holds it. */
	if (n < 0 && (errno == EINTR || (errno == EAGAIN && !r->exited)))
		return 0;
	if (*fd == r->in)
		r->in = -1;
	close(*fd);
	*fd = -1;
	return 0;
}

static void finish(struct run *r)
{
	if (!r->exited || r->out >= 0 || r->err >= 0)
		return;
	close_input(r);
	report_exit(r->id, r->kind, r->value);
	r->used = 0;
}

void run_reap(void)
{
	int status;
	pid_t pid;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (int i = 0; i < RUNS_MAX; i++) {
			struct run *r = &runs[i];
			if (!r->used || r->pid != pid)
				continue;
			r->exited = 1;
			r->kind = WIFSIGNALED(status) ? 1 : 0;
			r->value = r->kind ? WTERMSIG(status) : WEXITSTATUS(status);
		}
}

int run_pending(void)
{
	for (int i = 0; i < RUNS_MAX; i++)
		if (runs[i].used && runs[i].exited && outgoing.len <= 4 * WINDOW &&
		    ((runs[i].out >= 0 && runs[i].out_credit) || (runs[i].err >= 0 && runs[i].err_credit)))
			return 1;
	return 0;
}

int run_poll(struct pollfd *fds, int most)
{
	int n = 0, room = outgoing.len <= 4 * WINDOW;
	for (int i = 0; i < RUNS_MAX && n + 3 <= most; i++) {
		struct run *r = &runs[i];
		r->in_slot = r->out_slot = r->err_slot = -1;
		if (!r->used)
			continue;
		if (r->in >= 0 && r->queue.len) {
			r->in_slot = n;
			fds[n++] = (struct pollfd){ r->in, POLLOUT, 0 };
		}
		if (r->out >= 0 && r->out_credit && room) {
			r->out_slot = n;
			fds[n++] = (struct pollfd){ r->out, POLLIN, 0 };
		}
		if (r->err >= 0 && r->err_credit && room) {
			r->err_slot = n;
			fds[n++] = (struct pollfd){ r->err, POLLIN, 0 };
		}
	}
	return n;
}

void run_service(struct pollfd *fds, int count)
{
	for (int i = 0; i < RUNS_MAX; i++) {
		struct run *r = &runs[i];
		if (!r->used)
			continue;
		if (r->in_slot >= 0 && r->in_slot < count && fds[r->in_slot].revents)
			feed(r);
		if (r->exited || (r->out_slot >= 0 && r->out_slot < count && fds[r->out_slot].revents))
			drain(r, &r->out, &r->out_credit, T_STDOUT);
		if (r->exited || (r->err_slot >= 0 && r->err_slot < count && fds[r->err_slot].revents))
			drain(r, &r->err, &r->err_credit, T_STDERR);
		finish(r);
	}
}
