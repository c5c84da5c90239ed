/* A fork storm: `storm N` keeps forking children that live for about a millisecond, at most N at a time. */
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    int limit = count > 1 ? atoi(arguments[1]) : 20;
    for (int alive = 0;;) {
        pid_t child = fork();
        if (!child) {
            usleep(1000);
            _exit(0);
        }
        if (child > 0)
            alive++;
        while (alive && (waitpid(-1, NULL, alive >= limit ? 0 : WNOHANG) > 0))
            alive--;
    }
}
