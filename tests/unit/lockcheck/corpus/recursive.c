// rules: pthread
// Mutexes that are made recursive, through a function of the program's own.
#define _GNU_SOURCE
#include <pthread.h>
static pthread_mutex_t again, plain;
void work(void);

static void init_recursive(pthread_mutex_t *m) {
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    pthread_mutexattr_settype(&a, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(m, &a);
}

void start(void) {
    init_recursive(&again);
    pthread_mutex_init(&plain, 0);
}

static void inner(void) {
    pthread_mutex_lock(&again);
    work();
    pthread_mutex_unlock(&again);
}

static void plain_inner(void) {
    pthread_mutex_lock(&plain);
    work();
    pthread_mutex_unlock(&plain);
}

void outer(void) {
    pthread_mutex_lock(&again);
    inner();
    pthread_mutex_unlock(&again);
    pthread_mutex_lock(&plain);
    plain_inner(); // expect: double-lock
    pthread_mutex_unlock(&plain);
}
