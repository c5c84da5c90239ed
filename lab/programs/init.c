/* PID 1 of a lab guest, and the agent that runs the lab's commands.
 *
 * Mounts what Linux programs expect, loads the modules of /etc/modules, runs /etc/setup.sh, then starts the agent and
 * reaps orphans for ever. The agent speaks over the virtio port named "lab.agent", else over the second serial port;
 * without either there is a shell on the console.
 *
 * Frames to the agent:   u32 command size, u32 stdin size, command, stdin          (little endian)
 * Frames from the agent: u8 kind, u32 size, data;  'R' ready, 'F' set-up failed,
 *                        'O' stdout, 'E' stderr, 'X' exit status (data: i32)
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/serial.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static int agent_fd;

static void complain(const char *what, const char *about)
{
    fprintf(stderr, "lab init: %s %s: %s\n", what, about, strerror(errno));
}

static void mount_one(const char *type, const char *where, const char *options)
{
    mkdir(where, 0755);
    if (mount(type, where, type, 0, options) && errno != EBUSY)
        complain("mount", where);
}

static void load_modules(void)
{
    FILE *list = fopen("/etc/modules", "r");
    char line[512];
    while (list && fgets(line, sizeof line, list)) {
        line[strcspn(line, "\n")] = 0;
        int fd = open(line, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
            complain("module", line);
        if (fd >= 0)
            close(fd);
    }
    if (list)
        fclose(list);
}

static void child_signals(void)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static int run_and_wait(const char *path, const char *argument)
{
    pid_t pid = fork();
    if (!pid) {
        child_signals();
        execl(path, path, argument, NULL);
        complain("exec", path);
        _exit(127);
    }
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status;
}

static int put(const void *data, size_t size)
{
    const char *at = data;
    while (size) {
        ssize_t done = write(agent_fd, at, size);
        if (done < 0) {
            if (errno == EINTR)
                continue;
            return -1;
        }
        at += done;
        size -= done;
    }
    return 0;
}

static int put_frame(char kind, const void *data, uint32_t size)
{
    unsigned char head[5] = {kind};
    memcpy(head + 1, &size, 4);
    return put(head, 5) || put(data, size);
}

static void get(void *data, size_t size)
{
    char *at = data;
    while (size) {
        ssize_t done = read(agent_fd, at, size);
        if (done <= 0) {
            /* Nobody at the other end of a virtio port reads as end of file. */
            usleep(20000);
            continue;
        }
        at += done;
        size -= done;
    }
}

static void serve_one(void)
{
    uint32_t sizes[2];
    get(sizes, sizeof sizes);
    char *command = calloc(1, sizes[0] + 1);
    get(command, sizes[0]);
    int input = memfd_create("stdin", MFD_CLOEXEC);
    char buffer[65536];
    for (uint32_t left = sizes[1]; left;) {
        uint32_t part = left < sizeof buffer ? left : sizeof buffer;
        get(buffer, part);
        if (write(input, buffer, part) != (ssize_t)part)
            complain("write", "stdin");
        left -= part;
    }
    lseek(input, 0, SEEK_SET);

    int pipes[2][2];
    if (pipe2(pipes[0], O_CLOEXEC) || pipe2(pipes[1], O_CLOEXEC))
        complain("pipe", "");
    pid_t pid = fork();
    if (!pid) {
        child_signals();
        dup2(input, 0);
        dup2(pipes[0][1], 1);
        dup2(pipes[1][1], 2);
        execl("/bin/sh", "sh", "-c", command, NULL);
        _exit(127);
    }
    close(pipes[0][1]);
    close(pipes[1][1]);
    close(input);
    free(command);

    /* A command may leave background children that hold the pipes: its own exit ends it, after a last look. */
    int status = 0, exited = 0, open_pipes = 2;
    struct pollfd wait[2] = {{pipes[0][0], POLLIN, 0}, {pipes[1][0], POLLIN, 0}};
    while (open_pipes) {
        int ready = poll(wait, 2, exited ? 0 : 10);
        if (!exited && waitpid(pid, &status, WNOHANG) == pid)
            exited = 1;
        else if (exited && ready <= 0)
            break;
        for (int i = 0; i < 2 && ready > 0; i++) {
            if (!wait[i].revents)
                continue;
            ssize_t size = read(wait[i].fd, buffer, sizeof buffer);
            if (size > 0) {
                put_frame("OE"[i], buffer, size);
            } else {
                wait[i].fd = -1;
                open_pipes--;
            }
        }
    }
    if (!exited)
        waitpid(pid, &status, 0);
    close(pipes[0][0]);
    close(pipes[1][0]);
    int32_t code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    put_frame('X', &code, 4);
}

static int open_agent_port(void)
{
    char path[300], name[64];
    DIR *ports = opendir("/sys/class/virtio-ports");
    struct dirent *entry;
    while (ports && (entry = readdir(ports))) {
        snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
        FILE *file = fopen(path, "r");
        if (!file)
            continue;
        int is_ours = fgets(name, sizeof name, file) && !strncmp(name, "lab.agent", 9);
        fclose(file);
        if (is_ours) {
            snprintf(path, sizeof path, "/dev/%s", entry->d_name);
            return open(path, O_RDWR | O_CLOEXEC);
        }
    }
    int fd = open("/dev/ttyS1", O_RDWR | O_NOCTTY | O_CLOEXEC);
    struct serial_struct serial = {0};
    if (fd >= 0 && (ioctl(fd, TIOCGSERIAL, &serial) || serial.type == PORT_UNKNOWN)) {
        close(fd);
        return -1;
    }
    struct termios raw;
    if (fd >= 0 && !tcgetattr(fd, &raw)) {
        cfmakeraw(&raw);
        cfsetspeed(&raw, B115200);
        raw.c_cflag |= CLOCAL;
        tcsetattr(fd, TCSANOW, &raw);
    }
    return fd;
}

static void agent(int failed)
{
    prctl(PR_SET_NAME, "lab-agent");
    child_signals();
    /* The port appears a moment after its driver; a guest without one is found out by waiting in vain. */
    for (int tries = 0; (agent_fd = open_agent_port()) < 0 && tries < 20; tries++)
        usleep(10000);
    if (agent_fd < 0) {
        for (;;) {
            run_and_wait("/bin/cttyhack", "/bin/sh");
            sleep(1);
        }
    }
    put_frame(failed ? 'F' : 'R', "", 0);
    for (;;)
        serve_one();
}

int main(void)
{
    mount_one("devtmpfs", "/dev", "");
    int console = open("/dev/console", O_RDWR);
    for (int fd = 0; fd < 3 && console >= 0; fd++)
        dup2(console, fd);
    mount_one("proc", "/proc", "");
    mount_one("sysfs", "/sys", "");
    mount_one("tmpfs", "/run", "mode=755");
    mount_one("tmpfs", "/tmp", "size=95%");
    mount_one("devpts", "/dev/pts", "ptmxmode=666");
    mount_one("cgroup2", "/sys/fs/cgroup", "");
    setenv("PATH", "/bin:/sbin:/usr/bin:/usr/sbin", 1);
    setenv("HOME", "/", 1);
    setenv("LC_ALL", "C", 1);
    setsid();
    load_modules();
    int failed = !access("/etc/setup.sh", R_OK) && run_and_wait("/bin/sh", "/etc/setup.sh");
    if (!fork())
        agent(failed);
    for (;;) {
        if (wait(NULL) < 0)
            pause();
    }
}
