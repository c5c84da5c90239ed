// rules: pthread
// Control flow: loops, switch, goto, labels, && || ?:, statement expressions, assignments in conditions.
#include <pthread.h>
#include <stddef.h>
static pthread_mutex_t m, a, b;
struct node { pthread_mutex_t lock; struct node *next; int v; };
int test(void);
void work(int);

void loop_clean(int n) {
    int i;
    for (i = 0; i < n; i++) {
        pthread_mutex_lock(&m);
        if (test()) {
            pthread_mutex_unlock(&m);
            continue;
        }
        work(i);
        pthread_mutex_unlock(&m);
    }
}

void loop_leaks(int n) {
    for (;;) {
        pthread_mutex_lock(&m); // expect: double-lock
        if (n--)
            continue;
        pthread_mutex_unlock(&m);
        break;
    }
}

void while_break(void) {
    pthread_mutex_lock(&m);
    while (test()) {
        if (test())
            break;
    }
    pthread_mutex_unlock(&m);
}

int do_while(void) {
    int r;
    do {
        pthread_mutex_lock(&m);
        r = test();
        pthread_mutex_unlock(&m);
    } while (r);
    return r;
}

int switched(int k) {
    pthread_mutex_lock(&m);
    switch (k) {
    case 1:
        work(1);
        /* fall through */
    case 2:
        pthread_mutex_unlock(&m);
        return 2;
    case 3 ... 5:
        return 3; // expect: exit-locked
    default:
        break;
    }
    pthread_mutex_unlock(&m);
    return 0;
}

int backwards(void) {
again:
    pthread_mutex_lock(&m);
    if (test()) {
        pthread_mutex_unlock(&m);
        goto again;
    }
    pthread_mutex_unlock(&m);
    return 0;
}

int short_circuit(struct node *p) {
    if (p && !pthread_mutex_trylock(&p->lock) && test()) {
        pthread_mutex_unlock(&p->lock);
        return 1;
    }
    return 0; // expect: exit-locked
}

int statement_expression(void) {
    int r = ({ pthread_mutex_lock(&m); int v = test(); pthread_mutex_unlock(&m); v; });
    return r ? r : ({ return 3; 4; });
}

int assigned_in_condition(void) {
    int r;
    if ((r = pthread_mutex_trylock(&m)) != 0)
        return r;
    pthread_mutex_unlock(&m);
    return 0;
}

int conditional(struct node *p, int which) {
    pthread_mutex_t *l = which ? &a : &b;
    pthread_mutex_lock(l);
    work(p->v);
    pthread_mutex_unlock(l);
    return 0;
}

int conditional_leak(struct node *p, int which) {
    pthread_mutex_t *l = which ? &a : &b;
    pthread_mutex_lock(l);
    if (p->v)
        return -1; // expect: exit-locked
    pthread_mutex_unlock(l);
    return 0;
}

void conditional_without_a_name(int which) {
    pthread_mutex_lock(which ? &a : &b);
    work(which);
    pthread_mutex_unlock(which ? &a : &b);
}

int chosen_by_if(struct node *p, struct node *q) {
    struct node *first = p;
    if (test())
        first = q;
    pthread_mutex_lock(&first->lock);
    work(first->v);
    if (first->v < 0) {
        pthread_mutex_unlock(&first->lock);
        return -1;
    }
    pthread_mutex_unlock(&first->lock);
    pthread_mutex_unlock(&first->lock); // expect: double-unlock
    return 0;
}

void locks_both(int which) {
    pthread_mutex_t *one = which ? &a : &b;
    pthread_mutex_t *other = which ? &b : &a;
    pthread_mutex_lock(one);
    pthread_mutex_lock(other); // expect: lock-order
    work(which);
    pthread_mutex_unlock(other);
    pthread_mutex_unlock(one);
}

void takes_what_it_chose(int which) {
    pthread_mutex_t *l = which ? &a : &b;
    pthread_mutex_lock(&a);
    pthread_mutex_lock(l); // expect: double-lock
    pthread_mutex_unlock(l);
    if (!which)
        pthread_mutex_unlock(&a);
}

void hand_over_hand(struct node *p) {
    pthread_mutex_lock(&p->lock);
    while (p->next) {
        struct node *n = p->next;
        pthread_mutex_lock(&n->lock);
        pthread_mutex_unlock(&p->lock);
        p = n;
    }
    pthread_mutex_unlock(&p->lock);
}

void all_of_them(pthread_mutex_t *locks, int n) {
    int i;
    for (i = 0; i < n; i++)
        pthread_mutex_lock(&locks[i]);
    work(n);
    for (i = 0; i < n; i++)
        pthread_mutex_unlock(&locks[i]);
}

int error_codes(void) {
    int err = pthread_mutex_lock(&m);
    if (test()) {
        err = -1;
        goto fail;
    }
    pthread_mutex_unlock(&m);
    return 0;
fail:
    return err; // expect: exit-locked
}

void null_guard(struct node *p) {
    struct node *held = NULL;
    if (test()) {
        held = p;
        pthread_mutex_lock(&held->lock);
    }
    work(1);
    if (held != NULL)
        pthread_mutex_unlock(&held->lock);
}

int old_style(n)
    int n;
{
    pthread_mutex_lock(&m);
    if (n)
        return n; // expect: exit-locked
    pthread_mutex_unlock(&m);
    return 0;
}

struct lazy { int ready; struct node *map; pthread_mutex_t lock; };

void double_checked(struct lazy *p) {
    if (p->ready)
        return;
    pthread_mutex_lock(&p->lock);
    if (p->ready) {
        pthread_mutex_unlock(&p->lock);
        return;
    }
    p->ready = 1;
    pthread_mutex_unlock(&p->lock);
}

void double_checked_badly(struct lazy *p) {
    if (p->ready)
        return;
    pthread_mutex_lock(&p->lock);
    if (p->ready)
        return; // expect: exit-locked
    p->ready = 1;
    pthread_mutex_unlock(&p->lock);
}

// A call's answer may differ the next time, unless the function's name is a question.
int next_item(void);
int is_threaded(void);

void asked_twice(void) {
    if (next_item())
        pthread_mutex_lock(&m);
    if (next_item())
        pthread_mutex_unlock(&m); // expect: unlock-unlocked
} // expect: exit-locked

void comes_to_an_end(void) {
    if (next_item() == 1)
        pthread_mutex_lock(&m);
    while (next_item())
        ;
} // expect: exit-locked

void asked_a_question_twice(void) {
    if (is_threaded())
        pthread_mutex_lock(&m);
    if (is_threaded())
        pthread_mutex_unlock(&m);
}
