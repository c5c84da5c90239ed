// rules: pthread
// The general mistakes, on one lock.
#include <pthread.h>
#include <stdlib.h>

struct s { pthread_mutex_t lock; int n; };
static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
void work(void);
int test(void);

void clean(struct s *s) {
    pthread_mutex_lock(&s->lock);
    s->n++;
    pthread_mutex_unlock(&s->lock);
}

void twice(struct s *s) {
    pthread_mutex_lock(&s->lock);
    pthread_mutex_lock(&s->lock); // expect: double-lock
    pthread_mutex_unlock(&s->lock);
}

void two_structs(struct s *a, struct s *b) {
    pthread_mutex_lock(&a->lock);
    pthread_mutex_lock(&b->lock);
    pthread_mutex_unlock(&b->lock);
    pthread_mutex_unlock(&a->lock);
}

void unlock_twice(struct s *s) {
    pthread_mutex_lock(&s->lock);
    pthread_mutex_unlock(&s->lock);
    pthread_mutex_unlock(&s->lock); // expect: double-unlock
}

int forgets(void) {
    pthread_mutex_lock(&m);
    if (test())
        return -1; // expect: exit-locked
    pthread_mutex_unlock(&m);
    return 0;
}

void never_took(void) {
    work();
    pthread_mutex_unlock(&m); // expect: unlock-unlocked
}

void never_gives(void) {
    pthread_mutex_lock(&m);
    work();
} // expect: exit-locked

int not_reached(void) {
    pthread_mutex_lock(&m);
    if (test())
        abort();
    pthread_mutex_unlock(&m);
    return 0;
}

int tried(void) {
    if (pthread_mutex_trylock(&m) != 0)
        return -1;
    work();
    pthread_mutex_unlock(&m);
    return 0;
}

int tried_badly(void) {
    int r = pthread_mutex_trylock(&m);
    if (r)
        return r;
    work();
    return 0; // expect: exit-locked
}

void flagged(struct s *s, int locked) {
    if (!locked)
        pthread_mutex_lock(&s->lock);
    work();
    if (!locked)
        pthread_mutex_unlock(&s->lock);
}

void flagged_badly(struct s *s, int a, int b) {
    if (a)
        pthread_mutex_lock(&s->lock);
    work();
    if (b)
        pthread_mutex_unlock(&s->lock); // expect: unlock-unlocked
} // expect: exit-locked
