// rules: pthread
// Summaries: helpers that lock for their caller, that want to be called locked, recursion, order, forbidden calls.
#include <pthread.h>
#include <unistd.h>
static pthread_mutex_t m, first, second, third;
static pthread_cond_t cond;
static int use_locks;
struct s { pthread_mutex_t lock; int n; };
void work(void);
int test(void);
struct s *find(int id);

static void s_lock(struct s *s) { pthread_mutex_lock(&s->lock); }
static void s_unlock(struct s *s) { pthread_mutex_unlock(&s->lock); }

void through_helpers(struct s *s) {
    s_lock(s);
    work();
    s_unlock(s);
}

int through_helpers_badly(struct s *s) {
    s_lock(s);
    if (test())
        return -1; // expect: exit-locked
    s_unlock(s);
    s_unlock(s); // expect: double-unlock
    return 0;
}

void locks_twice(struct s *s) {
    s_lock(s);
    s_lock(s); // expect: double-lock
    s_unlock(s);
}

static struct s *get_locked(int id) {
    struct s *s = find(id);
    if (s)
        pthread_mutex_lock(&s->lock);
    return s;
}

int uses_fetched(int id) {
    struct s *s = get_locked(id);
    if (!s)
        return -1;
    work();
    s_unlock(s);
    return 0;
}

int leaks_fetched(int id) {
    struct s *s = get_locked(id);
    if (!s)
        return -1;
    if (test())
        return -2; // expect: exit-locked
    s_unlock(s);
    return 0;
}

static int begin(struct s *s) {
    pthread_mutex_lock(&s->lock);
    if (s->n) {
        pthread_mutex_unlock(&s->lock);
        return -1;
    }
    return 0;
}

int uses_begin(struct s *s) {
    if (begin(s) < 0)
        return -1;
    work();
    s_unlock(s);
    return 0;
}

static void drops_for_a_while(struct s *s) {
    pthread_mutex_unlock(&s->lock);
    work();
    pthread_mutex_lock(&s->lock);
}

void wants_it_held(struct s *s) {
    s_lock(s);
    drops_for_a_while(s);
    s_unlock(s);
}

static void maybe_lock(void) { if (use_locks) pthread_mutex_lock(&m); }
static void maybe_unlock(void) { if (use_locks) pthread_mutex_unlock(&m); }

int by_a_global_flag(void) {
    maybe_lock();
    work();
    maybe_unlock();
    return 0;
}

static void with_flag_lock(struct s *s, int take) { if (take) pthread_mutex_lock(&s->lock); }

void by_an_argument(struct s *s) {
    with_flag_lock(s, 1);
    s_unlock(s);
    with_flag_lock(s, 0);
    s_lock(s);
    s_unlock(s);
}

static void descend(struct s *s, int depth) {
    if (depth == 0)
        return;
    pthread_mutex_lock(&s->lock);
    s->n++;
    pthread_mutex_unlock(&s->lock);
    descend(s, depth - 1);
}

static void deadlocks(struct s *s, int depth) {
    pthread_mutex_lock(&s->lock);
    if (depth)
        deadlocks(s, depth - 1); // expect: double-lock
    pthread_mutex_unlock(&s->lock);
}

void both(struct s *s) {
    descend(s, 3);
    deadlocks(s, 3);
}

void one_order(void) {
    pthread_mutex_lock(&first);
    pthread_mutex_lock(&second); // expect: lock-order
    pthread_mutex_unlock(&second);
    pthread_mutex_unlock(&first);
}

static void takes_first(void) {
    pthread_mutex_lock(&first);
    pthread_mutex_unlock(&first);
}

void other_order(void) {
    pthread_mutex_lock(&second);
    takes_first();
    pthread_mutex_unlock(&second);
}

void no_inversion(void) {
    pthread_mutex_lock(&first);
    pthread_mutex_lock(&third);
    pthread_mutex_unlock(&third);
    pthread_mutex_unlock(&first);
}

int waits(void) {
    pthread_mutex_lock(&m);
    while (!test())
        pthread_cond_wait(&cond, &m);
    pthread_mutex_unlock(&m);
    pthread_cond_wait(&cond, &m); // expect: wait-unlocked
    return 0;
}

static pthread_spinlock_t spin;
static void sleeps_deep(void) { sleep(1); }

void sleeps_under_a_spin_lock(void) {
    pthread_spin_lock(&spin);
    sleeps_deep(); // expect: forbidden-call
    pthread_spin_unlock(&spin);
    sleeps_deep();
}

pthread_mutex_t *lock_of(struct s *s);

void named_by_a_call(struct s *s) {
    pthread_mutex_lock(lock_of(s));
    work();
    pthread_mutex_unlock(lock_of(s));
}

static int take_if_needed(void) {
    if (test()) {
        pthread_mutex_lock(&m);
        return 1;
    }
    return 0;
}

void gathered_flag(void) {
    int taken = 0;
    taken |= take_if_needed();
    work();
    if (taken)
        pthread_mutex_unlock(&m);
}

// A lock that is taken and released deeper down must be free here.
static void raise_error(struct s *s, int code) {
    if (s) {
        pthread_mutex_lock(&s->lock);
        s->n = code;
        pthread_mutex_unlock(&s->lock);
    }
}
static void report_error(struct s *s) { raise_error(s, 1); }
static void report_two(struct s *s) { report_error(s); }

int reports_under_its_lock(struct s *s) {
    pthread_mutex_lock(&s->lock);
    if (s->n)
        report_two(s); // expect: double-lock
    pthread_mutex_unlock(&s->lock);
    report_two(s);
    return 0;
}

struct shared { pthread_rwlock_t lock; int n; };
static int count(struct shared *s) {
    int n;
    pthread_rwlock_rdlock(&s->lock);
    n = s->n;
    pthread_rwlock_unlock(&s->lock);
    return n;
}
static int count_more(struct shared *s) { return count(s) + 1; }

int shared_twice(struct shared *s) {
    int n;
    pthread_rwlock_rdlock(&s->lock);
    n = count_more(s);
    pthread_rwlock_unlock(&s->lock);
    return n;
}

int shared_under_exclusive(struct shared *s) {
    int n;
    pthread_rwlock_wrlock(&s->lock);
    n = count_more(s); // expect: double-lock
    pthread_rwlock_unlock(&s->lock);
    return n;
}
