/* Starts one process of a lab guest just as described, and is that process.
 *
 *     actor NAME [KEY=VALUE]... -- [ARGUMENT]...
 *
 * Returns when the process is settled in the state asked for. Keys:
 *   uid, gid, nice         numbers
 *   session=1, group=1     leader of a new session, of a new process group
 *   leader_gone=1          in a new session whose leader has exited
 *   unshare=pid,net,uts,mnt,ipc,user   in new namespaces;  hostname=TEXT in the new uts one
 *   threads=N              further threads, named NAME-1, NAME-2, ...
 *   resident_kib=N         touched anonymous memory
 *   terminal=1             in a new session with a controlling terminal (a pty)
 *   comm=TEXT, title=TEXT  overwrites its own name, or its own argument area, once it runs
 *   state=stopped|zombie|disk|running  instead of sleeping
 *   cgroup=NAME            in a cgroup of that name
 * The name is the file name that is executed (a symbolic link to this program), so the kernel shortens it to 15 bytes.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static const char *setting(const char *key)
{
    char name[64];
    snprintf(name, sizeof name, "ACTOR_%s", key);
    return getenv(name);
}

static int number(const char *key)
{
    const char *value = setting(key);
    return value ? atoi(value) : 0;
}

static int is(const char *key, const char *value)
{
    return setting(key) && !strcmp(setting(key), value);
}

static void check(int failed, const char *what)
{
    if (failed) {
        perror(what);
        _exit(1);
    }
}

static void sleep_for_ever(void)
{
    for (;;)
        pause();
}

static void settled(void)
{
    int fd = number("READY");
    check(write(fd, "", 1) != 1, "ready");
    close(fd);
}

static void *thread(void *name)
{
    pthread_setname_np(pthread_self(), name);
    sleep_for_ever();
    return NULL;
}

/* After exec: the process itself. */
static void act(char **arguments)
{
    for (int i = 1; i <= number("threads"); i++) {
        char *name;
        pthread_t id;
        if (asprintf(&name, "%.10s-%d", setting("NAME"), i) < 0)
            abort();
        check(pthread_create(&id, NULL, thread, name), "thread");
    }
    size_t resident = (size_t)number("resident_kib") * 1024;
    if (resident) {
        char *memory = mmap(NULL, resident, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        check(memory == MAP_FAILED, "mmap");
        memset(memory, 'v', resident);
    }
    if (setting("comm"))
        prctl(PR_SET_NAME, setting("comm"));
    if (setting("title")) {
        char *end = arguments[0];
        for (char **argument = arguments; *argument; argument++)
            end = *argument + strlen(*argument) + 1;
        size_t room = end - arguments[0];
        memset(arguments[0], 0, room);
        memcpy(arguments[0], setting("title"), strnlen(setting("title"), room - 1));
    }
    if (is("state", "zombie")) {
        pid_t child = fork();
        if (!child)
            _exit(7);
        siginfo_t info;
        waitid(P_PID, child, &info, WEXITED | WNOWAIT);
    }
    if (is("state", "disk")) {
        /* The parent of a vfork waits uninterruptibly until its child executes or exits. */
        if (!vfork()) {
            settled();
            sleep_for_ever();
        }
    }
    settled();
    if (is("state", "stopped"))
        raise(SIGSTOP);
    while (is("state", "running"))
        ;
    sleep_for_ever();
}

static void new_namespaces(const char *list)
{
    static const struct {
        const char *name;
        int flag;
    } kinds[] = {{"pid", CLONE_NEWPID}, {"net", CLONE_NEWNET}, {"uts", CLONE_NEWUTS},
                 {"mnt", CLONE_NEWNS},  {"ipc", CLONE_NEWIPC}, {"user", CLONE_NEWUSER}};
    int flags = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strstr(list, kinds[i].name))
            flags |= kinds[i].flag;
    check(unshare(flags), "unshare");
    if (setting("hostname"))
        check(sethostname(setting("hostname"), strlen(setting("hostname"))), "sethostname");
}

static void fork_and_leave(void)
{
    pid_t child = fork();
    check(child < 0, "fork");
    if (child)
        _exit(0);
}

/* Before exec: what a process inherits. */
static void prepare(void)
{
    if (setting("cgroup")) {
        char path[256];
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s", setting("cgroup"));
        mkdir(path, 0755);
        strncat(path, "/cgroup.procs", sizeof path - strlen(path) - 1);
        int fd = open(path, O_WRONLY);
        check(write(fd, "0", 1) != 1, path);
        close(fd);
    }
    if (number("session") || number("terminal") || number("leader_gone"))
        check(setsid() < 0, "setsid");
    if (number("group"))
        check(setpgid(0, 0), "setpgid");
    if (number("terminal")) {
        int master = posix_openpt(O_RDWR | O_NOCTTY);
        check(grantpt(master) || unlockpt(master), "pty");
        int slave = open(ptsname(master), O_RDWR);
        check(slave < 0 || ioctl(slave, TIOCSCTTY, 0), "terminal");
        dup2(slave, 0);
    }
    if (number("leader_gone"))
        fork_and_leave();
    if (setting("unshare")) {
        new_namespaces(setting("unshare"));
        fork_and_leave();
    }
    if (number("nice"))
        check(setpriority(PRIO_PROCESS, 0, number("nice")), "nice");
    if (number("gid"))
        check(setgid(number("gid")), "setgid");
    if (number("uid"))
        check(setuid(number("uid")), "setuid");
}

int main(int count, char **arguments)
{
    if (getenv("ACTOR_READY"))
        act(arguments);
    if (count < 2)
        return 2;
    const char *name = arguments[1];
    setenv("ACTOR_NAME", name, 1);
    int at = 2;
    for (; at < count && strcmp(arguments[at], "--"); at++) {
        char assignment[512];
        snprintf(assignment, sizeof assignment, "ACTOR_%s", arguments[at]);
        putenv(strdup(assignment));
    }
    char path[300];
    snprintf(path, sizeof path, "/actors/%s", name);
    unlink(path);
    check(symlink("/bin/actor", path), path);

    int ready[2];
    check(pipe(ready), "pipe");
    pid_t child = fork();
    if (!child) {
        char text[16];
        close(ready[0]);
        snprintf(text, sizeof text, "%d", ready[1]);
        prepare();
        setenv("ACTOR_READY", text, 1);
        arguments[at < count ? at : count - 1] = path;
        execv(path, arguments + (at < count ? at : count - 1));
        check(1, path);
    }
    close(ready[1]);
    char byte;
    if (read(ready[0], &byte, 1) != 1) {
        fprintf(stderr, "actor: %s did not start\n", name);
        return 1;
    }
    if (is("state", "stopped"))
        waitpid(child, NULL, WUNTRACED);
    return 0;
}
