// rules: pthread
// Error branches: of calls that never fail as they are today, too, and of calls that end the program instead.
#include <pthread.h>
#include <stdlib.h>
static pthread_mutex_t log_lock;
struct s { pthread_mutex_t lock; char *path; int n; };
void work(void);
char *copy(const char *text);

static void say(void) {
    pthread_mutex_lock(&log_lock);
    work();
    pthread_mutex_unlock(&log_lock);
}

static int set_path(struct s *s, char **path) {
    say();
    *path = copy(s->path);
    say();
    return 0;
}

int fails_too_early(struct s *s, char **path) {
    int ret = -1;
    if (set_path(s, path) < 0)
        goto cleanup;
    pthread_mutex_lock(&s->lock);
    if (!s->n)
        goto cleanup;
    ret = 0;
cleanup:
    pthread_mutex_unlock(&s->lock); // expect: unlock-unlocked
    return ret;
}

int fails_in_time(struct s *s, char **path) {
    int ret = -1;
    if (set_path(s, path) < 0)
        goto out;
    pthread_mutex_lock(&s->lock);
    if (!s->n)
        goto cleanup;
    ret = 0;
cleanup:
    pthread_mutex_unlock(&s->lock);
out:
    return ret;
}

static int passes_it_on(struct s *s, char **path) { return set_path(s, path); }

int leaks_if_it_ever_fails(struct s *s, char **path) {
    pthread_mutex_lock(&s->lock);
    if (passes_it_on(s, path) != 0)
        return -1; // expect: exit-locked
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static int lock_it(struct s *s) {
    say();
    pthread_mutex_lock(&s->lock);
    return 0;
}

int takes_it_at_its_word(struct s *s) {
    if (lock_it(s) < 0)
        return -1; /* what fails has taken nothing */
    work();
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static char *get_memory(int size) {
    char *out = malloc(size);
    say();
    if (!out)
        abort();
    return out;
}

char *never_null(struct s *s) {
    char *out;
    pthread_mutex_lock(&s->lock);
    out = get_memory(s->n);
    if (!out)
        return 0;
    pthread_mutex_unlock(&s->lock);
    return out;
}

static int is_closed(struct s *s) {
    say();
    (void)s;
    return 0;
}

int a_question_answered(struct s *s) {
    pthread_mutex_lock(&s->lock);
    if (is_closed(s))
        return -1;
    pthread_mutex_unlock(&s->lock);
    return 0;
}
