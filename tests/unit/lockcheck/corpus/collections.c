// rules: pthread
// Locks that a function hands its caller through parameters, and locks that loops take and release one by one.
#include <pthread.h>
struct s { pthread_mutex_t lock; struct s *next; int n; };
struct set { struct s **all; int count; };
void work(void);
int test(void);
struct s *find(int id);

static int get(struct s **out, int id) {
    struct s *s = find(id);
    *out = 0;
    if (!s)
        return -1;
    pthread_mutex_lock(&s->lock);
    *out = s;
    return 0;
}

int uses_what_it_got(int id) {
    struct s *s;
    if (get(&s, id) < 0)
        return -1;
    work();
    pthread_mutex_unlock(&s->lock);
    return 0;
}

int forgets_what_it_got(int id) {
    struct s *s;
    if (get(&s, id) < 0)
        return -1;
    if (test())
        return -2; // expect: exit-locked
    pthread_mutex_unlock(&s->lock);
    return 0;
}

int releases_it_twice(int id) {
    struct s *s;
    if (get(&s, id) < 0)
        return -1;
    pthread_mutex_unlock(&s->lock);
    work();
    pthread_mutex_unlock(&s->lock); // expect: double-unlock
    return 0;
}

int locks_what_it_got(int id) {
    struct s *s;
    if (get(&s, id) < 0)
        return -1;
    pthread_mutex_lock(&s->lock); // expect: double-lock
    pthread_mutex_unlock(&s->lock);
    return 0;
}

int passes_it_on(struct s **out, int id) {
    if (get(out, id) < 0)
        return -1;
    work();
    return 0;
}

int gets_it_through_two(int id) {
    struct s *s;
    if (passes_it_on(&s, id) < 0)
        return -1;
    pthread_mutex_unlock(&s->lock);
    return 0;
}

int forgets_it_through_two(int id) {
    struct s *s;
    if (passes_it_on(&s, id) < 0)
        return -1;
    work();
    return 0; // expect: exit-locked
}

void one_by_one(struct set *set) {
    int i;
    for (i = 0; i < set->count; i++) {
        pthread_mutex_lock(&set->all[i]->lock);
        work();
        pthread_mutex_unlock(&set->all[i]->lock);
    }
}

void leaves_the_loop_early(struct set *set) {
    int i;
    for (i = 0; i < set->count; i++) {
        struct s *s = set->all[i];
        pthread_mutex_lock(&s->lock);
        if (test())
            break;
        pthread_mutex_unlock(&s->lock);
    }
} // expect: exit-locked

void skips_the_rest(struct s *list) {
    struct s *s;
    for (s = list; s; s = s->next) {
        pthread_mutex_lock(&s->lock);
        if (test())
            continue;
        pthread_mutex_unlock(&s->lock);
    }
} // expect: exit-locked

void skips_nothing(struct s *list) {
    struct s *s;
    for (s = list; s; s = s->next) {
        pthread_mutex_lock(&s->lock);
        if (test()) {
            pthread_mutex_unlock(&s->lock);
            continue;
        }
        work();
        pthread_mutex_unlock(&s->lock);
    }
}

void all_then_none(struct s *list) {
    struct s *s;
    for (s = list; s; s = s->next)
        pthread_mutex_lock(&s->lock);
    work();
    for (s = list; s; s = s->next)
        pthread_mutex_unlock(&s->lock);
}

void found_and_collected(struct set *set, int n) {
    int i;
    for (i = 0; i < n; i++) {
        struct s *s = find(i);
        pthread_mutex_lock(&s->lock);
        set->all[set->count++] = s;
    }
    work();
    for (i = 0; i < set->count; i++)
        pthread_mutex_unlock(&set->all[i]->lock);
}

int stops_at_the_one_it_wants(struct s *list, int n) {
    struct s *s;
    for (s = list; s; s = s->next) {
        pthread_mutex_lock(&s->lock);
        if (s->n == n)
            break;
        pthread_mutex_unlock(&s->lock);
    }
    if (!s)
        return -1;
    work();
    pthread_mutex_unlock(&s->lock);
    return 0;
}

void found_and_not_collected(struct set *set, int n) {
    int i;
    for (i = 0; i < n; i++) {
        struct s *s = find(i);
        pthread_mutex_lock(&s->lock);
        s->n++;
    }
    for (i = 0; i < set->count; i++)
        pthread_mutex_unlock(&set->all[i]->lock);
} // expect: exit-locked
