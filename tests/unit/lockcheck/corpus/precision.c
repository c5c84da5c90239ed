// rules: qemu
// What real code does with locks that a simple reading gets wrong: questions, repeated tests, locks that are stored.
#include <pthread.h>
struct s { pthread_mutex_t lock; pthread_mutex_t *other; struct s *next; int n; };
struct owner { pthread_mutex_t mine; };
struct job { struct owner *owner; };
void work(void);
int in_thread(void);
int qemu_mutex_iothread_locked(void);
void qemu_mutex_lock_iothread_impl(void);
void qemu_mutex_unlock_iothread(void);
struct s *current_of(struct s *s);
struct s *find(int id);
void run(void (*f)(void *), void *data);

void taken_if_needed(void) {
    int need = !qemu_mutex_iothread_locked();
    if (need)
        qemu_mutex_lock_iothread_impl();
    work();
    if (need)
        qemu_mutex_unlock_iothread();
}

void calls_it_either_way(void) {
    qemu_mutex_lock_iothread_impl();
    taken_if_needed();
    qemu_mutex_unlock_iothread();
    taken_if_needed();
}

void asks_and_forgets(void) {
    if (!qemu_mutex_iothread_locked())
        qemu_mutex_lock_iothread_impl();
    work();
} // expect: exit-locked

void takes_what_it_holds(void) {
    if (qemu_mutex_iothread_locked())
        qemu_mutex_lock_iothread_impl(); // expect: double-lock
}

void tested_twice(struct s *s, int a, int b) {
    if (a && !b && !in_thread())
        pthread_mutex_lock(&s->lock);
    work();
    if (a && !b && !in_thread())
        pthread_mutex_unlock(&s->lock);
}

void tested_otherwise(struct s *s, int a, int b) {
    if (a && !b)
        pthread_mutex_lock(&s->lock);
    work();
    if (a && b)
        pthread_mutex_unlock(&s->lock); // expect: unlock-unlocked
} // expect: exit-locked

void compared_twice(struct s *s, struct s *t) {
    if (s != current_of(t))
        pthread_mutex_lock(&s->lock);
    work();
    if (s != current_of(t))
        pthread_mutex_unlock(&s->lock);
}

static void merge(struct s *s, int lock) {
    if (lock)
        pthread_mutex_lock(&s->lock);
    work();
    if (lock)
        pthread_mutex_unlock(&s->lock);
}

void merges_under_the_lock(struct s *s) {
    pthread_mutex_lock(&s->lock);
    merge(s, 0);
    merge(s, 1); // expect: double-lock
    pthread_mutex_unlock(&s->lock);
}

void gives_up_for_a_while(struct s *s) {
    pthread_mutex_unlock(&s->lock);
    work();
    if (in_thread())
        return; // expect: exit-unlocked
    pthread_mutex_lock(&s->lock);
}

void holds_for_it(struct s *s) {
    pthread_mutex_lock(&s->lock);
    gives_up_for_a_while(s);
    pthread_mutex_unlock(&s->lock);
}

static void thread(void *data) {
    struct job *job = data;
    struct owner *owner = job->owner;
    work();
    pthread_mutex_unlock(&owner->mine);
}

void hands_over(struct owner *owner, struct job *job) {
    pthread_mutex_lock(&owner->mine);
    job->owner = owner;
    run(thread, job);
}

static void lock_both(struct s **first, struct s **second, int id) {
    struct s *a = find(id), *b;
    if (first)
        *first = a;
    pthread_mutex_lock(&a->lock);
    if (id > 1) {
        b = find(id + 1);
        *second = b;
        pthread_mutex_lock(&b->lock);
    }
}

void through_out_parameters(int id) {
    struct s *a, *b = 0;
    lock_both(&a, &b, id);
    work();
    if (b)
        pthread_mutex_unlock(&b->lock);
    pthread_mutex_unlock(&a->lock);
}

void cleared_through_a_union(struct s *s) {
    struct s *mine = s->next;
    union { void *in; void **out; } p;
    pthread_mutex_lock(&mine->lock);
    if (s->n) {
        pthread_mutex_unlock(&mine->lock);
        p.in = &mine;
        *p.out = 0;
    }
    if (mine)
        pthread_mutex_unlock(&mine->lock);
}
